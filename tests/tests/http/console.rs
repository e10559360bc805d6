//! The files of the console.

use flate2::read::GzDecoder;
use kvasm::server::AdminAddress;
use kvasm::service::CALL_OUTCOMES;
use kvasm_tests::server::{ApiResponse, Server};
use std::io::Read;

const CONSOLE: AdminAddress = AdminAddress {
    local: false,
    api: true,
    open: false,
    console: true,
};

async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> ApiResponse {
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    server.raw(format!("{head}\r\n").as_bytes()).await
}

#[track_caller]
fn header<'a>(answer: &'a ApiResponse, name: &str) -> &'a str {
    let value = answer.headers.get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

/// Every file that the page names, directly or through imports.
async fn files(server: &Server) -> Vec<(String, ApiResponse)> {
    let (mut waiting, mut seen) = (vec!["/".to_owned()], Vec::new());
    while let Some(path) = waiting.pop() {
        if seen.iter().any(|(known, _)| *known == path) {
            continue;
        }
        let answer = get(server, &path, &[]).await;
        assert_eq!(answer.status, 200, "{path}");
        let text = String::from_utf8(answer.body.clone()).unwrap();
        let quoted = text.split('"').skip(1).step_by(2);
        let absolute = quoted.clone().filter(|name| name.starts_with("/console/"));
        waiting.extend(absolute.map(str::to_owned));
        let folder = path.rsplit_once('/').unwrap().0;
        if path.ends_with(".js") {
            let imports = text.split("from").skip(1);
            let imports = imports.filter_map(|rest| rest.trim().strip_prefix("\"./"));
            let names = imports.filter_map(|rest| Some(rest.split_once('"')?.0));
            waiting.extend(names.map(|name| format!("{folder}/{name}")));
        }
        seen.push((path, answer));
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_can_be_filtered_by_every_outcome() {
    let server = Server::admin(CONSOLE).await;
    let source = get(&server, "/console/calls.js", &[]).await.text();
    let outcomes = CALL_OUTCOMES.map(|outcome| format!("\"{outcome}\""));
    let list = format!("const OUTCOMES = [{}];", outcomes.join(", "));
    assert!(source.contains(&list), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_has_a_strict_policy_and_a_tag() {
    let server = Server::admin(CONSOLE).await;
    let files = files(&server).await;
    assert!(files.len() > 20, "{}", files.len());
    for (path, answer) in &files {
        let is = |name: &str| header(answer, name).to_owned();
        assert_eq!(
            is("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            "{path}"
        );
        assert_eq!(is("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(is("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(is("cross-origin-opener-policy"), "same-origin", "{path}");
        assert_eq!(is("cross-origin-resource-policy"), "same-origin", "{path}");
        assert_eq!(is("cache-control"), "no-cache", "{path}");
        assert_eq!(is("vary"), "accept-encoding", "{path}");
        let kind = match path.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(is("content-type"), kind, "{path}");
        assert!(is("etag").starts_with('"'), "{path}");
        assert_eq!(is("content-encoding"), "", "{path}");
    }
    // No two files have one tag.
    let mut tags: Vec<_> = files
        .iter()
        .map(|(_, answer)| header(answer, "etag"))
        .collect();
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), files.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tag_is_answered_without_content() {
    let server = Server::admin(CONSOLE).await;
    let gzip = ("Accept-Encoding", "gzip, br");
    for encoding in [&[][..], &[gzip]] {
        let first = get(&server, "/console/main.js", encoding).await;
        let tag = header(&first, "etag").to_owned();
        let weak = format!("\"a\", W/{tag}");
        for tag in [tag.as_str(), weak.as_str(), "*"] {
            let mut headers = encoding.to_vec();
            headers.push(("If-None-Match", tag));
            let again = get(&server, "/console/main.js", &headers).await;
            assert_eq!((again.status, again.body.len()), (304, 0), "{tag}");
            assert_eq!(header(&again, "etag"), header(&first, "etag"));
            assert!(!header(&again, "content-security-policy").is_empty());
        }
        let mut headers = encoding.to_vec();
        headers.push(("If-None-Match", "\"another\""));
        let other = get(&server, "/console/main.js", &headers).await;
        assert_eq!((other.status, &other.body), (200, &first.body));
    }
    // The tag of one encoding is not that of the other.
    let (plain, zipped) = (
        get(&server, "/console/main.js", &[]).await,
        get(&server, "/console/main.js", &[gzip]).await,
    );
    assert_ne!(header(&plain, "etag"), header(&zipped, "etag"));
    let headers = [gzip, ("If-None-Match", header(&plain, "etag"))];
    assert_eq!(get(&server, "/console/main.js", &headers).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_compressed_for_clients_that_accept_it() {
    let server = Server::admin(CONSOLE).await;
    for path in ["/", "/console/style.css", "/console/vendor/preact.js"] {
        let plain = get(&server, path, &[("Accept-Encoding", "br, gzip;q=0")]).await;
        assert_eq!(header(&plain, "content-encoding"), "");
        let zipped = get(&server, path, &[("Accept-Encoding", "br, gzip;q=0.3")]).await;
        assert_eq!(header(&zipped, "content-encoding"), "gzip", "{path}");
        assert!(zipped.body.len() < plain.body.len(), "{path}");
        let mut text = Vec::new();
        GzDecoder::new(zipped.body.as_slice())
            .read_to_end(&mut text)
            .unwrap();
        assert_eq!(text, plain.body, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_files_are_served_and_only_to_readers() {
    let server = Server::admin(CONSOLE).await;
    let none = [
        "/console",
        "/console/",
        "/console/none.js",
        "/console/../console/main.js",
        "/console/..%2fmain.js",
        "/console//main.js",
        "/console/main.js/",
        "/main.js",
        "/console/vendor",
        "/console/vendor/",
        "/console/%2fetc%2fpasswd",
        "/index.html",
    ];
    for path in none {
        let answer = get(&server, path, &[]).await;
        assert_eq!(answer.status, 404, "{path}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            text.contains("urn:kvasm:problem:route-not-found"),
            "{path}: {text}"
        );
    }
    for method in ["POST", "PUT", "DELETE"] {
        server.root.send(method, "/").await.expect(405);
    }
    let head = server.anonymous().send("HEAD", "/").await.expect(200);
    assert!(!header(&head, "etag").is_empty());
    // The files need no token; the data does.
    server.anonymous().get("/").await.expect(200);
    server.anonymous().get("/v1/apps").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_console_without_the_setting_or_beside_plugins() {
    let without = AdminAddress {
        console: false,
        ..CONSOLE
    };
    let without_api = AdminAddress {
        api: false,
        ..CONSOLE
    };
    let servers = [
        Server::start().await,
        Server::admin(without).await,
        Server::admin(without_api).await,
    ];
    for server in &servers {
        for path in ["/", "/console/main.js", "/console/index.html"] {
            server.root.get(path).await.expect(404);
        }
    }
    // Where the console is, there are no pages of plugins.
    let server = Server::admin(CONSOLE).await;
    server.root.get("/a/shop/").await.expect(404);
}
