//! Views of the console with forms: triggers, searches of the audit log, requests to a plugin's HTTP
//! handler, and the comparison of versions.

use super::console::is_inert;
use super::hostile_page::answering;
use super::page::Page;
use super::stage::{HOSTILE, SHOWN, Stage};
use kvasm_tests::guests::wasm;
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
    let neighbour = stage.send("GET", "/v1/apps/neighbour/kv/export", "", b"");
    // What the test itself wrote there.
    assert_eq!(neighbour.ok().text().lines().count(), 1);
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
    page.browser.go(&format!("{}/#/apps/shop", stage.url()));
    page.see("h1", "shop");
    page.tab("Audit");
    page.see("[role=note]", "app:admin");
    page.check_log("a reader", &[403]);
    page.click("nav a", "Apps");
    page.see("h1", "Apps");
    page.click("button", "Log out");
    let (_, admin) = stage.token("/v1/apps/shop/tokens", &["app:read", "app:admin"]);
    page.log_in(&admin);
    page.browser.go(&format!("{}/#/apps/shop", stage.url()));
    page.see("h1", "shop");
    page.tab("Audit");
    page.fill("input[name=audit-action]", "plugin");
    page.click("button", "Filter");
    page.see("td", "plugin.upload");
    page.check_log("an administrator of the app", &[403]);
    stage.server.stop();
}
