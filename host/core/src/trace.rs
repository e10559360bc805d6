//! Trace context: which distributed trace a call belongs to, as in the W3C Recommendation
//! [Trace Context](https://www.w3.org/TR/trace-context/).

use std::fmt;
use std::iter::repeat_with;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;
use std::sync::Arc;
use uuid::Uuid;

/// The maximum length of a `tracestate`, in bytes. The Recommendation requires to pass on as much.
pub const TRACE_STATE_BYTES_MAX: usize = 512;
/// The maximum number of members of a `tracestate`.
pub const TRACE_STATE_MEMBERS_MAX: usize = 32;

/// The length of a `traceparent` of version 00, in bytes.
const PARENT_BYTES: usize = 55;
/// Members of a `tracestate` over this length, in bytes, are the first to be left out of one that
/// is too long.
const LARGE_MEMBER_BYTES: usize = 128;
/// The length of an encoded context without its `tracestate`, in bytes.
const FIXED_BYTES: usize = 16 + 8 + 1;
/// The only flag that the Recommendation defines.
const SAMPLED: u8 = 1;

/// The identity of a trace. Displayed as 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// Returns the trace with these bytes; `None` if all are zero.
    pub fn of_uuid(id: Uuid) -> Option<TraceId> {
        NonZeroU128::new(id.as_u128()).map(TraceId)
    }

    /// Returns its bytes as a UUID: for a trace that the host has started, the request's id.
    pub fn uuid(self) -> Uuid {
        Uuid::from_u128(self.0.get())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Accepts 32 hexadecimal digits, or a UUID, such as the id of a request whose trace the host has
/// started.
impl FromStr for TraceId {
    type Err = ();

    fn from_str(text: &str) -> Result<TraceId, ()> {
        let id = Uuid::try_parse(text).map_err(drop)?;
        TraceId::of_uuid(id).ok_or(())
    }
}

/// The place of a call in a distributed trace: the trace, the span of the call, and what tracing
/// systems have added (`tracestate`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: NonZeroU64,
    sampled: bool,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// Parses the headers of a request: the value of `traceparent`, and those of `tracestate`, which
    /// count as one list. The result is the span of the sender; the receiver's own is a
    /// [child](TraceContext::child) of it.
    ///
    /// Returns `None` if `traceparent` is invalid: then `tracestate` is not read either. Of a later
    /// version only the fields of version 00 are kept. A `tracestate` that is invalid or has more
    /// than [`TRACE_STATE_MEMBERS_MAX`] members is dropped. From one that is longer than
    /// [`TRACE_STATE_BYTES_MAX`], members are removed until it is not: those over 128 bytes first,
    /// then the last ones.
    pub fn parse<'s>(
        parent: &[u8],
        state: impl IntoIterator<Item = &'s [u8]>,
    ) -> Option<TraceContext> {
        let (trace_id, span_id, sampled) = parse_parent(parent)?;
        Some(TraceContext {
            trace_id,
            span_id,
            sampled,
            state: parse_state(state),
        })
    }

    /// Starts a trace, which has the id of the request or event that it begins with, or a random one
    /// if that is nil. It is not marked as sampled.
    pub fn root(id: Uuid) -> TraceContext {
        let trace_id = TraceId::of_uuid(id);
        TraceContext {
            trace_id: trace_id.unwrap_or_else(|| TraceId(random(NonZeroU128::new))),
            span_id: new_span(),
            sampled: false,
            state: None,
        }
    }

    /// Returns a new span of the same trace, which this one caused.
    #[must_use]
    pub fn child(&self) -> TraceContext {
        TraceContext {
            span_id: new_span(),
            ..self.clone()
        }
    }

    /// Returns another span of the same trace.
    #[must_use]
    pub fn with_span(&self, span_id: NonZeroU64) -> TraceContext {
        TraceContext {
            span_id,
            ..self.clone()
        }
    }

    /// Returns the identity of the trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// Returns the identity of this span within its trace.
    pub fn span_id(&self) -> NonZeroU64 {
        self.span_id
    }

    /// Whether the trace is recorded: the flag of `traceparent`.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Sets whether the trace is recorded.
    pub fn set_sampled(&mut self, sampled: bool) {
        self.sampled = sampled;
    }

    /// Returns the id of a new span. It identifies, and is no secret.
    pub fn new_span_id() -> NonZeroU64 {
        new_span()
    }

    /// Returns the `traceparent` of what this span causes. It has version 00.
    pub fn parent(&self) -> String {
        let flags = u8::from(self.sampled);
        format!("00-{}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }

    /// Returns the `tracestate` of what this span causes, if there is one. It is a valid value of the
    /// header.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Encodes it for a store, as [`encoded_len`](TraceContext::encoded_len) bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        bytes.extend_from_slice(&self.trace_id.0.get().to_be_bytes());
        bytes.extend_from_slice(&self.span_id.get().to_be_bytes());
        bytes.push(u8::from(self.sampled));
        bytes.extend_from_slice(self.state().unwrap_or_default().as_bytes());
        bytes
    }

    /// Returns the length of its encoding: 25 bytes and those of its `tracestate`.
    pub fn encoded_len(&self) -> usize {
        FIXED_BYTES + self.state().map_or(0, str::len)
    }

    /// Decodes bytes of a store; `None` if [`encode`](TraceContext::encode) did not make them.
    pub fn decode(bytes: &[u8]) -> Option<TraceContext> {
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (span_id, rest) = rest.split_first_chunk()?;
        let (flags, state) = rest.split_first()?;
        Some(TraceContext {
            trace_id: TraceId(NonZeroU128::new(u128::from_be_bytes(*trace_id))?),
            span_id: NonZeroU64::new(u64::from_be_bytes(*span_id))?,
            sampled: *flags & SAMPLED != 0,
            state: match state {
                [] => None,
                state => Some(parse_state([state])?),
            },
        })
    }
}

/// Returns a new span id. It identifies, and is no secret.
fn new_span() -> NonZeroU64 {
    // Both halves, since each has fixed bits.
    random(|id| NonZeroU64::new((id >> 64) as u64 ^ id as u64))
}

fn random<T>(convert: impl Fn(u128) -> Option<T>) -> T {
    let mut ids = repeat_with(|| Uuid::new_v4().as_u128());
    loop {
        if let Some(id) = ids.next().and_then(&convert) {
            return id;
        }
    }
}

fn parse_parent(text: &[u8]) -> Option<(TraceId, NonZeroU64, bool)> {
    let (known, rest) = text.split_at_checked(PARENT_BYTES)?;
    let mut fields = known.split(|byte| *byte == b'-');
    let mut next = |digits| hex(fields.next()?, digits);
    let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let is_known = match (version, rest.first()) {
        (0xff, _) => false,
        (_, None) => true,
        // A later version may have more fields.
        (version, Some(next)) => version > 0 && *next == b'-',
    };
    let trace_id = TraceId(NonZeroU128::new(trace_id)?);
    let span_id = NonZeroU64::new(u64::try_from(span_id).ok()?)?;
    is_known.then_some((trace_id, span_id, flags & u128::from(SAMPLED) != 0))
}

/// Returns the value of exactly so many lower-case hexadecimal digits, at most 32.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let add = |number: u128, byte| Some(number << 4 | u128::from(digit(byte)?));
    (text.len() == digits).then(|| text.iter().try_fold(0, add))?
}

/// Parses the values of `tracestate`. Returns `None` if there is none, or it is invalid.
fn parse_state<'s>(values: impl IntoIterator<Item = &'s [u8]>) -> Option<Arc<str>> {
    let mut members: Vec<&str> = Vec::new();
    for value in values {
        for member in std::str::from_utf8(value).ok()?.split(',') {
            let member = member.trim_matches([' ', '\t']);
            // Lists may have empty members.
            if member.is_empty() {
                continue;
            }
            let key = key_of_member(member)?;
            if members.len() == TRACE_STATE_MEMBERS_MAX {
                return None;
            }
            // One for each key: the first is the latest.
            if !members
                .iter()
                .any(|other| key_of_member(other) == Some(key))
            {
                members.push(member);
            }
        }
    }
    shorten(&mut members);
    (!members.is_empty()).then(|| members.join(",").into())
}

/// Removes members until the list has at most [`TRACE_STATE_BYTES_MAX`] bytes.
fn shorten(members: &mut Vec<&str>) {
    let is_large = |member: &&str| member.len() > LARGE_MEMBER_BYTES;
    let len = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    // Without a comma after the last one.
    while len(members) > TRACE_STATE_BYTES_MAX + 1 {
        match members.iter().rposition(is_large) {
            Some(at) => drop(members.remove(at)),
            None => drop(members.pop()),
        }
    }
}

/// Returns the key of a member of `tracestate`; `None` if the member is invalid.
fn key_of_member(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=')?;
    let is_value = (1..=256).contains(&value.len())
        && !value.ends_with(' ')
        && value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~' if byte != b'=' && byte != b','));
    let starts = |part: &str, digit: bool| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || (digit && c.is_ascii_digit()))
    };
    let is_key = match key.split_once('@') {
        None => starts(key, false) && is_key_part(key, 256),
        Some((tenant, system)) => {
            starts(tenant, true)
                && is_key_part(tenant, 241)
                && starts(system, false)
                && is_key_part(system, 14)
        }
    };
    (is_key && is_value).then_some(key)
}

fn is_key_part(part: &str, max: usize) -> bool {
    let is_char = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    part.len() <= max && part.bytes().all(is_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parent(text: &str) -> Option<String> {
        TraceContext::parse(text.as_bytes(), []).map(|context| context.parent())
    }

    fn state(values: &[&str]) -> Option<String> {
        let values = values.iter().map(|value| value.as_bytes());
        let context = TraceContext::parse(PARENT.as_bytes(), values).unwrap();
        context.state().map(str::to_owned)
    }

    #[test]
    fn valid_traceparent_is_kept() {
        assert_eq!(parent(PARENT).as_deref(), Some(PARENT));
        let unsampled = PARENT.replace("-01", "-00");
        assert_eq!(parent(&unsampled), Some(unsampled));
    }

    #[test]
    fn undefined_trace_flags_are_cleared() {
        for (given, kept) in [("ff", "01"), ("02", "00"), ("03", "01"), ("fe", "00")] {
            let given = PARENT.replace("-01", &format!("-{given}"));
            let kept = PARENT.replace("-01", &format!("-{kept}"));
            assert_eq!(parent(&given), Some(kept), "{given}");
        }
    }

    #[test]
    fn fields_of_version_00_are_read_from_a_later_version() {
        for version in ["01", "cc", "fe"] {
            for more in ["", "-", "-what-the-future-will-be-like", "-\u{e9}"] {
                let text = format!("{version}{}{more}", PARENT.get(2..).unwrap());
                assert_eq!(parent(&text).as_deref(), Some(PARENT), "{text}");
            }
            // Too short, or more that does not start with a dash.
            let known = format!("{version}{}", PARENT.get(2..).unwrap());
            assert_eq!(parent(known.get(..54).unwrap()), None);
            assert_eq!(parent(&format!("{known}.what")), None);
        }
    }

    #[test]
    fn invalid_traceparent_is_rejected() {
        let zeros = |digits: usize| "0".repeat(digits);
        let more = [
            PARENT.replace(TRACE, &zeros(32)),
            PARENT.replace("00f067aa0ba902b7", &zeros(16)),
            PARENT.to_uppercase(),
            PARENT.replace("4bf9", "4BF9"),
            PARENT.replacen("00-", "ff-", 1),
            PARENT.replacen("00-", "0x-", 1),
            PARENT.replace("4bf9", "4bg9"),
            PARENT.replace("4bf9", "+bf9"),
            PARENT.replace("-01", "-0x"),
            PARENT.replace('-', "_"),
            PARENT.replace("36-00", "3-600"),
            format!("{PARENT}-"),
            format!("{PARENT}-00"),
            format!("{PARENT} "),
            format!(" {PARENT}"),
            format!("{PARENT},{PARENT}"),
            PARENT.get(..54).unwrap().to_owned(),
            String::new(),
            "-".repeat(55),
            "\u{e9}".repeat(28),
        ];
        for text in more {
            assert_eq!(parent(&text), None, "{text:?}");
        }
    }

    #[test]
    fn tracestate_headers_are_one_list() {
        assert_eq!(state(&[]), None);
        assert_eq!(state(&["", " ,\t, "]), None);
        let values = ["a=1, b/x=2 ,", "\tt1@sys= 3=".trim_end_matches('='), "c=~"];
        assert_eq!(state(&values).as_deref(), Some("a=1,b/x=2,t1@sys= 3,c=~"));
        // The first member of a key is the latest.
        assert_eq!(state(&["a=1,b=2", "a=3"]).as_deref(), Some("a=1,b=2"));
    }

    #[test]
    fn invalid_tracestate_is_dropped_without_its_trace() {
        let long = |len: usize| "k".repeat(len);
        assert!(state(&[&format!("{}=1", long(256))]).is_some());
        assert!(state(&[&format!("{}@{}=1", long(241), long(14))]).is_some());
        for invalid in [
            "a",
            "a=",
            "=1",
            "A=1",
            "1=1",
            "a b=1",
            "a.b=1",
            "@a=1",
            "a@=1",
            "a@@b=1",
            "a@b@c=1",
            "a@1=1",
            "a=1=2",
            "a=\u{e9}",
            "a=\u{7f}",
            "a=\t1",
            "ok=1;b=2=3",
        ] {
            assert_eq!(state(&["good=1", invalid]), None, "{invalid}");
        }
        for invalid in [
            format!("{}=1", long(257)),
            format!("{}@a=1", long(242)),
            format!("a@{}=1", long(15)),
            format!("a={}", long(257)),
        ] {
            assert_eq!(state(&[&invalid]), None, "{invalid}");
        }
        let bytes = TraceContext::parse(PARENT.as_bytes(), [b"a=\xff".as_slice()]).unwrap();
        assert_eq!(bytes.state(), None);
    }

    #[test]
    fn tracestate_keeps_at_most_32_members_of_512_bytes() {
        let members = |count: usize| {
            let all: Vec<_> = (0..count).map(|at| format!("k{at}=1")).collect();
            all.join(",")
        };
        assert_eq!(state(&[&members(32)]), Some(members(32)));
        assert_eq!(state(&[&members(33)]), None);

        // 512 bytes fit; of more, the large members go first, then the last ones.
        let sized = |key: &str, len: usize| format!("{key}={}", "v".repeat(len - key.len() - 1));
        let all = |lens: &[(&str, usize)]| {
            let all: Vec<_> = lens.iter().map(|(key, len)| sized(key, *len)).collect();
            all.join(",")
        };
        let fits = all(&[("a", 128), ("b", 128), ("c", 128), ("d", 125)]);
        assert_eq!(fits.len(), 512);
        assert_eq!(state(&[&fits]), Some(fits));
        let over = all(&[("a", 128), ("b", 128), ("c", 128), ("d", 126)]);
        let kept = all(&[("a", 128), ("b", 128), ("c", 128)]);
        assert_eq!(state(&[&over]), Some(kept));
        let large = all(&[("a", 129), ("b", 128), ("c", 200), ("d", 128), ("e", 9)]);
        let kept = all(&[("a", 129), ("b", 128), ("d", 128), ("e", 9)]);
        assert_eq!(state(&[&large]), Some(kept));
    }

    #[test]
    fn child_has_another_span_of_the_same_trace() {
        let values = [b"a=1".as_slice()];
        let context = TraceContext::parse(PARENT.as_bytes(), values).unwrap();
        let child = context.child();
        assert_eq!(child.trace_id(), context.trace_id());
        assert_eq!(child.state(), Some("a=1"));
        assert!(child.parent().ends_with("-01"), "still sampled");
        assert_ne!(child.parent(), context.parent());
        assert_ne!(child.parent(), context.child().parent());
    }

    #[test]
    fn root_has_the_id_of_its_request() {
        let id = Uuid::now_v7();
        let root = TraceContext::root(id);
        assert_eq!(root.trace_id().uuid(), id);
        assert_eq!(root.trace_id().to_string(), id.simple().to_string());
        assert_eq!(id.to_string().parse(), Ok(root.trace_id()));
        assert!(root.parent().ends_with("-00"));
        assert_eq!(parent(&root.parent()), Some(root.parent()));
        // A client may send any request id.
        let nil = TraceContext::root(Uuid::nil());
        assert_eq!(parent(&nil.parent()), Some(nil.parent()));
        assert_eq!("0".repeat(32).parse::<TraceId>(), Err(()));
    }

    #[test]
    fn encoded_context_decodes_to_the_same() {
        let parent = PARENT.as_bytes();
        for values in [vec![], vec![b"a=1,b=2".as_slice()]] {
            let context = TraceContext::parse(parent, values).unwrap();
            let bytes = context.encode();
            assert_eq!(bytes.len(), context.encoded_len());
            assert_eq!(TraceContext::decode(&bytes), Some(context));
            for damaged in [
                &bytes[..24],
                &[0; 25],
                b"",
                &[&bytes[..], b","].concat()[1..24],
            ] {
                assert_eq!(TraceContext::decode(damaged), None);
            }
        }
    }
}
