//! The plugin under test: what its macros declare, read as a host reads the manifest.

use super::calendar::Calendar;
use super::registry::Declared;
use crate::sys::native::{DeclaredNeeds, Watch};
use serde::Deserialize;
use std::any::TypeId;
use std::collections::BTreeMap;

/// A line of the manifest. Members of later versions are ignored.
#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    transaction: bool,
    collection: Option<String>,
    #[serde(default)]
    prefix: String,
    on: Option<Vec<String>>,
    attempts_max: Option<u32>,
    age_max_ms: Option<i64>,
    schedule: Option<String>,
    #[serde(default)]
    origin: String,
    default: Option<serde_json::Value>,
}

/// How long the deliveries of a handler are retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retries {
    pub(super) attempts_max: u32,
    pub(super) age_max_ms: i64,
}

impl Default for Retries {
    /// 12 attempts in 24 hours.
    fn default() -> Retries {
        Retries {
            attempts_max: 12,
            age_max_ms: 24 * 60 * 60 * 1_000,
        }
    }
}

/// An export.
#[derive(Debug, Clone)]
pub(super) struct Export {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) is_transaction: bool,
    pub(super) run: fn() -> i32,
    pub(super) type_id: TypeId,
    place: (&'static str, u32),
}

/// The plugin.
#[derive(Default)]
pub(super) struct Plugin {
    pub(super) exports: BTreeMap<String, Export>,
    pub(super) watches: Vec<Watch>,
    /// By handler, of those that watch a collection.
    retries: BTreeMap<String, Retries>,
    pub(super) schedules: BTreeMap<String, Calendar>,
    pub(super) needs: DeclaredNeeds,
}

impl Plugin {
    /// Reads the declarations.
    ///
    /// # Errors
    /// Two exports of one name, two HTTP handlers, or a schedule that the harness cannot compute,
    /// with their places.
    pub(super) fn new(declared: &[Declared]) -> Result<Plugin, String> {
        let mut plugin = Plugin::default();
        for part in declared {
            let at = |why: String| format!("{}:{}: {why}", part.place.0, part.place.1);
            let line: Line = serde_json::from_str(part.line)
                .map_err(|error| at(format!("the declaration is malformed: {error}")))?;
            match part.function {
                Some((run, type_id)) => {
                    let export = Export {
                        name: line.name.clone(),
                        kind: line.kind.clone(),
                        is_transaction: line.transaction,
                        run,
                        type_id: type_id(),
                        place: part.place,
                    };
                    plugin.add(export).map_err(at)?;
                    plugin.add_trigger(line).map_err(at)?;
                }
                None => plugin.add_need(line),
            }
        }
        Ok(plugin)
    }

    fn add(&mut self, export: Export) -> Result<(), String> {
        let other = match export.kind.as_str() {
            "http" => self.http(),
            _ => None,
        };
        let other = other.or_else(|| self.exports.get(&export.name));
        if let Some(Export { place, name, .. }) = other {
            let (file, line) = place;
            return Err(match *name == export.name {
                true => format!("{name:?} is exported at {file}:{line} too"),
                false => format!("there is an HTTP handler at {file}:{line} too"),
            });
        }
        self.exports.insert(export.name.clone(), export);
        Ok(())
    }

    fn add_trigger(&mut self, line: Line) -> Result<(), String> {
        let is_on = |kind: &str| {
            line.on
                .as_ref()
                .is_none_or(|on| on.iter().any(|on| on == kind))
        };
        let (on_set, on_delete) = (is_on("set"), is_on("delete"));
        match (line.kind.as_str(), line.collection, line.schedule) {
            ("on_change", Some(collection), _) => {
                let default = Retries::default();
                let retries = Retries {
                    attempts_max: line.attempts_max.unwrap_or(default.attempts_max),
                    age_max_ms: line.age_max_ms.unwrap_or(default.age_max_ms),
                };
                self.retries.insert(line.name.clone(), retries);
                self.watches.push(Watch {
                    handler: line.name,
                    collection,
                    prefix: line.prefix,
                    on_set,
                    on_delete,
                });
            }
            ("cron", _, Some(schedule)) => {
                let calendar = Calendar::parse(&schedule)?;
                self.schedules.insert(line.name, calendar);
            }
            ("on_timer", ..) => self.needs.handles_timers = true,
            _ => {}
        }
        Ok(())
    }

    fn add_need(&mut self, line: Line) {
        let needs = &mut self.needs;
        match line.kind.as_str() {
            "http_origin" => needs.origins.push(line.origin),
            "secret" => drop(needs.secrets.insert(line.name)),
            "timers" => needs.timers = true,
            "config" => {
                let text = line.default.map(|value| match value {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                });
                needs.defaults.extend(text.map(|text| (line.name, text)));
            }
            _ => {}
        }
    }

    pub(super) fn http(&self) -> Option<&Export> {
        self.exports.values().find(|export| export.kind == "http")
    }

    /// Returns how long the deliveries of a handler are retried.
    pub(super) fn retries(&self, handler: &str) -> Retries {
        self.retries.get(handler).copied().unwrap_or_default()
    }

    pub(super) fn of_type(&self, type_id: TypeId) -> Option<&Export> {
        let mut exports = self.exports.values();
        exports.find(|export| export.type_id == type_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(line: &'static str, at: u32) -> Declared {
        Declared {
            line,
            function: Some((|| 0, TypeId::of::<u32>)),
            place: ("src/lib.rs", at),
        }
    }

    #[test]
    fn duplicate_exports_are_reported_with_both_places() {
        let two = |one, other| {
            let both = [declared(one, 3), declared(other, 9)];
            Plugin::new(&both).err().unwrap()
        };
        let a = r#"{"kind":"function","name":"a"}"#;
        let found = two(a, r#"{"kind":"http","name":"a"}"#);
        assert_eq!(found, "src/lib.rs:9: \"a\" is exported at src/lib.rs:3 too");
        let found = two(
            r#"{"kind":"http","name":"a"}"#,
            r#"{"kind":"http","name":"b"}"#,
        );
        let expected = "src/lib.rs:9: there is an HTTP handler at src/lib.rs:3 too";
        assert_eq!(found, expected);
        let found = two(a, r#"{"kind":"cron","name":"b","schedule":"0 0 1W * *"}"#);
        assert!(found.starts_with("src/lib.rs:9: the harness does not support"));
    }
}
