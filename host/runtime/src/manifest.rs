//! A plugin's declarations: the custom section `kvasm.plugin.v1`.

use kvasm_core::{
    Changes, Collection, ConfigType, DeclaredTrigger, OriginPattern, Schedule, SettingName,
    TIMER_TRIGGER, TriggerName, Watch, timer_declaration,
};
use serde::Deserialize;

/// Maximum size of the section, in bytes.
const SECTION_BYTES_MAX: usize = 256 * 1024;

/// One declaration. Unknown kinds are rejected, so that a plugin never runs without a feature
/// that it depends on.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Declaration {
    /// A callable function.
    Function {
        /// The export's name.
        name: String,
        /// Whether its writes are one commit, checked against its reads.
        #[serde(default)]
        transaction: bool,
    },
    /// The HTTP handler. At most one.
    Http {
        /// The export's name.
        name: String,
        /// As of a function.
        #[serde(default)]
        transaction: bool,
    },
    /// A handler of changes of entries: of a collection, or of an operator's triggers.
    OnChange {
        /// The export's name.
        name: String,
        /// The collection that it watches, if declared.
        collection: Option<Collection>,
        /// Limits it to keys with this prefix.
        prefix: Option<String>,
        /// Limits it to these kinds of changes.
        on: Option<Vec<DeclaredChange>>,
        /// The maximum number of attempts of its trigger.
        attempts_max: Option<u32>,
        /// The maximum age of a failed delivery of its trigger, in milliseconds.
        age_max_ms: Option<u64>,
    },
    /// A handler of a schedule.
    Cron {
        /// The export's name.
        name: String,
        /// Its schedule.
        schedule: Schedule,
    },
    /// The handler of timers.
    OnTimer {
        /// The export's name.
        name: String,
    },
    /// Requests to the origins of a pattern.
    HttpOrigin {
        /// The pattern.
        origin: OriginPattern,
    },
    /// A configuration value.
    Config {
        /// Its name.
        name: SettingName,
        /// Its type.
        #[serde(rename = "type")]
        kind: ConfigType,
        /// Whether it must be set.
        #[serde(default)]
        required: bool,
        /// Its value while it is not set.
        default: Option<serde_json::Value>,
        /// What it is for.
        description: Option<String>,
    },
    /// A secret.
    Secret {
        /// Its name.
        name: SettingName,
        /// Whether it must be set.
        #[serde(default)]
        required: bool,
        /// What it is for.
        description: Option<String>,
    },
    /// Timers. With braces, so that unknown members are rejected.
    Timers {},
}

/// A kind of change.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeclaredChange {
    /// An entry was written.
    Set,
    /// An entry was deleted.
    Delete,
}

impl Declaration {
    /// Returns the trigger that it declares, if any, or an error if it is invalid.
    pub(super) fn trigger(&self) -> Result<Option<DeclaredTrigger>, String> {
        let (name, watch) = match self {
            Declaration::Function { .. }
            | Declaration::Http { .. }
            | Declaration::HttpOrigin { .. }
            | Declaration::Config { .. }
            | Declaration::Secret { .. }
            | Declaration::Timers {} => return Ok(None),
            Declaration::OnChange {
                name,
                collection,
                prefix,
                on,
                attempts_max,
                age_max_ms,
            } => match (collection, prefix, on, attempts_max, age_max_ms) {
                (None, None, None, None, None) => return Ok(None),
                (None, ..) => {
                    return Err(format!(
                        "{name:?} has a prefix, kinds or retries but no collection"
                    ));
                }
                (Some(collection), prefix, on, ..) => {
                    let is_on = |kind| on.as_ref().is_none_or(|on| on.contains(&kind));
                    let changes = Changes {
                        collection: collection.clone(),
                        prefix: prefix.clone().unwrap_or_default(),
                        set: is_on(DeclaredChange::Set),
                        delete: is_on(DeclaredChange::Delete),
                    };
                    if !changes.set && !changes.delete {
                        return Err(format!("{name:?} matches no kind of change"));
                    }
                    (name, Watch::Changes(changes))
                }
            },
            Declaration::OnTimer { name } if name != TIMER_TRIGGER => {
                return Err(format!(
                    "{name:?} handles timers; such a handler must be named {TIMER_TRIGGER:?}"
                ));
            }
            Declaration::OnTimer { .. } => return Ok(Some(timer_declaration())),
            Declaration::Cron { name, schedule } => (name, Watch::Schedule(schedule.clone())),
        };
        let name = TriggerName::parse(name).map_err(|e| e.to_string())?;
        let (attempts_max, age_max_ms) = match self {
            Declaration::OnChange {
                attempts_max,
                age_max_ms,
                ..
            } => (*attempts_max, *age_max_ms),
            _ => (None, None),
        };
        let declared = DeclaredTrigger {
            name,
            watch,
            attempts_max,
            age_max_ms,
        };
        declared.policy().check().map_err(|e| e.to_string())?;
        Ok(Some(declared))
    }
}

/// Parses a sequence of JSON objects.
pub(super) fn parse(section: &[u8]) -> Result<Vec<Declaration>, String> {
    if section.len() > SECTION_BYTES_MAX {
        return Err(format!(
            "it is {} bytes; the limit is {SECTION_BYTES_MAX}",
            section.len()
        ));
    }
    serde_json::Deserializer::from_slice(section)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}

/// Returns the trigger or error of each declaration in a section. Also collects its needs.
#[cfg(feature = "fuzzing")]
pub fn fuzz_declarations(
    section: &[u8],
) -> Result<Vec<Result<Option<DeclaredTrigger>, String>>, String> {
    let declarations = parse(section)?;
    let mut needs = super::needs::DeclaredNeeds::default();
    let added = declarations.iter().try_for_each(|line| needs.add(line));
    added.and_then(|()| needs.finish().map(drop)).ok();
    Ok(declarations.iter().map(Declaration::trigger).collect())
}

/// Returns the custom section of a module, if it exists. Reads only section headers.
pub fn section(wasm: &[u8]) -> Option<&[u8]> {
    const CUSTOM: u8 = 0;
    let mut rest = wasm.get(8..)?;
    while let Some((&id, tail)) = rest.split_first() {
        let (body, after) = sized(tail)?;
        if id == CUSTOM {
            let (name, content) = sized(body)?;
            if name == kvasm_abi::MANIFEST_SECTION.as_bytes() {
                return Some(content);
            }
        }
        rest = after;
    }
    None
}

/// Splits off a part with a LEB128 length prefix.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut len: u64 = 0;
    for (at, &byte) in bytes.iter().enumerate().take(5) {
        len |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes
                .get(at + 1..)?
                .split_at_checked(usize::try_from(len).ok()?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_declarations_are_concatenated() {
        let section =
            b"{\"kind\":\"function\",\"name\":\"a\"}\n{\"kind\":\"function\",\"name\":\"b\"}";
        let name = |name: &str| Declaration::Function {
            name: name.into(),
            transaction: false,
        };
        assert_eq!(parse(section), Ok(vec![name("a"), name("b")]));
        assert!(parse(b"{\"kind\":\"timer\",\"name\":\"a\"}").is_err());
        assert!(parse(b"{\"kind\":\"cron\",\"name\":\"a\"}").is_err());
        assert!(parse(b"{\"kind\":\"function\",\"name\":\"a\",\"x\":1}").is_err());
        assert!(parse(b"{").is_err());
        assert_eq!(parse(b" \n"), Ok(vec![]));
    }

    fn trigger(line: &str) -> Result<Option<DeclaredTrigger>, String> {
        let [declaration] = parse(line.as_bytes())?.try_into().unwrap();
        declaration.trigger()
    }

    #[test]
    fn trigger_declarations_include_what_they_watch() {
        let changes = |line| match trigger(line).unwrap().unwrap().watch {
            Watch::Changes(changes) => changes,
            Watch::Schedule(_) | Watch::Timers => panic!("not of changes"),
        };
        let all = changes(r#"{"kind":"on_change","name":"f","collection":"c"}"#);
        assert!(all.set && all.delete && all.prefix.is_empty());
        let some = changes(
            r#"{"kind":"on_change","name":"f","collection":"c","prefix":"a/","on":["delete"]}"#,
        );
        assert!(!some.set && some.delete && some.prefix == "a/");
        assert_eq!(trigger(r#"{"kind":"on_change","name":"f"}"#), Ok(None));
        assert_eq!(trigger(r#"{"kind":"function","name":"f"}"#), Ok(None));
        let cron = trigger(r#"{"kind":"cron","name":"t","schedule":"*/5 * * * *"}"#);
        assert!(matches!(cron.unwrap().unwrap().watch, Watch::Schedule(_)));
        let timers = trigger(r#"{"kind":"on_timer","name":"on_timer"}"#);
        assert_eq!(timers, Ok(Some(timer_declaration())));
        for bad in [
            r#"{"kind":"on_change","name":"f","collection":""}"#,
            r#"{"kind":"on_change","name":"f","prefix":"a"}"#,
            r#"{"kind":"on_change","name":"f","collection":"c","on":[]}"#,
            r#"{"kind":"on_change","name":"f","collection":"c","on":["read"]}"#,
            r#"{"kind":"on_change","name":"a b","collection":"c"}"#,
            r#"{"kind":"cron","name":"t","schedule":"never"}"#,
            r#"{"kind":"on_timer","name":"due"}"#,
        ] {
            assert!(trigger(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn manifest_section_is_found_among_others() {
        let wasm =
            wat::parse_str(r#"(module (@custom "x" "no") (@custom "kvasm.plugin.v1" "yes"))"#);
        assert_eq!(section(&wasm.unwrap()), Some(&b"yes"[..]));
        let none = wat::parse_str("(module)").unwrap();
        assert_eq!(section(&none), None);
        assert_eq!(section(b"\0asm\x01\0\0\0\x00\xff\xff\xff\xff\x7f"), None);
    }
}
