//! Which traces are recorded.

use kvasm::service::SpanArrival;
use parking_lot::Mutex;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// The apps are divided into this many groups. What is for no known app is a group of its own.
const GROUPS: usize = 64;

/// The decision for a trace that begins here, and whether others' decisions are followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SamplerKind {
    /// The part of the traces to record, from 0 to 1.
    pub(super) ratio: f64,
    /// Whether a trace that began elsewhere is recorded if its flag says so.
    pub(super) parent_based: bool,
}

/// Samples traces, up to a rate of spans. The first half of the spans of a second are of those who
/// come first; of the other half each group of apps has an equal share. Once both are used up, traces
/// that begin in this second are not recorded; those that have begun are completed.
pub(super) struct Sampler {
    kind: SamplerKind,
    spans_per_second: u64,
    window: Mutex<RateWindow>,
}

struct RateWindow {
    since: Instant,
    all: u64,
    groups: [u64; GROUPS + 1],
}

impl Sampler {
    pub(super) fn new(kind: SamplerKind, spans_per_second: u64) -> Sampler {
        Sampler {
            kind,
            spans_per_second,
            window: Mutex::new(RateWindow {
                since: Instant::now(),
                all: 0,
                groups: [0; GROUPS + 1],
            }),
        }
    }

    pub(super) fn samples(&self, arrival: &SpanArrival<'_>) -> bool {
        let wanted = match self.kind.parent_based && arrival.is_continued {
            true => arrival.trace.is_sampled(),
            false => is_within(self.kind.ratio, arrival.trace.trace_id().uuid().as_u128()),
        };
        wanted && self.begin(arrival.app)
    }

    /// Counts the first span of a trace, if there is room for it.
    fn begin(&self, app: &str) -> bool {
        let mut window = self.window.lock();
        window.renew();
        let of_group = window.groups.get(group(app)).copied().unwrap_or_default();
        let free = (self.spans_per_second / 2).max(1);
        let share = self.spans_per_second / 2 / (GROUPS as u64 + 1);
        let has_room = window.all < free || of_group < share;
        if has_room {
            window.count(app);
        }
        has_room
    }

    /// Counts another span of a trace that has begun.
    pub(super) fn count(&self, app: &str) {
        let mut window = self.window.lock();
        window.renew();
        window.count(app);
    }
}

impl RateWindow {
    fn count(&mut self, app: &str) {
        self.all += 1;
        if let Some(count) = self.groups.get_mut(group(app)) {
            *count += 1;
        }
    }

    fn renew(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = RateWindow {
                since: now,
                all: 0,
                groups: [0; GROUPS + 1],
            };
        }
    }
}

fn group(app: &str) -> usize {
    if app.is_empty() {
        return GROUPS;
    }
    let mut hasher = DefaultHasher::new();
    app.hash(&mut hasher);
    (hasher.finish() % GROUPS as u64) as usize
}

/// Whether a trace is in the part to record. Its id is hashed: that of a trace which began here is a
/// UUID, of which some bits are fixed and others count.
fn is_within(ratio: f64, id: u128) -> bool {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    // 53 bits are exact in a float.
    let place = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
    place < ratio
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm::model::TraceContext;
    use uuid::Uuid;

    fn samples(sampler: &Sampler, flag: Option<bool>, app: &str) -> bool {
        let mut trace = TraceContext::root(Uuid::now_v7());
        trace.set_sampled(flag.unwrap_or_default());
        sampler.samples(&SpanArrival {
            trace: &trace,
            is_continued: flag.is_some(),
            app,
        })
    }

    #[test]
    fn flag_of_the_client_is_followed_only_if_parent_based() {
        let sampler = |ratio, parent_based| {
            let kind = SamplerKind {
                ratio,
                parent_based,
            };
            Sampler::new(kind, 1_000)
        };
        let flags = [None, Some(true), Some(false)];
        let of = |sampler: Sampler| flags.map(|flag| samples(&sampler, flag, ""));
        assert_eq!(of(sampler(1.0, true)), [true, true, false]);
        assert_eq!(of(sampler(0.0, true)), [false, true, false]);
        assert_eq!(of(sampler(1.0, false)), [true, true, true]);
        assert_eq!(of(sampler(0.0, false)), [false, false, false]);
    }

    #[test]
    fn ratio_holds_for_ids_of_requests() {
        let ids = std::iter::repeat_with(|| Uuid::now_v7().as_u128());
        let kept = ids.take(20_000).filter(|id| is_within(0.1, *id)).count();
        assert!((1_600..2_400).contains(&kept), "{kept}");
    }

    /// Begins traces until none is recorded, each of so many spans.
    fn flood(sampler: &Sampler, app: &str, spans: u64) -> usize {
        let flood = std::iter::from_fn(|| {
            let admitted = samples(sampler, Some(true), app);
            admitted.then(|| (1..spans).for_each(|_| sampler.count(app)))
        });
        flood.take(10_000).count()
    }

    fn sampler_of_an_hour(spans: u64) -> Sampler {
        let kind = SamplerKind {
            ratio: 1.0,
            parent_based: true,
        };
        let sampler = Sampler::new(kind, spans);
        // So that no window ends within the test.
        sampler.window.lock().since += Duration::from_secs(3_600);
        sampler
    }

    #[test]
    fn flood_of_one_app_leaves_room_for_others() {
        let sampler = sampler_of_an_hour(2_000);
        assert_eq!(flood(&sampler, "noisy", 10), 100);
        // The share of an app is 15 spans: two traces of 10.
        let mut names = (0..).map(|at| format!("quiet-{at}"));
        let quiet = names.find(|app| group(app) != group("noisy")).unwrap();
        assert_eq!(flood(&sampler, &quiet, 10), 2);
        assert_eq!(flood(&sampler, "noisy", 10), 0);
    }

    #[test]
    fn unknown_apps_share_one_group() {
        let sampler = sampler_of_an_hour(2_000);
        assert_eq!(flood(&sampler, "", 1), 1_000);
        assert_eq!(flood(&sampler, "", 1), 0);
        assert!(flood(&sampler, "quiet", 1) >= 15);
    }

    #[test]
    fn smallest_rate_records_one_trace() {
        let sampler = sampler_of_an_hour(1);
        assert_eq!(flood(&sampler, "a", 5), 1);
        assert_eq!(flood(&sampler, "b", 5), 0);
    }
}
