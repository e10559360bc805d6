//! What an operator does at the console.

use super::page::Page;
use super::stage::{ENCODED, HOSTILE, SHOWN, Stage};
use kvasm_tests::guests::wasm;
use serde_json::json;

/// Nothing of the hostile text was parsed as HTML.
#[track_caller]
pub fn is_inert(page: &Page) {
    let hit = page.browser.script(
        "return [window.hit ?? null, document.querySelectorAll('img, #app script, iframe').length]",
        &[],
    );
    assert_eq!(hit, json!([null, 0]), "{}", page.text());
}

#[track_caller]
fn shows(page: &Page, text: &str) {
    page.see("main", text);
    is_inert(page);
}

#[test]
fn operator_works_on_a_wide_screen() {
    operator_works(1280, false);
}

#[test]
fn operator_works_on_a_narrow_screen_in_dark_mode() {
    operator_works(360, true);
}

fn operator_works(width: u32, dark: bool) {
    let stage = Stage::start();
    let page = Page::open(&stage.url(), width, dark);
    log_in(&stage, &page);
    deploy(&stage, &page);
    call(&page);
    edit(&stage, &page);
    replay(&page);
    follow(&stage, &page);
    calls(&page);
    manage(&stage, &page);
    stage.server.stop();
}

fn log_in(stage: &Stage, page: &Page) {
    page.check("log-in", &[]);
    page.fill("input[name=token]", "kvasm_unknown");
    page.click("button", "Log in");
    page.see("[role=alert]", "token");
    page.check("log-in-refused", &[401]);
    page.log_in(&stage.server.token);
    // The token is in the session storage of the tab, and nowhere else.
    let kept = page.browser.script(
        "return [Object.keys(sessionStorage), Object.values(localStorage).join(), document.cookie]",
        &[],
    );
    assert_eq!(kept, json!([["kvasm-token"], "", ""]));
    page.click("button", "New app");
    page.fill("input[name=name]", "shop");
    page.click("dialog button", "Create");
    page.see("h1", "shop");
    page.see("dd", "0 of 1,000,000");
    page.check("overview", &[]);
}

fn deploy(stage: &Stage, page: &Page) {
    page.tab("Versions");
    page.see("h2", "Deploy");
    page.drop_file(".drop", "orders.wasm", &wasm("orders"));
    page.see("[role=status]", "Version 1 is active");
    let file = stage.home.file("orders_bug.wasm", &wasm("orders_bug"));
    page.attach("input[name=module]", &file);
    page.see("[role=status]", "Version 2 is active");
    page.see("button", "Roll back to 1");
    page.check("versions", &[]);
    page.drop_file(".drop", "broken.wasm", b"not a module");
    page.see("[role=alert]", "module");
    page.check_log("a module that is refused", &[422]);
}

fn call(page: &Page) {
    page.tab("Call");
    page.click("select[name=function] option", "place");
    let input = json!({"id": "free", "customer": "ada", "cents": 0});
    page.fill("textarea[name=input]", &input.to_string());
    page.click("button", "Call");
    page.see("section[aria-label=Answer] dd", "200");
    page.see("section[aria-label=Answer] dd", "runs=1");
    page.check("call", &[]);
    // The message of a failure, and its log line, with text of the caller.
    let keys = HOSTILE.replace('\u{7}', "");
    let input = json!({"id": keys, "customer": "", "cents": 1});
    page.fill("textarea[name=input]", &input.to_string());
    page.click("button", "Call");
    page.see("section[aria-label=Answer] h2", "Failed");
    is_inert(page);
    page.check("call-failed", &[500]);
}

fn edit(stage: &Stage, page: &Page) {
    stage.put("shop", "notes", "a", json!({"count": 1}));
    stage.put("shop", ENCODED, ENCODED, json!({HOSTILE: [HOSTILE, 12]}));
    let path = "/v1/apps/shop/kv/entry?collection=notes&key=blob";
    let bytes: Vec<u8> = (0..=255).collect();
    stage
        .send("PUT", path, "application/octet-stream", &bytes)
        .ok();
    page.tab("Entries");
    page.click(".collections a", "notes");
    page.click("a.key", "blob");
    page.see("pre.hex", "f0 f1 f2");
    page.check("bytes", &[]);
    page.fill("input[name=prefix]", "a");
    page.see_no("a.key", "blob");
    page.click("a.key", "a");
    page.click(".entry button", "Edit");
    page.fill("textarea[name=json]", "{\"mine\": 2}");
    // Someone else is faster.
    stage.put("shop", "notes", "a", json!({"theirs": 3}));
    page.click("button", "Save over version");
    page.see(".conflict", "Someone else changed this entry");
    page.see(".conflict", "theirs");
    page.see(".conflict", "mine");
    assert_eq!(stage.get("shop", "notes", "a"), "{\"theirs\":3}");
    page.check("conflict", &[412]);
    page.click(".conflict button", "Write mine over version");
    page.see_no(".conflict", "");
    page.see(".tree", "mine");
    assert_eq!(stage.get("shop", "notes", "a"), "{\"mine\": 2}");

    page.click(".collections a", "<img");
    page.click("a.key", "<img");
    page.see(".entry h2", SHOWN);
    page.see(".tree", SHOWN);
    shows(page, SHOWN);
    page.check("hostile-entry", &[]);
    page.click(".entry button", "Delete");
    page.see("dialog", "Deletes");
    page.click("dialog button", "Delete version");
    page.see("p", "No keys.");
}

/// Reloads a list until it shows a text.
fn reload_until(page: &Page, text: &str) {
    let start = std::time::Instant::now();
    while page.browser.find("td", text).is_none() && start.elapsed().as_secs() < 60 {
        page.click("button", "Reload");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    page.see("td", text);
}

fn replay(page: &Page) {
    page.tab("Dead letters");
    // It is tried three times before.
    page.see("h1", "Dead letters");
    reload_until(page, "deterministic");
    page.see("td", "free");
    page.check("dead-letters", &[]);
    page.click("button", "Inspect");
    page.see(
        "dialog pre",
        "argument of integer logarithm must be positive",
    );
    page.see("dialog dd", "free");
    page.check("dead-letter", &[]);
    page.click("dialog a", "Failed calls of this trigger");
    reload_until(page, "trap");
    // The fix, then the replay.
    page.tab("Versions");
    page.click("button", "Roll back to 1");
    page.click("dialog button", "Roll back");
    page.see_no("dialog", "");
    page.tab("Dead letters");
    page.click("button", "Replay all");
    page.see("dialog", "1 dead letter");
    page.check("dry-run", &[]);
    page.click("dialog button", "Replay 1 dead letter");
    page.see("[role=status]", "Replayed: 1");
    page.see("p", "No dead letters.");
}

fn follow(stage: &Stage, page: &Page) {
    page.tab("Log");
    page.see("[role=status]", "following");
    page.see("td", "panicked at");
    // The view follows: a line appears that is written only now. The handler's error quotes the
    // text of the caller.
    stage.put(
        "shop",
        "orders",
        "seen",
        json!({"customer": "ada", "cents": 1}),
    );
    let input = json!({"id": "seen", "customer": HOSTILE, "cents": 1});
    stage.json("POST", "/v1/apps/shop/call/place", input);
    page.see("td", "there is an order \"seen\" already");
    let input = json!({"id": HOSTILE, "customer": "ada", "cents": 1});
    for _ in 0..2 {
        stage.json("POST", "/v1/apps/shop/call/place", input.clone());
    }
    page.see("td", "<script>hit=1</script>");
    is_inert(page);
    page.click("td a", "");
    // Only the lines of that request.
    page.see_no("td", "there is an order");
    page.see("td", "the plugin trapped");
    page.check("log", &[]);
}

fn calls(page: &Page) {
    page.tab("Calls");
    page.see("td", "place");
    page.see("td", "set count");
    is_inert(page);
    page.click("select[name=outcome] option", "any failure");
    page.click("button", "Filter");
    page.see_no("td", "ok");
    page.see("td", "trap");
    page.see("td", "(plugin)");
    is_inert(page);
    page.check("calls", &[]);
    // The log of a call, and back.
    page.click("td a", "");
    page.see("td", "place");
    page.click("p a", "The call of this request");
    page.see("p", "Only the request");
    page.see("td", "place");
    page.click("p a", "All calls");
    page.see_no("p", "Only the request");
}

fn manage(stage: &Stage, page: &Page) {
    let watched = json!({"collection": "notes", "function": "count"});
    stage
        .json("PUT", "/v1/apps/shop/triggers/watch", watched)
        .ok();
    page.tab("Triggers");
    page.see("td", "watch");
    page.click("button[aria-label='Pause watch']", "");
    page.see("td", "paused by an operator");
    page.check("triggers", &[]);
    stage.put("shop", "notes", "held", json!(HOSTILE));
    page.tab("Deliveries");
    page.see("td", "set held");
    page.click("button", "Inspect");
    page.see("dialog .tree", SHOWN);
    is_inert(page);
    page.click("dialog button", "Close");
    page.click("button", "Discard all");
    page.see("dialog", "1 delivery");
    page.click("dialog button", "Discard 1 delivery");
    page.see("[role=status]", "Discarded: 1");
    page.tab("Settings");
    page.fill("input[name=entries]", "5000");
    page.click("button", "Save limits");
    page.see("[role=status]", "Saved.");
    page.check("settings", &[]);
    page.tab("Tokens");
    page.click("button", "New token");
    page.fill("input[name=token-name]", "<b>reader</b>");
    page.click("dialog label", "script:read read entries");
    page.click("dialog button", "Create");
    page.see("dialog .secret", "kvasm_");
    page.click("dialog button", "I have it");
    page.see("td", "<b>reader</b>");
    page.see_no(".secret", "");
    page.tab("Audit");
    page.see("td", "token.create");
    page.check("audit", &[]);
    page.click("nav a", "Apps");
    page.fill("input[name=search]", "sh");
    page.see("td", "5,000");
    page.check("apps", &[]);
    page.fill("input[name=search]", "si");
    page.see("p", "No apps.");
}

/// A token of one app that may only read its log sees the log, and a sentence about the rest.
#[test]
fn token_with_few_scopes_sees_what_it_may_and_a_sentence_about_the_rest() {
    let stage = Stage::start();
    for app in ["shop", "other"] {
        stage.json("POST", "/v1/apps", json!({"name": app}));
        stage.put(app, "notes", "a", json!(1));
    }
    let (id, secret) = stage.token("/v1/apps/shop/tokens", &["log:read"]);
    let page = Page::open(&stage.url(), 1280, true);
    page.log_in(&secret);
    page.see("[role=note]", "app:read");
    page.fill("input[name=open]", "shop");
    page.click("button", "Open");
    page.see("h1", "shop");
    for tab in [
        "Entries",
        "Dead letters",
        "Versions",
        "Tokens",
        "Settings",
        "Triggers",
    ] {
        page.tab(tab);
        page.see("[role=note]", "Not with this token");
        page.see("[role=note]", ":");
    }
    page.check_log("refusals", &[403]);
    page.tab("Log");
    page.see("[role=status]", "following");
    page.browser
        .go(&format!("{}/#/apps/other/logs", stage.url()));
    page.see("[role=note]", "Not with this token");
    page.check_log("the other app", &[403]);
    // It is logged out as soon as the token is revoked.
    stage.send("DELETE", &format!("/v1/apps/shop/tokens/{id}"), "", b"");
    page.click("nav a", "Apps");
    page.see("[role=alert]", "no longer valid");
    let kept = page
        .browser
        .script("return Object.keys(sessionStorage)", &[]);
    assert_eq!(kept, json!([]));
    page.check_log("revoked", &[401, 403]);
    stage.server.stop();
}

/// A token that may only read is offered no button whose request would be refused.
#[test]
fn token_that_may_only_read_is_offered_no_changes() {
    let stage = Stage::start();
    stage.json("POST", "/v1/apps", json!({"name": "shop"}));
    stage.put("shop", "notes", "a", json!(1));
    let scopes = ["app:read", "script:read"];
    let (_, secret) = stage.token("/v1/apps/shop/tokens", &scopes);
    let page = Page::open(&stage.url(), 360, false);
    page.log_in(&secret);
    page.see("header", "one app");
    page.click("nav a", "Overview");
    page.see("[role=note]", "app:read for all apps");
    page.click("nav a", "Apps");
    page.see_no("button", "New app");
    page.click("td a", "shop");
    page.see("h1", "shop");
    for (tab, scope, button) in [
        ("Entries", "script:write", "New entry"),
        ("Dead letters", "script:write", "Replay"),
        ("Deliveries", "script:write", "Discard"),
        ("Timers", "script:write", "Cancel"),
        ("Versions", "plugin:deploy", "Activate"),
        ("Triggers", "app:admin", "Pause"),
        ("Settings", "app:admin", "Delete the app"),
    ] {
        page.tab(tab);
        page.see("[role=note]", scope);
        page.see_no("button", button);
    }
    let entry = "#/apps/shop/entries?collection=notes&key=a";
    page.browser.go(&format!("{}/{entry}", stage.url()));
    page.see(".entry dd", "JSON");
    for button in ["Edit", "Delete"] {
        page.see_no(".entry button", button);
    }
    page.check_log("read only", &[]);
    stage.server.stop();
}

/// The checks of the other tests see what they are for: a script in the page is not run, and an
/// image of another host not requested.
#[test]
fn policy_stops_inline_scripts_and_other_hosts_and_the_log_says_so() {
    let stage = Stage::start();
    let page = Page::open(&stage.url(), 1280, false);
    page.see("h1", "Kvasm console");
    page.check_log("before", &[]);
    page.browser.script(
        "const script = document.createElement('script');
         script.textContent = 'window.hit = 1';
         document.body.append(script);
         const image = new Image();
         image.src = 'http://127.0.0.2:9/x.png';
         document.body.append(image);",
        &[],
    );
    let hit = page.browser.script("return window.hit ?? null", &[]);
    assert_eq!(hit, json!(null));
    let mut log = Vec::new();
    let start = std::time::Instant::now();
    while log.len() < 2 && start.elapsed().as_secs() < 60 {
        log.extend(page.browser.take_log());
    }
    let text = serde_json::to_string(&log).unwrap();
    assert!(
        text.contains("script-src 'self'") && text.contains("img-src 'self' data:"),
        "{text}"
    );
    stage.server.stop();
}

/// However much there is, a view asks for one page, and what it shows is bounded.
#[test]
fn each_view_asks_for_one_page() {
    let stage = Stage::start();
    for number in 0..60 {
        let app = json!({"name": format!("app-{number:02}")});
        stage.json("POST", "/v1/apps", app).ok();
    }
    let line = |number| format!("{{\"collection\":\"c\",\"key\":\"k{number:05}\",\"json\":1}}\n");
    let lines: String = (0..3000).map(line).collect();
    let path = "/v1/apps/app-00/kv/import";
    stage
        .send("POST", path, "application/jsonl", lines.as_bytes())
        .ok();
    stage.put("app-00", "c", "z", json!("<b>\u{202e}".repeat(50_000)));

    let page = Page::open(&stage.url(), 1280, false);
    let requests = |with: &str| {
        let script = "return performance.getEntriesByType('resource')
            .filter((entry) => entry.name.includes(arguments[0])).length";
        page.browser
            .script(script, &[json!(with)])
            .as_u64()
            .unwrap()
    };
    let rows = || {
        page.browser
            .script("return document.querySelectorAll('tbody tr').length", &[])
    };
    page.log_in(&stage.server.token);
    page.see("td", "app-24");
    assert_eq!(rows(), json!(25));
    page.click("button", "Next");
    page.see("td", "app-49");
    assert_eq!((rows(), requests("/v1/apps?after=")), (json!(25), 1));
    page.fill("input[name=search]", "app-5");
    page.see("td", "app-59");
    page.see_no("td", "app-49");
    assert_eq!(rows(), json!(10));
    let before = requests("/v1/");
    page.browser.go(&format!(
        "{}/#/apps/app-00/entries?collection=c",
        stage.url()
    ));
    page.see("a.key", "k00049");
    assert_eq!((rows(), requests("/v1/") - before), (json!(50), 2));
    page.click("section button", "Next");
    page.see("a.key", "k00099");
    page.fill("input[name=prefix]", "z");
    // 100,000 marks would take the browser a minute to draw.
    page.click("a.key", "z");
    page.see(".tree", "more characters");
    is_inert(&page);
    let nodes = page
        .browser
        .script("return document.querySelectorAll('*').length", &[]);
    assert!(nodes.as_u64().unwrap() < 2000, "{nodes}");
    page.check_log("large lists", &[]);
    stage.server.stop();
}

/// The log is in the memory of the host, and its numbers begin again.
#[test]
fn log_is_followed_across_a_restart() {
    let stage = Stage::start();
    stage.json("POST", "/v1/apps", json!({"name": "shop"}));
    let path = "/v1/apps/shop/plugins";
    stage
        .send("POST", path, "application/wasm", &wasm("orders"))
        .ok();
    let fail = |stage: &Stage, customer: &str| {
        let input = json!({"id": customer, "customer": "ada", "cents": 1});
        for _ in 0..2 {
            stage.json("POST", "/v1/apps/shop/call/place", input.clone());
        }
    };
    for name in ["one", "two", "three"] {
        fail(&stage, name);
    }
    let page = Page::open(&stage.url(), 1280, false);
    page.log_in(&stage.server.token);
    page.browser
        .go(&format!("{}/#/apps/shop/logs", stage.url()));
    page.see("td", "there is an order \"three\" already");
    let stage = stage.restart();
    fail(&stage, "four");
    page.see("td", "there is an order \"four\" already");
    page.see("td", "there is an order \"three\" already");
    // No line is shown twice.
    let text = page.text();
    for name in ["one", "two", "three", "four"] {
        let line = format!("there is an order \"{name}\" already");
        assert_eq!(text.matches(&line).count(), 1, "{text}");
    }
    stage.server.stop();
}
