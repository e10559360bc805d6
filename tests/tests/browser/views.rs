//! Views of the console with forms: triggers, searches of the audit log, requests to a plugin's HTTP
//! handler, and the comparison of versions.

use super::console::is_inert;
use super::entry_views;
use super::handler_bodies::bodies;
use super::hostile_page::answering;
use super::page::Page;
use super::stage::{HOSTILE, SHOWN, Stage};
use kvasm_tests::guests::wasm;
use kvasm_tests::program::process::eventually;
use serde_json::json;

#[test]
fn views_work_on_a_wide_screen() {
    views_work(1280, false);
}

#[test]
fn views_work_on_a_narrow_screen_in_dark_mode() {
    views_work(360, true);
}

fn views_work(width: u32, dark: bool) {
    let stage = Stage::start();
    for app in ["shop", "neighbour"] {
        stage.json("POST", "/v1/apps", json!({"name": app})).ok();
        stage.put(app, "notes", "a", json!(1));
    }
    deploy(&stage);
    let page = Page::open(&stage.url(), width, dark);
    page.log_in(&stage.server.token);
    audit(&stage, &page);
    page.browser.go(&format!("{}/#/apps/shop", stage.url()));
    page.see("h1", "shop");
    triggers(&stage, &page);
    request(&page);
    entry_views::transfer(&stage, &page);
    entry_views::live(&stage, &page);
    compare(&page);
    log(&page);
    bodies(&stage, &page);
    let neighbour = stage.send("GET", "/v1/apps/neighbour/kv/export", "", b"");
    // What the test itself wrote there.
    assert_eq!(neighbour.ok().text().lines().count(), 2);
    stage.server.stop();
}

/// Without control characters, which WebDriver does not type and names of functions may not have.
fn typed() -> String {
    HOSTILE.replace('\u{7}', "")
}

/// Two versions, the second with a hostile handler and a function with a hostile name.
fn deploy(stage: &Stage) {
    let markup = "<img src=x onerror=\"hit=1\">";
    let headers = json!([["content-type", "text/html"], ["x-hostile", markup]]);
    let body = format!("<title>{HOSTILE}</title><script>window.hit = 1</script>");
    let name = typed();
    let path = "/v1/apps/shop/plugins";
    for module in [
        wasm("orders"),
        answering(&headers, &body, &["place", &name]),
    ] {
        stage.send("POST", path, "application/wasm", &module).ok();
    }
}

fn request(page: &Page) {
    page.tab("Call");
    page.see("h2", "HTTP handler");
    page.fill("input[name=path]", "/x?y=%3Cb%3E");
    page.fill("textarea[name=headers]", "Accept: text/html");
    page.click("button", "Send");
    page.see("[aria-label=Response] dd", "200");
    page.see("[aria-label=Response] td", "text/html");
    page.see("[aria-label=Response] td", "<img src=x onerror=\"hit=1\">");
    page.see("[aria-label=Response] pre", SHOWN);
    is_inert(page);
    page.check("http-request", &[]);
    page.fill("textarea[name=headers]", "no header");
    page.click("button", "Send");
    page.see("[role=alert]", "Each header is a line");
    // A function with a hostile name, and the log of its failure.
    page.browser.script(
        "const select = document.querySelector('select[name=function]');
         select.value = arguments[0];
         select.dispatchEvent(new Event('change'));",
        &[json!(typed())],
    );
    page.click("button", "Call");
    page.see("section[aria-label=Answer] h2", "Failed");
    page.see(
        "section[aria-label=Answer] td",
        &SHOWN.replace("⟨U+0007⟩", ""),
    );
    is_inert(page);
    page.check_log("a call that traps", &[500]);
}

fn triggers(stage: &Stage, page: &Page) {
    page.tab("Triggers");
    page.click("button", "New trigger");
    page.fill("input[name=trigger-name]", "watch");
    page.fill("input[name=trigger-collection]", &typed());
    page.fill("input[name=trigger-prefix]", &typed());
    page.fill("input[name=trigger-function]", "place");
    page.click("dialog label", "deletions");
    page.check("trigger-form", &[]);
    page.click("dialog button", "Create");
    page.see_no("dialog", "");
    page.see("td", &format!("set in {}", SHOWN.replace("⟨U+0007⟩", "")));
    page.click("button", "New trigger");
    page.fill("input[name=trigger-name]", "nightly");
    page.click("select[name=trigger-when] option", "On a schedule");
    page.fill("input[name=trigger-schedule]", "0 3 * * <b>");
    page.click("dialog button", "Create");
    page.see("dialog [role=alert]", "<b>");
    page.fill("input[name=trigger-schedule]", "0 3 * * *");
    page.fill("input[name=trigger-attempts]", "3");
    page.fill("input[name=trigger-function]", "place");
    page.click("dialog button", "Create");
    page.see_no("dialog", "");
    page.see("td", "schedule 0 3 * * *");
    eventually("the next time of the schedule", || {
        page.click("button", "Reload");
        page.browser.find("td", " 03:00:00")
    });
    // The form of a trigger that exists has what it has.
    page.click("button[aria-label='Change nightly']", "");
    page.see("dialog h2", "Change the trigger");
    let schedule = "return document.querySelector('input[name=trigger-schedule]').value";
    assert_eq!(page.browser.script(schedule, &[]), json!("0 3 * * *"));
    page.fill("input[name=trigger-hours]", "0.5");
    page.click("dialog button", "Replace");
    page.see_no("dialog", "");
    let found = stage
        .send("GET", "/v1/apps/shop/triggers", "", b"")
        .ok()
        .json();
    let found = &found["triggers"][0];
    let kept = (
        &found["attempts_max"],
        &found["age_max_ms"],
        &found["schedule"],
    );
    assert_eq!(
        kept,
        (&json!(3), &json!(30 * 60 * 1000), &json!("0 3 * * *"))
    );
    page.click("button[aria-label='Change watch']", "");
    page.see("dialog", "⟨U+202E⟩");
    page.click("dialog button", "Cancel");
    page.see_no("dialog", "");
    // A webhook needs its secret.
    page.click("button", "New trigger");
    page.fill("input[name=trigger-name]", "hook");
    page.fill("input[name=trigger-collection]", "notes");
    page.click("select[name=trigger-to] option", "A webhook");
    page.fill("input[name=trigger-url]", "https://hooks.example.com/in");
    page.fill("input[name=trigger-secret]", "key");
    page.click("dialog button", "Create");
    page.see("dialog [role=alert]", "key");
    page.click("dialog button", "Cancel");
    // The same name replaces.
    page.click("button", "New trigger");
    page.fill("input[name=trigger-name]", "watch");
    page.see("dialog [role=note]", "replaces the trigger");
    page.fill("input[name=trigger-collection]", "notes");
    page.fill("input[name=trigger-function]", "place");
    page.click("dialog button", "Replace");
    page.see_no("dialog", "");
    page.see("td", "set, delete in notes");
    page.check("triggers-made", &[400, 404, 409, 422]);
    let path = "/v1/apps/shop/triggers/watch";
    stage
        .send("POST", &format!("{path}/pause"), "application/json", b"")
        .ok();
    stage.put("shop", "notes", "held", json!(1));
    page.click("button[aria-label='Delete watch']", "");
    page.click("dialog button", "Delete the trigger");
    page.see("dialog [role=alert]", "deliver");
    page.check_log("a trigger with deliveries", &[409]);
    page.click("select[name=fate] option", "Discard them");
    page.click("dialog button", "Delete the trigger");
    page.see_no("dialog", "");
    page.see_no("td", "set, delete in notes");
    page.see("td", "nightly");
}

fn audit(stage: &Stage, page: &Page) {
    // Names of tokens have no control characters.
    let named = typed();
    let token = json!({"name": named, "scopes": ["app:read", "app:admin"]});
    let made = stage.json("POST", "/v1/tokens", token).ok().json();
    let other = made["secret"].as_str().unwrap();
    let change = b"{\"public\":true}";
    stage
        .send_as(other, "PATCH", "/v1/apps/shop", "application/json", change)
        .ok();
    page.click("header a", "Audit");
    page.see("td", "app.update");
    page.fill("input[name=audit-actor]", &named);
    page.click("button", "Filter");
    page.see_no("td", "token.create");
    page.see("td", "app.update");
    page.see("td", &SHOWN.replace("⟨U+0007⟩", ""));
    is_inert(page);
    page.check("audit-filtered", &[]);
    page.click("button", "Show all");
    page.see("td", "token.create");
    page.fill("input[name=audit-action]", "token");
    page.fill("input[name=audit-app]", "neighbour");
    page.click("button", "Filter");
    page.see("p", "No operations.");
    page.fill("input[name=audit-action]", "kv");
    page.click("button", "Filter");
    page.see("td", "kv.set");
    page.see("td", "neighbour");
    page.see_no("td", "shop");
    page.fill("input[name=audit-action]", "<b>");
    page.click("button", "Filter");
    page.see("[role=alert]", "action");
    page.check_log("an action that cannot be", &[400]);
}

fn compare(page: &Page) {
    page.tab("Versions");
    page.click("button", "Compare with 2");
    page.see("[aria-label=Comparison]", "larger");
    let shown = SHOWN.replace("⟨U+0007⟩", "");
    page.see("[aria-label=Comparison] td", &shown);
    page.see("[aria-label=Comparison] td", "orders");
    page.see("[aria-label=Comparison] p", "Version 1:");
    is_inert(page);
    page.check("compare", &[]);
    page.fill("input[name=right]", "9");
    page.click("button", "Compare");
    page.see("[role=alert]", "9");
    page.check_log("a version that does not exist", &[404]);
}

fn log(page: &Page) {
    let shown = SHOWN.replace("⟨U+0007⟩", "");
    page.tab("Log");
    page.see("td", &shown);
    page.fill("input[name=function]", "place");
    page.click("button", "Filter");
    page.see_no("td", &shown);
    page.fill("input[name=function]", &typed());
    page.click("button", "Filter");
    page.see("td", &shown);
    is_inert(page);
    page.check("log-of-function", &[]);
}

/// Each new view says which scope is missing, and offers nothing that would be refused.
#[test]
fn new_views_name_the_scope_that_is_missing() {
    let stage = Stage::start();
    stage.json("POST", "/v1/apps", json!({"name": "shop"})).ok();
    stage.put("shop", "notes", "a", json!(1));
    let path = "/v1/apps/shop/plugins";
    let module = answering(&json!([]), "", &["place"]);
    stage.send("POST", path, "application/wasm", &module).ok();
    let (_, reader) = stage.token("/v1/apps/shop/tokens", &["app:read", "script:read"]);
    let page = Page::open(&stage.url(), 1280, true);
    page.log_in(&reader);
    page.browser
        .go(&format!("{}/#/apps/shop/triggers", stage.url()));
    page.see("[role=note]", "app:admin");
    page.see_no("button", "New trigger");
    page.tab("Entries");
    page.click("summary", "Export and import");
    page.see("[aria-label=Import] [role=note]", "script:write");
    page.see("button", "Export all entries");
    page.see_no("input[name=import]", "");
    page.tab("Call");
    page.see("h2", "HTTP handler");
    page.tab("Audit");
    page.see("[role=note]", "app:admin");
    page.check_log("a reader", &[403]);
    page.click("nav a", "Apps");
    page.see("h1", "Apps");
    page.click("button", "Log out");
    let (_, admin) = stage.token("/v1/apps/shop/tokens", &["app:read", "app:admin"]);
    page.log_in(&admin);
    page.browser
        .go(&format!("{}/#/apps/shop/entries", stage.url()));
    page.see(
        "[role=note]",
        "To follow, export or import entries, a token needs the scope script:read",
    );
    page.see_no("summary", "Export and import");
    page.see_no("label", "Live");
    page.tab("Audit");
    page.fill("input[name=audit-action]", "plugin");
    page.click("button", "Filter");
    page.see("td", "plugin.upload");
    page.check_log("an administrator of the app", &[403]);
    stage.server.stop();
}
