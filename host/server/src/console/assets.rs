//! The files of the console.

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{LazyLock, OnceLock};

const HTML: &str = "text/html; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// A file, with what is derived from it at its first request.
pub(super) struct Asset {
    name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: &'static [u8],
    digest: OnceLock<String>,
    gzip: OnceLock<Option<Vec<u8>>>,
}

/// Embeds files of `host/server/console`.
macro_rules! assets {
    ($($name:literal $kind:ident),* $(,)?) => {
        vec![$(Asset {
            name: $name,
            content_type: $kind,
            bytes: include_bytes!(concat!("../../console/", $name)),
            digest: OnceLock::new(),
            gzip: OnceLock::new(),
        }),*]
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets![
        "index.html" HTML,
        "icon.svg" SVG,
        "style.css" CSS,
        "theme.js" JS,
        "main.js" JS,
        "api.js" JS,
        "access.js" JS,
        "text.js" JS,
        "ui.js" JS,
        "values.js" JS,
        "overview.js" JS,
        "chart.js" JS,
        "apps.js" JS,
        "app.js" JS,
        "settings.js" JS,
        "versions.js" JS,
        "answer.js" JS,
        "call.js" JS,
        "calls.js" JS,
        "compare.js" JS,
        "logs.js" JS,
        "entries.js" JS,
        "entry.js" JS,
        "letters.js" JS,
        "request.js" JS,
        "transfer.js" JS,
        "triggers.js" JS,
        "watch.js" JS,
        "events.js" JS,
        "tokens.js" JS,
        "audit.js" JS,
        "vendor/preact.js" JS,
        "vendor/hooks.js" JS,
        "vendor/htm.js" JS,
        "vendor/uplot.js" JS,
        "vendor/uplot.css" CSS,
        "vendor/preact.LICENSE.txt" TEXT,
        "vendor/htm.LICENSE.txt" TEXT,
        "vendor/uplot.LICENSE.txt" TEXT,
    ]
});

/// Returns the file with this name.
pub(super) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

impl Asset {
    /// The SHA-256 of the content, shortened, in hexadecimal.
    pub(super) fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let digest = Sha256::digest(self.bytes);
            digest.iter().take(16).fold(String::new(), |mut hex, byte| {
                // Writing to a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            })
        })
    }

    /// The content compressed with gzip, unless that saves nothing. It is compressed once, and
    /// kept: all files together have less than 300 KB.
    pub(super) fn gzip(&'static self) -> Option<&'static [u8]> {
        let zipped = self.gzip.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(self.bytes).ok()?;
            let zipped = encoder.finish().ok()?;
            (zipped.len() < self.bytes.len()).then_some(zipped)
        });
        zipped.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn files(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => files(&entry.path(), &format!("{name}/"), found),
                false => drop(found.insert(name)),
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
        let mut found = BTreeSet::new();
        files(&folder, "", &mut found);
        let embedded = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        assert_eq!(found, embedded);
        assert!(ASSETS.iter().map(|asset| asset.bytes.len()).sum::<usize>() < 300_000);
    }

    /// Text from the API is never parsed as HTML, and nothing is loaded from elsewhere.
    #[test]
    fn own_scripts_use_no_html_parser_and_no_other_host() {
        let own = ASSETS
            .iter()
            .filter(|asset| !asset.name.starts_with("vendor/"));
        for asset in own {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let banned = [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "dangerouslySet",
                "eval(",
                "new Function",
                "document.cookie",
                "sourceMapping",
                "https://",
            ];
            for word in banned {
                assert!(!text.contains(word), "{} contains {word}", asset.name);
            }
            // The only foreign URL is the name of a namespace.
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://"), "{}", asset.name);
            assert!(text.lines().count() <= 500, "{} is too long", asset.name);
        }
    }
}
