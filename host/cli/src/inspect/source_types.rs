//! The types and routes that a module's author wrote, from the custom section `kvasm.types.v1`. The
//! host does not read it: it is only what the module says of itself.

use crate::build::section::TYPES_SECTION;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use wasmparser::{Parser, Payload};

/// Maximum size of the sections together, in bytes; those after it are ignored.
const SECTIONS_BYTES_MAX: usize = 256 * 1024;
/// Maximum size of a type or a route, in bytes; a line with a longer one is ignored.
const TEXT_BYTES_MAX: usize = 1024;
/// Maximum number of routes of an export; a line with more is ignored.
const ROUTES_MAX: usize = 1_000;

/// The types of all exports that have some, by name.
#[derive(Debug, Default)]
pub(super) struct SourceTypes(BTreeMap<String, ExportTypes>);

/// What an export takes and returns, as written in the source.
#[derive(Debug, Deserialize)]
pub(super) struct ExportTypes {
    name: String,
    /// The type of the argument, if it takes one.
    input: Option<String>,
    /// The type that it returns, if any.
    output: Option<String>,
    /// Those of an HTTP handler, such as `GET /users/{id}`.
    #[serde(default)]
    routes: Vec<String>,
}

impl SourceTypes {
    /// Reads the section. What is malformed or too large is left out: nothing depends on it.
    pub(super) fn read(wasm: &[u8]) -> SourceTypes {
        let mut types = BTreeMap::new();
        let mut bytes = 0_usize;
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            let Payload::CustomSection(section) = payload else {
                continue;
            };
            if section.name() != TYPES_SECTION {
                continue;
            }
            bytes = bytes.saturating_add(section.data().len());
            if bytes > SECTIONS_BYTES_MAX {
                break;
            }
            let lines = section.data().split(|byte| *byte == b'\n');
            for line in lines {
                let export: Option<ExportTypes> = serde_json::from_slice(line).ok();
                if let Some(export) = export.filter(ExportTypes::fits) {
                    types.entry(export.name.clone()).or_insert(export);
                }
            }
        }
        SourceTypes(types)
    }

    /// Returns the types of an export.
    pub(super) fn of(&self, name: &str) -> Option<&ExportTypes> {
        self.0.get(name)
    }

    /// The types of an export on one line, `(INPUT) -> OUTPUT`; empty if none is known.
    pub(super) fn signature(&self, name: &str) -> String {
        self.of(name)
            .map(ExportTypes::signature)
            .unwrap_or_default()
    }
}

impl ExportTypes {
    fn fits(&self) -> bool {
        let texts = self.input.iter().chain(&self.output).chain(&self.routes);
        let mut texts = texts.map(String::len);
        self.routes.len() <= ROUTES_MAX && texts.all(|bytes| bytes <= TEXT_BYTES_MAX)
    }

    /// Adds what is known to the JSON of the export.
    pub(super) fn add_to(&self, members: &mut Map<String, Value>) {
        let routes = (!self.routes.is_empty()).then(|| json!(self.routes));
        for (name, value) in [
            ("input", self.input.as_ref().map(|text| json!(text))),
            ("output", self.output.as_ref().map(|text| json!(text))),
            ("routes", routes),
        ] {
            members.extend(value.map(|value| (name.to_owned(), value)));
        }
    }

    /// The method and the pattern of each route.
    pub(super) fn routes(&self) -> impl Iterator<Item = [String; 2]> {
        self.routes.iter().map(|route| {
            let (method, pattern) = route.split_once(' ').unwrap_or(("", route));
            [method.to_owned(), pattern.to_owned()]
        })
    }

    fn signature(&self) -> String {
        let input = self.input.as_deref().unwrap_or_default();
        match (&self.input, &self.output) {
            (None, None) => String::new(),
            (_, None) => format!("({input})"),
            (_, Some(output)) => format!("({input}) -> {output}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(sections: &[&[u8]]) -> Vec<u8> {
        let mut module = wasm_encoder::Module::new();
        for data in sections {
            module.section(&wasm_encoder::CustomSection {
                name: TYPES_SECTION.into(),
                data: (*data).into(),
            });
        }
        module.finish()
    }

    fn read(lines: &str) -> SourceTypes {
        SourceTypes::read(&module(&[lines.as_bytes()]))
    }

    #[test]
    fn types_are_read_and_what_is_malformed_is_left_out() {
        let lines = [
            &b"{\"name\":\"f\",\"input\":\"Json<A>\",\"new\":1}"[..],
            b"{\"name\":\"f\",\"input\":\"a second one\"}",
            b"{\"name\":\"i\",\"input\":1}",
            b"{\"name\":\"j\"",
            b"{\"name\":\"k\",\"input\":\"\xff\"}",
            b"\xff",
            b"{\"name\":\"h\",\"routes\":[\"GET /\"]}",
        ];
        let second = b"{\"name\":\"g\",\"output\":\"B\"}\n";
        let types = SourceTypes::read(&module(&[&lines.join(&b'\n'), second]));
        assert_eq!(types.signature("f"), "(Json<A>)");
        assert_eq!(types.signature("g"), "() -> B");
        assert_eq!(types.signature("h"), "");
        let routes = types.of("h").unwrap().routes().collect::<Vec<_>>();
        assert_eq!(routes, [["GET", "/"]]);
        assert_eq!(types.0.len(), 3, "{types:?}");
        for bad in ["", "no", "[]", "{}"] {
            assert!(read(bad).0.is_empty(), "{bad}");
        }
        assert!(SourceTypes::read(b"").0.is_empty());
        let full = module(&[second]);
        for length in 0..full.len() {
            assert!(SourceTypes::read(&full[..length]).0.is_empty());
        }
    }

    #[test]
    fn types_are_bounded() {
        let line = |member: String| format!("{{\"name\":\"f\",{member}}}");
        let text = |bytes| line(format!("\"input\":\"{}\"", "x".repeat(bytes)));
        let routes = |count| line(format!("\"routes\":[\"\"{}]", ",\"\"".repeat(count - 1)));
        assert_eq!(read(&text(TEXT_BYTES_MAX)).0.len(), 1);
        assert!(read(&text(TEXT_BYTES_MAX + 1)).0.is_empty());
        assert_eq!(read(&routes(ROUTES_MAX)).0.len(), 1);
        assert!(read(&routes(ROUTES_MAX + 1)).0.is_empty());
        let deep = line(format!("\"new\":{}", "[".repeat(100_000)));
        assert!(read(&deep).0.is_empty());
        let many = vec![b'\n'; SECTIONS_BYTES_MAX];
        let last = text(1);
        let types = SourceTypes::read(&module(&[&many, last.as_bytes()]));
        assert!(types.0.is_empty());
        let fitting = &many[last.len()..];
        let types = SourceTypes::read(&module(&[fitting, last.as_bytes()]));
        assert_eq!(types.0.len(), 1);
    }
}
