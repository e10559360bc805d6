//! The view of a log that is longer than what one response searches.

use super::page::Page;
use super::stage::Stage;
use kvasm_tests::guests::module_with;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

const LINE: &str = "the first line";

/// A plugin that logs one line, or with an input 500 other lines of 4 KiB.
fn chatty() -> Vec<u8> {
    let data = format!("{LINE}{}", "x".repeat(4_096));
    let first = LINE.len();
    let body = format!(
        "(local $left i32)
        (if (i64.eqz (call $input_read (i32.const 0) (i32.const 8192) (i32.const 8)))
          (then (drop (call $log (i32.const 3) (i32.const 0) (i32.const {first})))
            (return (i32.const 0))))
        (local.set $left (i32.const 500))
        (loop $again
          (drop (call $log (i32.const 3) (i32.const {first}) (i32.const 4096)))
          (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (i32.const 0)"
    );
    module_with(&data, "", &body)
}

/// Sends a request for the newest of the lines that meet the query.
fn newest(stage: &Stage, query: &str) -> String {
    let path = format!("/v1/apps/chatty/logs?limit=1{query}");
    let response = stage.send("GET", &path, "application/json", b"");
    response.ok().text()
}

fn call(stage: &Stage, input: &[u8]) {
    let path = "/v1/apps/chatty/call/run";
    stage.send("POST", path, "text/plain", input).ok();
}

/// Makes the log so long that a response without a cursor does not reach the first line. Returns the
/// request of that line.
fn fill(stage: Stage) -> (Stage, String) {
    stage
        .json("POST", "/v1/apps", json!({"name": "chatty"}))
        .ok();
    let path = "/v1/apps/chatty/plugins";
    stage.send("POST", path, "application/wasm", &chatty()).ok();
    call(&stage, b"");
    let line: Value = serde_json::from_str(&newest(&stage, "")).unwrap();
    assert_eq!(line["message"], LINE);
    let request = line["request_id"].as_str().unwrap().to_owned();
    // A host that stops writes what is only in its memory, where later lines would replace it.
    let stage = stage.restart();
    // About 5 calls are enough, if the writer of the log keeps up.
    let start = Instant::now();
    while !newest(&stage, &format!("&request={request}")).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(300), "it is searched");
        call(&stage, b"much");
    }
    (stage, request)
}

#[test]
fn old_lines_of_a_long_log_are_found() {
    let (stage, request) = fill(Stage::start());
    let page = Page::open(&stage.url(), 1280, false);
    page.log_in(&stage.server.token);
    let view = |request: &str| {
        let url = format!("{}/#/apps/chatty/logs?request={request}", stage.url());
        page.browser.go(&url);
    };
    view(&request);
    page.see("td", LINE);
    page.click("label", "Follow");
    page.see("button", "Reload");
    page.see("td", LINE);
    // By its text, also while the log is followed.
    page.browser
        .go(&format!("{}/#/apps/chatty/logs", stage.url()));
    page.see("td", "xxx");
    page.fill("input[name=text]", "first line");
    page.click("button", "Filter");
    page.see("td", LINE);
    page.see_no("td", "xxx");
    page.click("label", "Follow");
    page.see("[role=status]", "following");
    page.see("td", LINE);
    // What is nowhere in the log is said to be missing once all of it was searched.
    view(&Uuid::nil().to_string());
    page.see("p.empty", "No lines.");
    page.check_log("a long log", &[]);
    stage.server.stop();
}
