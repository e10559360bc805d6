//! Grants of an app, and deployments of plugins that need them.

use super::User;
use kvasm_tests::guests::{manifest, module_with};
use serde_json::json;

const NEEDS: [&str; 5] = [
    r#"{"kind":"function","name":"run"}"#,
    r#"{"kind":"http_origin","origin":"https://api.example.com"}"#,
    r#"{"kind":"secret","name":"key","required":true,"description":"of the API"}"#,
    r#"{"kind":"config","name":"retries","type":"integer","default":3}"#,
    r#"{"kind":"timers"}"#,
];

impl User {
    fn plugin(&self, name: &str, lines: &[&str]) -> String {
        let wasm = module_with("", &manifest(lines), "(i32.const 0)");
        let path = self.home.path().join(name);
        std::fs::write(&path, wasm).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn active(&self) -> serde_json::Value {
        let app = self.run(&["app", "show", "demo", "--json"]).json();
        app["plugin"]["version"].clone()
    }
}

#[test]
fn refused_deploy_uploads_the_version_and_says_what_to_do() {
    let user = User::with_app();
    let plain = user.plugin("plain.wasm", &NEEDS[..1]);
    let needy = user.plugin("needy.wasm", &NEEDS);
    user.ok(&["plugin", "deploy", "demo", &plain]);
    let refused = user.run(&["plugin", "deploy", "demo", &needy]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for expected in [
        "version 2 of demo is uploaded, but not active",
        "the grant http https://api.example.com",
        "the grant secret key",
        "the grant timers",
        "a value of the secret key",
        "kvasm plugin needs demo 2",
        "kvasm plugin activate demo 2",
    ] {
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    // Trying again adds no further version.
    user.fails(&["deploy", "demo", &needy], 2, "version 2 of demo is");
    assert_eq!(user.active(), 1);
    let needs = user.ok(&["plugin", "needs", "demo", "2"]);
    for expected in [
        "of the API",
        "required",
        "default 3",
        "config retries (integer)",
    ] {
        assert!(needs.contains(expected), "{needs}");
    }
    let activate = ["plugin", "activate", "demo", "2"];
    user.fails(&activate, 2, "the grant timers");
    user.ok(&["grant", "demo", "--all-of", "2"]);
    user.fails(&activate, 2, "a value of the secret key");
    let set = user.run_with(&["secret", "set", "demo", "key"], b"hunter2");
    assert_eq!(set.code, 0, "{}", set.stderr);
    user.ok(&activate);
    assert_eq!(user.active(), 2);
    // The active version may lack something later.
    user.ok(&["revoke", "demo", "timers"]);
    let again = user.run(&["deploy", "demo", &needy]);
    assert_eq!(again.code, 2, "{}", again.stderr);
    for expected in [
        "version 2 of demo is this module and stays active",
        "the grant timers",
    ] {
        assert!(again.stderr.contains(expected), "{}", again.stderr);
    }
    assert!(!again.stderr.contains("not active"), "{}", again.stderr);
    assert_eq!(user.active(), 2);
}

#[test]
fn deploy_prints_the_difference_of_permissions_and_can_grant_them() {
    let user = User::with_app();
    let set = user.run_with(&["secret", "set", "demo", "key"], b"hunter2");
    assert_eq!(set.code, 0, "{}", set.stderr);
    let needy = user.plugin("needy.wasm", &NEEDS);
    let deployed = user.ok(&["plugin", "deploy", "demo", &needy, "--grant-all"]);
    assert!(
        deployed.contains(
            "Version 1 of demo is active: run. New permissions: http https://api.example.com, \
             secret key, timers."
        ),
        "{deployed}"
    );
    let less = user.plugin("less.wasm", &NEEDS[..3]);
    let deployed = user.ok(&["plugin", "deploy", "demo", &less]);
    assert!(
        deployed.ends_with("No longer needed: timers.\n"),
        "{deployed}"
    );
    let again = user.ok(&["plugin", "deploy", "demo", &less]);
    assert_eq!(again, "Version 3 of demo is active: run.\n");
    let inactive = [
        "plugin",
        "deploy",
        "demo",
        &needy,
        "--no-activate",
        "--grant-all",
    ];
    let deployed = user.ok(&inactive);
    assert!(deployed.contains("is uploaded"), "{deployed}");
    assert_eq!(user.active(), 3);
}

#[test]
fn grants_are_added_listed_and_revoked() {
    let user = User::with_app();
    user.ok(&["grant", "demo", "http", "https://*.example.com:8443"]);
    user.ok(&["grant", "demo", "secret", "key"]);
    let again = user.ok(&["grant", "demo", "secret", "key"]);
    assert_eq!(again, "demo had granted it before: secret key.\n");
    let listed = user.run(&["grants", "demo", "--json"]).json();
    let grants: Vec<_> = listed.as_array().unwrap().iter().collect();
    assert_eq!(
        grants
            .iter()
            .map(|row| row["grant"].clone())
            .collect::<Vec<_>>(),
        [
            json!({ "kind": "http_origin", "origin": "https://*.example.com:8443" }),
            json!({ "kind": "secret", "name": "key" }),
        ]
    );
    user.ok(&["revoke", "demo", "secret", "key"]);
    let absent = ["revoke", "demo", "secret", "key"];
    user.fails(
        &absent,
        2,
        "demo does not grant secret key; `kvasm grants demo`",
    );
    let listed = user.ok(&["grants", "demo"]);
    assert!(!listed.contains("secret"), "{listed}");
    for (bad, words) in [
        (
            &["grant", "demo", "http"] as &[&str],
            "an origin is missing",
        ),
        (
            &["grant", "demo", "secret"],
            "the name of the secret is missing",
        ),
        (
            &["grant", "demo", "timers", "x"],
            "takes no further argument",
        ),
        (&["grant", "demo"], "required"),
        (
            &["grant", "demo", "timers", "--all-of", "1"],
            "cannot be used with",
        ),
        (
            &["grant", "demo", "http", "https://*.com"],
            "at least two labels",
        ),
        (&["grant", "demo", "--all-of", "7"], "no plugin version 7"),
        (&["grant", "nope", "timers"], "kvasm app create nope"),
    ] {
        user.fails(bad, 2, words);
    }
}
