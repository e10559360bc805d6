//! The server's own log: the start, and the requests.

use kvasm_tests::program::process::{Home, Server, eventually};
use serde_json::Value;

/// JSON lines, including one for each request.
const JSON: [&str; 4] = [
    "--log-format",
    "json",
    "--set",
    "log.filter=kvasm=info,kvasm::requests=info",
];

/// The complete lines of the log.
fn lines(server: &Server) -> Vec<Value> {
    let log = server.stderr();
    let complete = log.rfind('\n').map_or("", |end| &log[..end]);
    let lines = complete.lines().map(serde_json::from_str);
    lines.map(|line| line.unwrap()).collect()
}

/// The line of the request with this id.
#[track_caller]
fn line_of(server: &Server, id: &str) -> Value {
    eventually("the request's line", || {
        let lines = lines(server).into_iter();
        let mut of_request = lines.filter(|line| line["target"] == "kvasm::requests");
        of_request.find(|line| line["request_id"] == id)
    })
}

/// Sends a request with an id. Returns its line.
#[track_caller]
fn ask(
    server: &Server,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
    number: u32,
) -> (u16, Value) {
    let id = format!("00000000-0000-7000-8000-{number:012}");
    let headers = format!("X-Request-Id: {id}\r\n{headers}");
    let answer = server.try_request(method, path, &headers, body).unwrap();
    (answer.status, line_of(server, &id))
}

/// Creates a token of an app. Returns its id and secret.
fn token(server: &Server, app: &str, name: &str) -> (String, String) {
    let new = serde_json::json!({ "name": name, "scopes": ["app:read"] });
    let path = format!("/v1/apps/{app}/tokens");
    let body = new.to_string();
    let made = server.admin("POST", &path, "application/json", body.as_bytes());
    let made = made.ok().json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made["token"]["id"]), text(&made["secret"]))
}

#[test]
fn startup_log_describes_the_server() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let server = home.start(&[&JSON[..], &["--store", &store]].concat());
    let line = eventually("the line of the start", || {
        let mut lines = lines(&server).into_iter();
        lines.find(|line| line["message"] == "started")
    });
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&line["store_kind"], &line["store"]),
        (&"SQLite".into(), &store.into())
    );
    assert_eq!(line["listen"], server.address.to_string());
    for (limit, value) in [("connections", 1), ("instances", 16), ("value", 1 << 20)] {
        assert!(line[limit].as_u64().unwrap() >= value, "{limit}: {line}");
    }
    server.stop();
}

#[test]
fn request_log_identifies_client_and_request() {
    let home = Home::new();
    let proxies = ["--set", "server.trusted_proxies=127.0.0.0/8, 10.0.0.0/8"];
    let server = home.start(&[&JSON[..], &proxies].concat());
    server.deploy_guest("demo");

    // Without a token, through two proxies, with a header forged by the client.
    let forwarded = "X-Forwarded-For: 203.0.113.9, 192.0.2.7, 10.1.1.1\r\n";
    let path = "/v1/apps/demo/call/hello";
    let (status, line) = ask(&server, "POST", path, forwarded, b"12345", 1);
    assert_eq!((status, &line["status"]), (200, &200.into()), "{line}");
    let fields = [
        ("client", "192.0.2.7"),
        ("method", "POST"),
        ("route", "/v1/apps/{app}/call/{function}"),
        ("app", "demo"),
    ];
    for (field, value) in fields {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&5.into(), &5.into())
    );
    assert!(line["took_us"].as_u64().unwrap() > 0, "{line}");
    for none in ["actor", "token", "trace_id"] {
        assert!(line.get(none).is_none(), "{line}");
    }

    let (id, secret) = token(&server, "demo", "the reader");
    let bearer = format!("Authorization: Bearer {secret}\r\n");
    let (status, line) = ask(&server, "GET", "/v1/apps/demo", &bearer, b"", 2);
    assert_eq!(
        (status, &line["client"]),
        (200, &"127.0.0.1".into()),
        "{line}"
    );
    assert_eq!(
        (&line["actor"], &line["app"]),
        (&"the reader".into(), &"demo".into())
    );
    assert_eq!(line["token"].as_str().unwrap(), id, "{line}");
    assert_eq!(line["bytes_in"], 0, "{line}");

    // No potential secret and no raw path is logged.
    let path = "/v1/apps/demo?secret=in-the-query";
    ask(&server, "GET", path, &bearer, b"", 3);
    let log = server.stderr();
    let (_, hidden) = secret.split_at(secret.len() / 2);
    for secret in [hidden, server.token.as_str(), "in-the-query", "203.0.113.9"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    server.stop();
}

/// With the default filter, and without a trusted proxy.
#[test]
fn rejected_requests_are_logged_by_default() {
    let home = Home::new();
    let server = home.start(&["--log-format", "json"]);
    for app in ["demo", "other"] {
        server.create_app(app);
    }
    let forwarded = "X-Forwarded-For: 203.0.113.9\r\n";
    let (status, line) = ask(&server, "GET", "/v1/apps/demo", forwarded, b"", 1);
    assert_eq!((status, &line["status"]), (401, &401.into()), "{line}");
    assert_eq!(
        (&line["client"], &line["app"]),
        (&"127.0.0.1".into(), &"demo".into())
    );
    assert_eq!(line["level"], "WARN", "{line}");

    let bad = "Authorization: Bearer kvasm_nothing-like-a-token\r\n";
    let (status, line) = ask(&server, "GET", "/v1/tokens", bad, b"", 2);
    assert_eq!(
        (status, &line["route"]),
        (401, &"/v1/tokens".into()),
        "{line}"
    );

    let (id, secret) = token(&server, "demo", "reader");
    let bearer = format!("Authorization: Bearer {secret}\r\n");
    let (status, line) = ask(&server, "GET", "/v1/apps/other", &bearer, b"", 3);
    assert_eq!((status, &line["app"]), (403, &"other".into()), "{line}");
    assert_eq!(
        (&line["actor"], &line["token"]),
        (&"reader".into(), &id.into())
    );

    // Successful requests are not logged by default.
    server.get("/healthz").ok();
    server.stop_and_inspect_log(|log| {
        assert!(!log.contains("/healthz"), "{log}");
        assert!(!log.contains("nothing-like-a-token"), "{log}");
    });
}

#[test]
fn app_log_lines_are_rate_limited_and_escaped() {
    let home = Home::new();
    let server = home.start(&["--set", "log.filter=kvasm=info,kvasm::requests=info"]);
    server.create_app("demo");
    server.create_app("quiet");
    // Text that could pass for another field, and characters that reverse the text direction.
    let name = "x\" status=200 app=\"bank\u{202e}\u{9b}";
    let refused = serde_json::json!({ "name": name, "scopes": ["app:read"] }).to_string();
    let path = "/v1/apps/demo/tokens";
    let answer = server.admin("POST", path, "application/json", refused.as_bytes());
    let name = match answer.status {
        // Some of these characters are invalid in a name.
        400 => "x\" status=200 app=\"bank\u{202e}",
        _ => name,
    };
    let (_, secret) = token(&server, "demo", name);
    let bearer = format!("Authorization: Bearer {secret}\r\n");
    let start = std::time::Instant::now();
    for _ in 0..300 {
        server
            .try_request("GET", "/v1/apps/demo", &bearer, b"")
            .unwrap();
    }
    let took = start.elapsed();
    server
        .admin("GET", "/v1/apps/quiet", "text/plain", b"")
        .ok();
    let log = eventually("the line of the neighbour", || {
        let log = server.stderr();
        log.contains("app=\"quiet\"").then_some(log)
    });
    let of_demo = log.lines().filter(|line| line.contains("bank"));
    let count = of_demo.clone().count() as u64;
    let most = 100 + 1 + took.as_millis() as u64 / 50 + 1;
    assert!(count > 0 && count <= most, "{count} of at most {most}");
    for line in of_demo {
        assert!(
            line.contains(r#"actor="x\" status=200 app=\"bank\u{202e}"#),
            "{line}"
        );
        assert!(
            !line.contains('\u{202e}') && !line.contains('\u{9b}'),
            "{line}"
        );
    }
    server.stop();
}

#[test]
fn request_log_has_the_trace_of_the_client() {
    let home = Home::new();
    let server = home.start(&JSON);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let valid = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
    let (status, line) = ask(&server, "GET", "/healthz", &valid, b"", 1);
    assert_eq!((status, &line["trace_id"]), (200, &trace.into()), "{line}");
    // Two are as invalid as one that is not in lower case.
    for (number, invalid) in [valid.repeat(2), valid.to_uppercase()].iter().enumerate() {
        let number = 2 + number as u32;
        let (status, line) = ask(&server, "GET", "/healthz", invalid, b"", number);
        assert_eq!(status, 200);
        assert_eq!(line.get("trace_id"), None, "{line}");
    }
    server.stop();
}
