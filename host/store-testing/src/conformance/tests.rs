//! The macro lists all properties.

/// A property missing from the macro would never run.
#[test]
fn every_property_is_listed_in_the_macro() {
    let this = include_str!("mod.rs");
    let sources = [
        include_str!("apps.rs"),
        include_str!("increments.rs"),
        include_str!("linearizable.rs"),
        include_str!("get_many.rs"),
        include_str!("triggers.rs"),
        include_str!("deliveries.rs"),
        include_str!("dispatchers.rs"),
        include_str!("dead_letters.rs"),
        include_str!("schedules.rs"),
        include_str!("event_limits.rs"),
        include_str!("app_deletion.rs"),
        include_str!("app_settings.rs"),
        include_str!("surveys.rs"),
        include_str!("expiry_sweep.rs"),
        include_str!("audit.rs"),
        include_str!("generations.rs"),
        include_str!("batches.rs"),
        include_str!("checks.rs"),
        include_str!("entries.rs"),
        include_str!("expiry.rs"),
        include_str!("json.rs"),
        include_str!("lists.rs"),
        include_str!("model.rs"),
        include_str!("plugin_races.rs"),
        include_str!("plugins.rs"),
        include_str!("quotas.rs"),
        include_str!("races.rs"),
        include_str!("long_lists.rs"),
        include_str!("settings.rs"),
        include_str!("tokens.rs"),
        include_str!("usage.rs"),
        include_str!("versions.rs"),
    ];
    let mut properties = 0;
    for line in sources.iter().flat_map(|source| source.lines()) {
        let Some(rest) = line.strip_prefix("pub async fn ") else {
            continue;
        };
        let name = rest.split('(').next().unwrap();
        assert!(
            this.contains(&format!(" {name},")),
            "{name} is not in `conformance!`"
        );
        properties += 1;
    }
    assert!(properties > 120, "only {properties} properties were found");
}
