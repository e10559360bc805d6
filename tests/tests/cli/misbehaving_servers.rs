//! Misbehaving servers, and untrusted text from servers.

use kvasm_tests::program::process::{CommandOutput, Home};
use std::io::{Read, Write};
use std::net::TcpListener;

/// Starts a server that answers each request with `answer(request number, path)`. Returns its
/// address.
fn serve(answer: impl Fn(usize, &str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap() == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let _ = stream.write_all(&answer(number, path));
        }
    });
    url
}

fn response(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "Content-Type: application/json\r\nConnection: close";
    format!("HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn ask(home: &Home, url: &str, rest: &[&str]) -> CommandOutput {
    home.run(&[&["--server", url][..], rest].concat())
}

#[test]
fn unresponsive_server_times_out() {
    let home = Home::new();
    // The system accepts connections; nothing answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ended = ask(&home, &url, &["--timeout", "200ms", "app", "list"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("no data from the server for 200ms"),
        "{}",
        ended.stderr
    );
    // The same for an incomplete response.
    let url = serve(|_, _| {
        let mut half = response("200 OK", &format!("{{\"apps\":[]{}}}", " ".repeat(100)));
        half.truncate(half.len() - 50);
        half
    });
    let ended = ask(&home, &url, &["--timeout", "200ms", "app", "list"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("the response was cut off"),
        "{}",
        ended.stderr
    );
}

#[test]
fn repeated_cursor_ends_the_listing_with_an_error() {
    let home = Home::new();
    for (words, page) in [
        ("app list", r#"{"apps":[],"next":"a"}"#),
        ("token list", r#"{"tokens":[],"next":"a"}"#),
        ("plugin versions demo", r#"{"plugins":[],"next":7}"#),
        ("kv collections demo", r#"{"collections":["c"],"next":"c"}"#),
        ("kv list demo c --all", r#"{"entries":[],"cursor":"a"}"#),
    ] {
        let page = response("200 OK", page);
        let url = serve(move |_, _| page.clone());
        let words: Vec<_> = words.split(' ').collect();
        let ended = ask(&home, &url, &words);
        assert_eq!(ended.code, 4, "{words:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("repeated the cursor"),
            "{}",
            ended.stderr
        );
    }
    // Cursors that form a cycle.
    let url = serve(|number, _| {
        let next = ["a", "b"][number % 2];
        response("200 OK", &format!("{{\"apps\":[],\"next\":\"{next}\"}}"))
    });
    assert_eq!(ask(&home, &url, &["app", "list"]).code, 4);
}

/// Text with terminal control characters, as JSON.
const EVIL: &str = "\\u001b]0;x\\u0007\\u009b2J\\u202e\\u061c\\r";

#[test]
fn server_text_is_escaped_for_the_terminal() {
    let home = Home::new();
    let app = format!(
        r#"{{"name":"{EVIL}","id":"{EVIL}","created_at":9223372036854775807,"public":true,
            "plugin":null,"limits":{{"entries":null,"bytes":null,"calls_per_second":null,"calls_at_once":null}}}}"#
    );
    let token = format!(
        r#"{{"id":"{EVIL}","name":"{EVIL}","scopes":["{EVIL}"],"app":null,"created_at":-1,
            "expires_at":253402300800000,"revoked_at":null}}"#
    );
    let made = format!("{{\"secret\":\"{EVIL}\",\"token\":{token}}}");
    let problem = format!(
        r#"{{"type":"urn:kvasm:problem:internal","title":"{EVIL}","status":500,
            "detail":"{EVIL}\nrequest 1","request_id":"{EVIL}"}}"#
    )
    .replace("\nrequest", "\\nrequest");
    let deployed = format!(
        r#"{{"version":1,"active":true,"digest":"{EVIL}","functions":["{EVIL}"],"http":"{EVIL}","triggers":[]}}"#
    );
    let page = |name: &str, item: &str| format!("{{\"{name}\":[{item}],\"next\":null}}");
    let module = home.file("x.wasm", b"x");
    for (words, status, body) in [
        ("app list", "200 OK", page("apps", &app)),
        ("app show demo", "200 OK", app.clone()),
        ("app list", "500 Internal Server Error", problem),
        ("token list", "200 OK", page("tokens", &token)),
        ("token create x --scope app:read", "201 Created", made),
        ("deploy demo MODULE", "201 Created", deployed.clone()),
        ("plugin functions demo", "200 OK", deployed),
        (
            "kv list demo c",
            "200 OK",
            format!("{{\"entries\":[{{\"key\":\"{EVIL}\"}}],\"cursor\":\"{EVIL}\"}}"),
        ),
        (
            "kv collections demo",
            "200 OK",
            page("collections", &format!("\"{EVIL}\"")),
        ),
    ] {
        let answer = response(status, &body);
        let url = serve(move |_, _| answer.clone());
        let words: Vec<_> = words
            .split(' ')
            .map(|word| {
                if word == "MODULE" {
                    module.as_str()
                } else {
                    word
                }
            })
            .collect();
        let ended = ask(&home, &url, &words);
        let printed = format!("{}{}", ended.stdout, ended.stderr);
        assert!(
            ended.code == 0 || ended.code == 4,
            "{words:?}: {} {printed}",
            ended.code
        );
        let shown = printed.contains("u{1b}]0;x") || words[1] == "show" || words[1] == "list";
        assert!(shown, "{words:?}: {printed}");
        let drives =
            |c: char| (c.is_control() && c != '\n') || ['\u{202e}', '\u{61c}'].contains(&c);
        assert!(!printed.contains(drives), "{words:?}: {printed:?}");
        assert!(!printed.contains("panicked"), "{words:?}: {printed}");
    }
}
