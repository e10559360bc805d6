//! How often the deliveries of declared triggers are tried.

use super::Kit;
use super::triggers::{declared, deploy};
use kvasm_core::DeclaredTrigger;

pub async fn declared_retries_follow_the_active_version(kit: Kit) {
    let app = kit.app().await;
    let retries = |attempts_max, age_max_ms| DeclaredTrigger {
        attempts_max,
        age_max_ms,
        ..declared("a", "c")
    };
    let of_operator = app.watch("b", "c").await.policy;
    let with_default = |name: &str| DeclaredTrigger {
        attempts_max: Some(2),
        ..declared(name, "c")
    };
    for (wasm, attempts, age_ms) in [
        ("one", Some(4), Some(60_000)),
        ("two", None, Some(1_000)),
        ("three", Some(100), None),
        ("four", None, None),
    ] {
        let triggers = vec![
            retries(attempts, age_ms),
            with_default("b"),
            with_default("z"),
        ];
        deploy(&app, wasm, triggers).await;
        let found: Vec<_> = app.triggers().await.iter().map(|t| t.policy).collect();
        let expected = retries(attempts, age_ms).policy();
        let other = with_default("z").policy();
        assert_eq!(found, [expected, of_operator, other], "{wasm}");
    }
}
