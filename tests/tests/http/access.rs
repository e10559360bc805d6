//! Every operation of the OpenAPI document, with every kind of caller.

use crate::openapi::{Access, Operation, document, operations};
use kvasm::model::{App, Scope, Timestamp};
use kvasm_tests::server::{ApiClient, ApiResponse, Server, answer};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The caller.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Caller {
    Nobody,
    Garbage,
    /// The id of a valid token with another secret.
    WrongSecret,
    Expired,
    Revoked,
    /// One scope, for every app.
    Of(Scope),
    /// One scope, for the requested app.
    OfOwn(Scope),
    /// Every scope, for the requested app.
    AllOfOwn,
    /// Every scope, for another app.
    AllOfOther,
}

fn all_callers() -> Vec<Caller> {
    let mut everyone = vec![
        Caller::Nobody,
        Caller::Garbage,
        Caller::WrongSecret,
        Caller::Expired,
        Caller::Revoked,
        Caller::AllOfOwn,
        Caller::AllOfOther,
    ];
    everyone.extend(Scope::ALL.map(Caller::Of));
    everyone.extend(Scope::ALL.map(Caller::OfOwn));
    everyone
}

/// The expected outcome.
#[derive(Debug, PartialEq)]
enum Outcome {
    Allowed,
    Unauthenticated,
    Forbidden,
}

impl Outcome {
    fn of(answer: &ApiResponse) -> Outcome {
        match answer.status {
            401 => Outcome::Unauthenticated,
            403 => Outcome::Forbidden,
            _ => Outcome::Allowed,
        }
    }
}

/// Out of reach for a caller bound to an app, whatever its scopes.
fn requires_instance_access(operation: &Operation, scope: &str) -> bool {
    scope == "instance:admin"
        || operation.names("/v1/apps", "POST")
        || operation.path == "/v1/overview"
}

/// The documented outcome of an operation for a caller, on an app that is public or not.
fn verdict(operation: &Operation, who: Caller, public: bool) -> Outcome {
    let has_app = operation.path.contains("{app}");
    let allowed = |allowed| match allowed {
        true => Outcome::Allowed,
        false => Outcome::Forbidden,
    };
    match (&operation.access, who) {
        (Access::Open, _) => Outcome::Allowed,
        (Access::Optional, Caller::Nobody) if public => Outcome::Allowed,
        (
            _,
            Caller::Nobody
            | Caller::Garbage
            | Caller::WrongSecret
            | Caller::Expired
            | Caller::Revoked,
        ) => Outcome::Unauthenticated,
        (Access::Optional, Caller::AllOfOther) => Outcome::Forbidden,
        (Access::Optional | Access::Token, _) => Outcome::Allowed,
        (Access::Scope(scope), Caller::Of(own)) => allowed(own.as_str() == scope),
        (Access::Scope(scope), Caller::OfOwn(own)) => {
            allowed(own.as_str() == scope && !requires_instance_access(operation, scope))
        }
        (Access::Scope(scope), Caller::AllOfOwn) => {
            allowed(!requires_instance_access(operation, scope))
        }
        (Access::Scope(scope), Caller::AllOfOther) => {
            allowed(!has_app && !requires_instance_access(operation, scope))
        }
    }
}

/// Two apps, and a token.
struct Fixture {
    own: App,
    other: App,
    api: ApiClient,
}

impl Fixture {
    async fn new(server: &Server, who: Caller, public: bool) -> Fixture {
        let suffix = Uuid::new_v4().simple();
        let own = server.app(&format!("own-{suffix}"), public).await;
        let other = server.app(&format!("other-{suffix}"), public).await;
        let api = match who {
            Caller::Nobody => server.anonymous(),
            Caller::Garbage => server.root.with_token(Some("kvasm_garbage".to_owned())),
            Caller::WrongSecret => {
                let mut secret = server.token(None, &Scope::ALL, None).await;
                let last = if secret.ends_with('0') { '1' } else { '0' };
                secret.pop();
                secret.push(last);
                server.root.with_token(Some(secret))
            }
            Caller::Expired => {
                let past = Timestamp(Timestamp::now().0 - 1);
                let secret = server.token(None, &Scope::ALL, Some(past)).await;
                server.root.with_token(Some(secret))
            }
            Caller::Revoked => {
                let api = server.client(None, &Scope::ALL).await;
                let id = api.secret().split('_').nth(1).unwrap().to_owned();
                let path = format!("/v1/tokens/{id}");
                api.send("DELETE", &path).await.expect(204);
                api
            }
            Caller::Of(scope) => server.client(None, &[scope]).await,
            Caller::OfOwn(scope) => server.client(Some(&own), &[scope]).await,
            Caller::AllOfOwn => server.client(Some(&own), &Scope::ALL).await,
            Caller::AllOfOther => server.client(Some(&other), &Scope::ALL).await,
        };
        Fixture { own, other, api }
    }
}

/// The request of an operation on an app. Apart from the app, no request finds its target, so
/// only the deletion of the app changes anything.
fn target(operation: &Operation, app: &str) -> String {
    operation.target(&[
        ("app", app),
        ("version", "999"),
        ("token", "00000000000000000000000000000099"),
        ("function", "absent"),
        ("name", "absent"),
        ("id", "00000000-0000-0000-0000-000000000099"),
        ("path", "x"),
    ])
}

#[tokio::test]
async fn operations_enforce_the_documented_access() {
    let server = Server::start().await;
    let operations = operations(&document(&server.root).await);
    let mut wrong = Vec::new();
    for operation in &operations {
        for who in all_callers() {
            for public in [false, true] {
                let scene = Fixture::new(&server, who, public).await;
                let target = target(operation, scene.own.name.as_str());
                let answer = scene.api.send(&operation.method, &target).await;
                let expected = verdict(operation, who, public);
                let place = format!(
                    "{} {} by {who:?}, public: {public}",
                    operation.method, operation.path
                );
                if Outcome::of(&answer) != expected {
                    let (status, text) = (answer.status, answer.text());
                    wrong.push(format!("{place}: {expected:?}, but {status} {text}"));
                    continue;
                }
                if expected != Outcome::Allowed && operation.method != "HEAD" {
                    let kind = match (&expected, who) {
                        (Outcome::Forbidden, _) => "forbidden",
                        (_, Caller::Nobody) => "token-required",
                        _ => "token-invalid",
                    };
                    assert_eq!(answer.problem(), kind, "{place}");
                }
                assert_eq!(
                    answer.headers.contains_key("www-authenticate"),
                    expected == Outcome::Unauthenticated,
                    "{place}"
                );
                assert_no_leak(&server, &scene, who, &answer, &place);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Asserts that an answer contains no secret, and no app that is not the caller's.
fn assert_no_leak(
    server: &Server,
    scene: &Fixture,
    who: Caller,
    answer: &ApiResponse,
    place: &str,
) {
    let text = format!("{} {:?}", answer.text(), answer.headers);
    let root = server.root.secret();
    let secrets = [
        root.rsplit('_').next().unwrap(),
        match who {
            Caller::Nobody | Caller::Garbage => root,
            _ => scene.api.secret().rsplit('_').next().unwrap(),
        },
    ];
    for secret in secrets {
        assert!(!text.contains(secret), "{place}: {text}");
    }
    let foreign = match who {
        Caller::Of(_) => return,
        Caller::OfOwn(_) | Caller::AllOfOwn => vec![&scene.other],
        Caller::AllOfOther => vec![&scene.own],
        _ => vec![&scene.own, &scene.other],
    };
    for app in foreign {
        assert!(!text.contains(app.name.as_str()), "{place}: {text}");
        assert!(!text.contains(&app.id.to_string()), "{place}: {text}");
    }
}

/// Everything in an answer that a client sees, except the time.
fn visible_response(answer: ApiResponse) -> (u16, Vec<(String, String)>, String) {
    let text = answer.text();
    let headers = answer.headers.iter();
    let headers = headers.filter(|(name, _)| *name != "date");
    let headers = headers.map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    });
    (answer.status, headers.collect(), text)
}

#[tokio::test]
async fn app_token_cannot_probe_for_other_apps() {
    let server = Server::start().await;
    let operations = operations(&document(&server.root).await);
    for public in [false, true] {
        let scene = Fixture::new(&server, Caller::AllOfOther, public).await;
        for operation in &operations {
            if !operation.path.contains("{app}") {
                continue;
            }
            let mut answers = Vec::new();
            for app in [scene.own.name.as_str(), "no-such-app"] {
                let target = target(operation, app);
                let request = scene.api.request(&operation.method, &target);
                let request = request.header("x-request-id", Uuid::nil().to_string());
                answers.push(visible_response(answer(request).await));
            }
            let place = format!("{} {}", operation.method, operation.path);
            assert_eq!(answers[0].0, 403, "{place}");
            assert_eq!(answers[0], answers[1], "{place}");
        }
    }
}

#[tokio::test]
async fn invalid_auth_header_is_not_treated_as_anonymous() {
    let server = Server::start().await;
    server.app("open", true).await;
    let good = format!("Bearer {}", server.root.secret());
    let call = |path: &str| server.anonymous().request("POST", path);
    for path in ["/v1/apps/open/call/f", "/a/open/x", "/v1/apps"] {
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            server.root.secret(),
            &format!("Basic {}", server.root.secret()),
            &good[..good.len() - 1],
            &format!("{good} x"),
            &format!("{good}, {good}"),
        ] {
            let answer = answer(call(path).header("authorization", bad)).await;
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (401, "token-invalid"),
                "{path} {bad:?}"
            );
        }
        let twice = call(path).header("authorization", &good);
        let twice = answer(twice.header("authorization", &good)).await;
        twice.expect_problem(401, "token-invalid");
        // The scheme is case-insensitive.
        let other = good.replace("Bearer", "bEARER");
        let other = answer(call(path).header("authorization", other)).await;
        assert_ne!(other.status, 401);
    }
}

/// Without a valid token, the answer is the same whatever else is wrong with a request.
#[tokio::test]
async fn authentication_precedes_parameter_validation() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let nobody = server.anonymous();
    let garbage = server.root.with_token(Some("kvasm_garbage".to_owned()));
    let mut wrong = Vec::new();
    let mut count = 0;
    for operation in operations(&document(&server.root).await) {
        let needs_token = match operation.access {
            Access::Scope(_) | Access::Token => true,
            Access::Optional if !operation.path.starts_with("/a/") => false,
            Access::Open | Access::Optional => continue,
        };
        count += 1;
        let good = target(&operation, "shop");
        let bare = good.split('?').next().unwrap();
        let parts = operation.path.split('/').map(|part| match part {
            name if name.starts_with('{') => "%ff",
            other => other,
        });
        let mut targets = vec![
            format!("{bare}?nonsense=1"),
            format!("{bare}?limit=x&limit=%zz"),
        ];
        if operation.path.contains('{') {
            targets.push(parts.collect::<Vec<_>>().join("/"));
        }
        let compressed = |api: &ApiClient, target: &str| {
            let request = api.request(&operation.method, target);
            request.header("content-encoding", "gzip").body("x")
        };
        let plain = |api: &ApiClient, target: &str| api.request(&operation.method, target);
        let mut requests = Vec::new();
        for api in [&nobody, &garbage, &server.root] {
            let mut of_api: Vec<_> = targets.iter().map(|target| plain(api, target)).collect();
            of_api.push(compressed(api, &good));
            requests.push(of_api);
        }
        let statuses = [if needs_token { 401 } else { 400 }, 401, 400];
        for (requests, expected) in requests.into_iter().zip(statuses) {
            for (at, request) in requests.into_iter().enumerate() {
                let is_compressed = at == targets.len();
                let expected = match expected {
                    400 if is_compressed => 415,
                    expected => expected,
                };
                let answer = answer(request).await;
                if answer.status != expected {
                    let (status, text) = (answer.status, answer.text());
                    let (method, path) = (&operation.method, &operation.path);
                    wrong.push(format!(
                        "{method} {path} {at}: {status}, not {expected}: {text}"
                    ));
                }
            }
        }
    }
    assert!(count > 40, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn token_cannot_create_tokens_with_more_scopes() {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    let admin = server.client(Some(&app), &[Scope::AppAdmin]).await;
    for scope in Scope::ALL {
        let body = serde_json::json!({ "name": "n", "scopes": [scope.as_str()] });
        let answer = admin.json("POST", "/v1/apps/shop/tokens", body).await;
        match scope {
            Scope::AppAdmin => drop(answer.expect(201)),
            _ => answer.expect_problem(403, "scope-exceeded"),
        }
    }
    // Created by root, but bound to the app: it has no access to the instance.
    let body = serde_json::json!({ "name": "n", "scopes": ["instance:admin"] });
    let made = server.root.json("POST", "/v1/apps/shop/tokens", body).await;
    let secret = made.expect(201).json()["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    let bound = server.root.with_token(Some(secret));
    bound
        .get("/v1/tokens")
        .await
        .expect_problem(403, "forbidden");
}

const SCOPES: [&str; 7] = [
    "app:admin",
    "app:read",
    "instance:admin",
    "log:read",
    "plugin:deploy",
    "script:read",
    "script:write",
];

#[tokio::test]
async fn documented_scopes_are_complete() {
    let expected = BTreeSet::from(SCOPES.map(str::to_owned));
    let code = Scope::ALL.map(|scope| scope.as_str().to_owned());
    assert_eq!(BTreeSet::from(code), expected);

    let server = Server::start().await;
    let operations = operations(&document(&server.root).await);
    let used = operations.iter().filter_map(|o| match &o.access {
        Access::Scope(scope) => Some(scope.clone()),
        Access::Open | Access::Optional | Access::Token => None,
    });
    assert_eq!(used.collect::<BTreeSet<_>>(), expected);

    for word in ["script:*", "*", "", "app:write", "APP:READ", "app:read "] {
        let body = serde_json::json!({ "name": "n", "scopes": [word] });
        let answer = server.root.json("POST", "/v1/tokens", body).await;
        answer.expect_problem(400, "invalid-argument");
    }
}

/// The rows of the table of routes in the docs: `| GET | \`/v1/apps\` | \`app:read\` | text |`.
fn documented() -> BTreeSet<(String, String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut rows = BTreeSet::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", method, path, access, _, ..] = cells[..] else {
            continue;
        };
        let is_method = !method.is_empty() && method.chars().all(|c| c.is_ascii_uppercase());
        if !is_method || !path.starts_with("`/") {
            continue;
        }
        let code = |cell: &str| cell.trim_matches('`').to_owned();
        let row = (method.to_owned(), code(path), code(access));
        assert!(rows.insert(row), "duplicate row in docs/http.md: {line}");
    }
    rows
}

#[tokio::test]
async fn documented_routes_match_openapi() {
    let server = Server::start().await;
    let operations = operations(&document(&server.root).await);
    let served: BTreeSet<_> = operations
        .into_iter()
        .map(|o| (o.method, o.path, o.access.to_string()))
        .collect();
    let documented = documented();
    let missing: Vec<_> = served.difference(&documented).collect();
    let extra: Vec<_> = documented.difference(&served).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "docs/http.md lacks {missing:#?} and has {extra:#?}"
    );
}
