//! What `kvasm new` makes for languages other than Rust: the example of the language, and a copy of its
//! package, so that nothing has to be downloaded.

use super::fill;
use super::name::{OF_GO, ReservedNames};

const README: &str = include_str!("../../templates/language.md.in");

/// A language other than Rust.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Starter {
    C,
    Go,
    AssemblyScript,
    Zig,
}

/// A file of a template, and its path below the plugin's folder.
type StarterFile = (&'static str, String);

macro_rules! package {
    ($folder:literal: $($file:literal),+) => {
        &[$((concat!("kvasm/", $file),
            include_str!(concat!("../../../../guest-sdk/", $folder, "/", $file)))),+]
    };
}

const C_PACKAGE: &[(&str, &str)] = package!("c": "kvasm.h", "kvasm_plugin.h", "kvasm_http.h");
const GO_PACKAGE: &[(&str, &str)] = package!("go": "go.mod", "kvasm.go", "kv.go", "http.go", "head.go",
    "json.go", "records.go", "host_wasm.go", "host_native.go");
const ASSEMBLYSCRIPT_PACKAGE: &[(&str, &str)] =
    package!("assemblyscript": "kvasm.ts", "http.ts", "host.ts", "transform.mjs");
const ZIG_PACKAGE: &[(&str, &str)] = package!("zig": "kvasm.zig", "host.zig", "records.zig", "batch.zig",
    "collection.zig", "http.zig");

impl Starter {
    /// The language, and the tools that it needs.
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Starter::C => (
                "C",
                "clang with wasm-ld (on Debian `apt-get install clang-19 lld-19`)",
            ),
            Starter::Go => ("Go", "Go 1.24 or newer"),
            Starter::AssemblyScript => (
                "AssemblyScript",
                "Node.js 20 or newer, and once `npm install` here",
            ),
            Starter::Zig => ("Zig", "Zig 0.17"),
        }
    }

    /// Names that a plugin in this language cannot have.
    pub(super) fn reserved_names(self) -> &'static [ReservedNames] {
        match self {
            Starter::Go => &OF_GO,
            Starter::C | Starter::AssemblyScript | Starter::Zig => &[],
        }
    }

    /// Returns the files of a plugin of this name.
    pub(super) fn files(self, name: &str) -> Vec<StarterFile> {
        let (language, tools) = self.texts();
        let readme = [("name", name), ("language", language), ("tools", tools)];
        let mut files = vec![
            ("README.md", fill(README, &readme)),
            (
                ".gitignore",
                "/build\n/node_modules\n/.zig-cache\n".to_owned(),
            ),
        ];
        let (package, own) = self.sources(name);
        files.extend(own);
        files.extend(
            package
                .iter()
                .map(|(path, text)| (*path, (*text).to_owned())),
        );
        files
    }

    fn sources(self, name: &str) -> (&'static [(&'static str, &'static str)], Vec<StarterFile>) {
        match self {
            Starter::C => {
                let flags = "--target=wasm32\n-ffreestanding\n-std=c11\n-mbulk-memory\n-Wall\n-Wextra\n-Ikvasm\n";
                let source = include_str!("../../../../examples/hello-c/hello.c");
                let own = [("compile_flags.txt", flags), ("plugin.c", source)];
                (
                    C_PACKAGE,
                    own.map(|(path, text)| (path, text.to_owned())).into(),
                )
            }
            Starter::Go => {
                let module = format!(
                    "module {name}\n\ngo 1.24\n\nrequire kvasm v0.0.0\n\nreplace kvasm => ./kvasm\n"
                );
                let declared = include_str!("../../../../examples/hello-go/kvasm.json");
                let source = include_str!("../../../../examples/hello-go/hello.go");
                let own = vec![
                    ("go.mod", module),
                    ("kvasm.json", declared.to_owned()),
                    ("plugin.go", source.to_owned()),
                ];
                (GO_PACKAGE, own)
            }
            Starter::AssemblyScript => {
                // The package is beside the source, not in the checkout.
                let here = |text: &str| text.replace("../../guest-sdk/assemblyscript/", "./kvasm/");
                let config =
                    include_str!("../../../../examples/hello-assemblyscript/asconfig.json");
                // It is named there as the compiler names files, without the folder that it runs in.
                let config = here(config).replace("abort=./", "abort=");
                // `kvasm build` names the transform: the compiler takes no path below its folder.
                let lines = config.lines().filter(|line| !line.contains("transform"));
                let config = lines.map(|line| format!("{line}\n")).collect();
                let source = include_str!("../../../../examples/hello-assemblyscript/plugin.ts");
                let package = include_str!("../../templates/package.json.in");
                let own = vec![
                    ("asconfig.json", config),
                    ("package.json", fill(package, &[("name", name)])),
                    ("plugin.ts", here(source)),
                ];
                (ASSEMBLYSCRIPT_PACKAGE, own)
            }
            Starter::Zig => {
                let source = include_str!("../../../../examples/hello-zig/plugin.zig");
                (ZIG_PACKAGE, vec![("plugin.zig", source.to_owned())])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_and_whole() {
        for starter in [
            Starter::C,
            Starter::Go,
            Starter::AssemblyScript,
            Starter::Zig,
        ] {
            let files = starter.files("notes");
            for (path, text) in &files {
                assert!(!text.contains("{{"), "{path}: {text}");
                assert!(!text.contains("guest-sdk"), "{path}");
            }
            assert!(files.iter().any(|(path, _)| path.starts_with("kvasm/")));
        }
    }
}
