//! Pages of a hostile plugin, in the browser in which an operator is logged in at the console.

use super::page::Page;
use super::stage::Stage;
use kvasm_tests::guests::module_with;
use serde_json::{Value, json};
use std::time::Instant;

const PAGE: &str = include_str!("../../fixtures/hostile/page.html");

/// A plugin whose handler answers every request with these headers and this body, and with functions
/// of these names, which trap.
pub fn answering(headers: &Value, body: &str, functions: &[&str]) -> Vec<u8> {
    let hex =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("\\{byte:02x}")).collect() };
    let head = json!({"status": 200, "headers": headers}).to_string();
    let len = u32::try_from(head.len()).unwrap().to_le_bytes();
    let frame = [&len, head.as_bytes(), body.as_bytes()].concat();
    let declared = functions
        .iter()
        .map(|name| json!({"kind": "function", "name": name}));
    let declared = declared.chain([json!({"kind": "http", "name": "run"})]);
    let lines: Vec<_> = declared.map(|line| line.to_string()).collect();
    let exports = functions.iter().map(|name| {
        let name = hex(name.as_bytes());
        format!("(func (export \"{name}\") (result i32) unreachable)")
    });
    let fields = format!(
        "(@custom \"kvasm.plugin.v1\" \"{}\") {}",
        hex(lines.join("\n").as_bytes()),
        exports.collect::<String>()
    );
    let write = format!(
        "(drop (call $output_write (i32.const 0) (i32.const {})))",
        frame.len()
    );
    module_with(&hex(&frame), &fields, &format!("{write} (i32.const 0)"))
}

/// What a hostile plugin sends: with a cookie, and leave for all origins and all paths.
fn of_type(content_type: &str) -> Value {
    json!([
        ["content-type", content_type],
        ["service-worker-allowed", "/"],
        ["set-cookie", "kvasm-token=kvasm_x; Path=/"],
        ["access-control-allow-origin", "*"],
    ])
}

/// Deploys the hostile plugin and its neighbour, whose entries it is after.
fn deploy(stage: &Stage) {
    let page = PAGE.replace("ADMIN", &stage.url());
    for (app, module) in [
        (
            "evil",
            answering(&of_type("text/html; charset=utf-8"), &page, &[]),
        ),
        (
            "worker",
            answering(&of_type("text/javascript"), "self.onfetch = () => {}", &[]),
        ),
        ("shop", answering(&of_type("text/html"), "the shop", &[])),
    ] {
        let named = json!({"name": app, "public": true});
        stage.json("POST", "/v1/apps", named).ok();
        let path = format!("/v1/apps/{app}/plugins");
        stage.send("POST", &path, "application/wasm", &module).ok();
    }
    stage.put("shop", "notes", "a", json!("private"));
}

/// What the attacks must not change.
fn state(stage: &Stage) -> Vec<Value> {
    [
        "/v1/apps",
        "/v1/tokens",
        "/v1/apps/shop/kv/list?collection=notes&values=true",
        "/v1/audit",
    ]
    .map(|path| stage.send("GET", path, "application/json", b"").ok().json())
    .to_vec()
}

/// Opens the page beside the console, runs its attempts and checks that each has failed.
#[track_caller]
fn attack(page: &Page, url: &str) {
    let browser = &page.browser;
    browser.go(url);
    page.see("button", "Win a prize");
    page.click("button", "Win a prize");
    let start = Instant::now();
    while browser.title() != "done" {
        assert!(start.elapsed().as_secs() < 240, "{}", browser.title());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let found = browser.script("return window.found", &[]);
    let found = found.as_object().unwrap();
    assert!(found.len() > 20, "{found:?}");
    let succeeded = |(_, result): &(&String, &Value)| {
        let failed = result
            .as_str()
            .is_some_and(|text| text.starts_with("failed: "));
        !(result.is_null() || failed)
    };
    let succeeded: Vec<_> = found.iter().filter(succeeded).collect();
    assert!(succeeded.is_empty(), "{url}: {succeeded:#?}");
    // An attempt for which the browser lacks the interface would prove nothing.
    let lacks = |result: &Value| {
        let text = result.as_str().unwrap_or_default();
        text.contains("ReferenceError") || text.contains("no answer")
    };
    let lacking: Vec<_> = found.iter().filter(|(_, result)| lacks(result)).collect();
    assert!(lacking.is_empty(), "{url}: {lacking:#?}");
    // The policy of the console refuses the frame, which a page cannot tell from one of another
    // origin.
    let log = serde_json::to_string(&browser.take_log()).unwrap();
    assert!(log.contains("frame-ancestors"), "{log}");
}

/// Logs in at the console, attacks it from another tab, and checks that nothing has changed.
fn console_withstands(settings: &[&str], url: impl FnOnce(&Stage) -> String) {
    let stage = Stage::with(settings);
    deploy(&stage);
    let before = state(&stage);
    let page = Page::open(&stage.url(), 1280, false);
    page.log_in(&stage.server.token);
    page.see("td", "shop");
    let console = page.browser.tab();
    let tab = page.browser.open_tab();
    attack(&page, &url(&stage));
    assert_eq!(state(&stage), before);
    page.browser.switch(&console);
    page.check_log("the console meanwhile", &[]);
    // It is still logged in, and works with whatever cookies the page has set.
    page.browser.refresh();
    page.see("td", "shop");
    page.click("td a", "shop");
    page.tab("Entries");
    page.click(".collections a", "notes");
    page.see("a.key", "a");
    page.check_log("the console afterwards", &[]);
    let kept = page.browser.script(
        "return [Object.keys(sessionStorage), Object.keys(localStorage),
            (await navigator.serviceWorker.getRegistrations()).length]",
        &[],
    );
    assert_eq!(kept, json!([["kvasm-token"], [], 0]));
    assert_eq!(state(&stage), before);
    page.browser.switch(&tab);
    stage.server.stop();
}

#[test]
fn sandboxed_page_runs_no_script() {
    let stage = Stage::start();
    deploy(&stage);
    let page = Page::open(&stage.url(), 1280, false);
    page.log_in(&stage.server.token);
    page.browser.open_tab();
    page.browser.go(&format!("{}/a/evil/", stage.server.url()));
    assert_eq!(page.browser.title(), "quiet");
    let log = serde_json::to_string(&page.browser.take_log()).unwrap();
    assert!(log.contains("sandboxed"), "{log}");
    stage.server.stop();
}

#[test]
fn page_with_scripts_cannot_reach_the_console() {
    console_withstands(&["pages.sandbox=scripts"], |stage| {
        format!("{}/a/evil/", stage.server.url())
    });
}

#[test]
fn page_without_a_sandbox_cannot_reach_the_console() {
    console_withstands(&["pages.sandbox=off"], |stage| {
        format!("{}/a/evil/", stage.server.url())
    });
}

#[test]
fn page_at_a_host_name_of_its_own_cannot_reach_the_console() {
    console_withstands(&["pages.domain=apps.localhost"], |stage| {
        format!(
            "http://evil.apps.localhost:{}/",
            stage.server.address.port()
        )
    });
}

/// One address for everything has no console, and a page there has no token for the API beside it.
#[test]
fn page_beside_the_api_has_no_access_to_it() {
    let stage = Stage::one_address(&["pages.sandbox=off"]);
    deploy(&stage);
    let before = state(&stage);
    let page = Page::open(&stage.url(), 1280, false);
    assert!(!page.text().contains("Kvasm console"), "{}", page.text());
    page.browser.go(&format!("{}/a/evil/", stage.url()));
    page.click("button", "Win a prize");
    let start = Instant::now();
    while page.browser.title() != "done" {
        assert!(start.elapsed().as_secs() < 240, "{}", page.browser.title());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let found = page.browser.script("return window.found", &[]);
    assert_eq!(state(&stage), before);
    for attempt in [
        "use the entries of another app",
        "post to another app",
        "use the API of its own origin",
        "a service worker for all apps",
        "a service worker for another app",
        "a service worker above its path",
    ] {
        let result = &found[attempt];
        let failed = result
            .as_str()
            .is_some_and(|text| text.starts_with("failed: "));
        assert!(result.is_null() || failed, "{attempt}: {result}");
    }
    stage.server.stop();
}
