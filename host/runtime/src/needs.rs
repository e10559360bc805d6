//! What a plugin declares that it needs from its app.

use super::manifest::Declaration;
use kvasm_core::{
    ConfigNeed, ConfigType, ConfigValue, DESCRIPTION_BYTES_MAX, NEEDS_BYTES_MAX, NEEDS_MAX, Needs,
    OriginPattern, SecretNeed, SettingName, display_truncated,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Debug;

/// Collects the needs of a manifest. A need that is repeated in the same words counts once.
#[derive(Default)]
pub(super) struct DeclaredNeeds {
    http: BTreeMap<String, OriginPattern>,
    config: BTreeMap<SettingName, ConfigNeed>,
    secrets: BTreeMap<SettingName, SecretNeed>,
    timers: bool,
}

impl DeclaredNeeds {
    /// Adds the need of a declaration, if it is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn add(&mut self, declaration: &Declaration) -> Result<(), String> {
        match declaration {
            Declaration::HttpOrigin { origin } => {
                self.http.insert(origin.to_string(), origin.clone());
                Ok(())
            }
            Declaration::Config {
                name,
                kind,
                required,
                default,
                description,
            } => {
                let what = format!("the configuration value \"{name}\"");
                if *required && default.is_some() {
                    return Err(format!("{what} is required and has a default"));
                }
                check_description(&what, description.as_deref())?;
                let default = default.as_ref();
                let default = default.map(|value| default_text(&what, *kind, value));
                let need = ConfigNeed {
                    name: name.clone(),
                    kind: *kind,
                    required: *required,
                    default: default.transpose()?,
                    description: description.clone(),
                };
                insert(&what, &mut self.config, name, need)
            }
            Declaration::Secret {
                name,
                required,
                description,
            } => {
                let what = format!("the secret \"{name}\"");
                check_description(&what, description.as_deref())?;
                let need = SecretNeed {
                    name: name.clone(),
                    required: *required,
                    description: description.clone(),
                };
                insert(&what, &mut self.secrets, name, need)
            }
            // Who handles timers sets them.
            Declaration::Timers {} | Declaration::OnTimer { .. } => {
                self.timers = true;
                Ok(())
            }
            Declaration::Function { .. }
            | Declaration::Http { .. }
            | Declaration::OnChange { .. }
            | Declaration::Cron { .. } => Ok(()),
        }
    }

    /// Returns the needs.
    ///
    /// # Errors
    /// What exceeds its limit.
    pub(super) fn finish(self) -> Result<Needs, String> {
        let needs = Needs {
            http: self.http.into_values().collect(),
            config: self.config.into_values().collect(),
            secrets: self.secrets.into_values().collect(),
            timers: self.timers,
        };
        let (count, bytes) = (needs.len(), needs.bytes());
        if count > NEEDS_MAX {
            return Err(format!(
                "it declares {count} needs; the limit is {NEEDS_MAX}"
            ));
        }
        if bytes > NEEDS_BYTES_MAX {
            return Err(format!(
                "the needs that it declares are {bytes} bytes together; the limit is \
                 {NEEDS_BYTES_MAX}"
            ));
        }
        Ok(needs)
    }
}

fn insert<N: PartialEq + Debug>(
    what: &str,
    all: &mut BTreeMap<SettingName, N>,
    name: &SettingName,
    need: N,
) -> Result<(), String> {
    match all.entry(name.clone()) {
        Entry::Vacant(place) => {
            place.insert(need);
            Ok(())
        }
        Entry::Occupied(there) if *there.get() == need => Ok(()),
        Entry::Occupied(_) => Err(format!("it declares {what} twice, differently")),
    }
}

fn check_description(what: &str, description: Option<&str>) -> Result<(), String> {
    let Some(text) = description else {
        return Ok(());
    };
    if text.len() > DESCRIPTION_BYTES_MAX {
        return Err(format!(
            "the description of {what} is {} bytes; the limit is {DESCRIPTION_BYTES_MAX}",
            text.len()
        ));
    }
    match text.contains(char::is_control) {
        true => Err(format!("the description of {what} has a control character")),
        false => Ok(()),
    }
}

/// Returns a default as an administrator would set it.
fn default_text(what: &str, kind: ConfigType, value: &Value) -> Result<ConfigValue, String> {
    let text = match (kind, value) {
        (ConfigType::String, Value::String(text)) => text.clone(),
        (ConfigType::Integer | ConfigType::Number, Value::Number(number)) => number.to_string(),
        (ConfigType::Boolean, Value::Bool(value)) => value.to_string(),
        (ConfigType::Json, value) => value.to_string(),
        _ => String::new(),
    };
    let is_text = kind == ConfigType::String && value.is_string();
    if !is_text && (text.is_empty() || !kind.accepts(&text)) {
        let found = value.to_string();
        let found = display_truncated(&found, 64);
        return Err(format!(
            "the default of {what} is {found}, which is not of type {kind}"
        ));
    }
    ConfigValue::parse(text.as_bytes()).map_err(|error| format!("the default of {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::manifest;
    use super::*;

    fn needs(section: &str) -> Result<Needs, String> {
        let mut needs = DeclaredNeeds::default();
        for declaration in manifest::parse(section.as_bytes())? {
            needs.add(&declaration)?;
        }
        needs.finish()
    }

    fn refusal(section: &str) -> String {
        needs(section).expect_err(section)
    }

    #[test]
    fn needs_of_each_kind_are_parsed_sorted_and_merged() {
        let found = needs(
            r#"{"kind":"timers"} {"kind":"function","name":"f"}
            {"kind":"secret","name":"stripe-key","required":true,"description":"of Stripe"}
            {"kind":"http_origin","origin":"https://b.example.com:8443"}
            {"kind":"http_origin","origin":"https://*.example.com"}
            {"kind":"config","name":"retries","type":"integer","default":3}
            {"kind":"config","name":"mode","type":"string","required":true}
            {"kind":"secret","name":"stripe-key","required":true,"description":"of Stripe"}
            {"kind":"timers"} {"kind":"http_origin","origin":"https://*.example.com"}"#,
        )
        .unwrap();
        let origins: Vec<_> = found.http.iter().map(ToString::to_string).collect();
        assert_eq!(
            origins,
            ["https://*.example.com", "https://b.example.com:8443"]
        );
        let [mode, retries] = &found.config[..] else {
            panic!("{found:?}");
        };
        assert!(mode.required && mode.default.is_none());
        assert_eq!(retries.default.as_ref().unwrap().as_str(), "3");
        assert_eq!(found.secrets.len(), 1);
        assert!(found.timers);
        assert_eq!(found.len(), 6);
        assert_eq!(
            needs(r#"{"kind":"function","name":"f"}"#),
            Ok(Needs::default())
        );
        let stored = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Needs>(&stored).unwrap(), found);
    }

    #[test]
    fn handler_of_timers_needs_timers() {
        let found = needs(r#"{"kind":"on_timer","name":"on_timer"}"#).unwrap();
        assert_eq!(found.grants(), [kvasm_core::Grant::Timers]);
    }

    #[test]
    fn default_must_be_of_the_declared_type() {
        for (kind, good, text) in [
            ("string", r#""""#, ""),
            ("string", r#""a b""#, "a b"),
            ("integer", "-3", "-3"),
            ("integer", "18446744073709551615", "18446744073709551615"),
            ("number", "1.5", "1.5"),
            ("boolean", "false", "false"),
            ("json", r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            ("json", r#""x""#, r#""x""#),
        ] {
            let line =
                format!(r#"{{"kind":"config","name":"n","type":"{kind}","default":{good}}}"#);
            let found = needs(&line).expect(&line);
            assert_eq!(found.config[0].default.as_ref().unwrap().as_str(), text);
            assert!(found.config[0].kind.accepts(text), "{line}");
        }
        for (kind, bad) in [
            ("string", "1"),
            ("integer", "1.5"),
            ("integer", r#""1""#),
            ("integer", "1e30"),
            ("number", r#""1""#),
            ("boolean", "0"),
        ] {
            let line = format!(r#"{{"kind":"config","name":"n","type":"{kind}","default":{bad}}}"#);
            let why = refusal(&line);
            assert!(why.contains(&format!("not of type {kind}")), "{why}");
        }
    }

    #[test]
    fn invalid_or_contradictory_needs_are_refused() {
        for (bad, expected) in [
            (
                r#"{"kind":"config","name":"n","type":"string","required":true,"default":"x"}"#,
                "required and has a default",
            ),
            (
                r#"{"kind":"config","name":"n","type":"string"}{"kind":"config","name":"n","type":"json"}"#,
                "twice, differently",
            ),
            (
                r#"{"kind":"secret","name":"n"}{"kind":"secret","name":"n","required":true}"#,
                "twice, differently",
            ),
            (r#"{"kind":"secret","name":"a b"}"#, "contains ' '"),
            (r#"{"kind":"secret","name":""}"#, "is empty"),
            (
                r#"{"kind":"secret","name":"n","description":"a\nb"}"#,
                "control character",
            ),
            (
                r#"{"kind":"secret","name":"n","scope":"x"}"#,
                "unknown field",
            ),
            (r#"{"kind":"config","name":"n"}"#, "missing field"),
            (
                r#"{"kind":"config","name":"n","type":"date"}"#,
                "unknown variant",
            ),
            (r#"{"kind":"timers","most":3}"#, "unknown field"),
            (r#"{"kind":"http_origin","origin":"https://*"}"#, ""),
            (r#"{"kind":"http_origin","origin":"ftp://example.com"}"#, ""),
            (
                r#"{"kind":"http_origin","origin":"https://example.com/path"}"#,
                "",
            ),
        ] {
            let why = refusal(bad);
            assert!(why.contains(expected), "{bad}: {why}");
        }
        let long = "d".repeat(DESCRIPTION_BYTES_MAX + 1);
        let why = refusal(&format!(
            r#"{{"kind":"secret","name":"n","description":"{long}"}}"#
        ));
        assert!(why.contains("513 bytes; the limit is 512"), "{why}");
    }

    #[test]
    fn number_and_size_of_needs_are_bounded() {
        let secrets = |count: usize| {
            let lines = (0..count).map(|n| format!("{{\"kind\":\"secret\",\"name\":\"n{n}\"}}\n"));
            lines.collect::<String>()
        };
        assert_eq!(needs(&secrets(NEEDS_MAX)).unwrap().len(), NEEDS_MAX);
        let why = refusal(&secrets(NEEDS_MAX + 1));
        assert_eq!(why, "it declares 129 needs; the limit is 128");
        assert!(refusal(&secrets(7_000)).contains("7000 needs"));
        assert!(refusal(&secrets(10_000)).contains("bytes; the limit is"));
        // Lines that repeat a need count once.
        let same = "{\"kind\":\"timers\"}\n".repeat(10_000);
        assert_eq!(needs(&same).unwrap().len(), 1);
        let description = "d".repeat(DESCRIPTION_BYTES_MAX);
        let lines = (0..70)
            .map(|n| format!(r#"{{"kind":"secret","name":"n{n}","description":"{description}"}}"#));
        let why = refusal(&lines.collect::<String>());
        assert!(why.contains("together; the limit is 32768"), "{why}");
    }
}
