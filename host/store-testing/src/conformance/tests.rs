//! That the macro is complete.

/// A property missing from the macro would never run.
#[test]
fn every_property_is_listed_in_the_macro() {
    let this = include_str!("properties.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/conformance");
    let files = std::fs::read_dir(folder).unwrap();
    let sources = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let sources: Vec<_> = sources.collect();
    let mut properties = 0;
    for line in sources.iter().flat_map(|source| source.lines()) {
        let property = line.strip_prefix("pub async fn ");
        let Some((name, _)) = property.and_then(|line| line.split_once("(kit: Kit)")) else {
            continue;
        };
        assert!(
            this.contains(&format!(" {name},")),
            "{name} is not in `conformance!`"
        );
        properties += 1;
    }
    assert!(properties > 120, "only {properties} properties were found");
}
