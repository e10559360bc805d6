//! The overview: charts with data, their numbers, and what needs a person.

use super::page::Page;
use super::stage::Stage;
use kvasm_tests::guests::wasm;
use serde_json::{Value, json};

#[test]
fn overview_shows_charts_and_what_needs_a_person_on_a_wide_screen() {
    overview_shows(1280, false);
}

#[test]
fn overview_shows_charts_and_what_needs_a_person_on_a_narrow_dark_screen() {
    overview_shows(360, true);
}

/// An app with calls and a paused trigger.
fn fill(stage: &Stage) {
    stage.json("POST", "/v1/apps", json!({"name": "shop"})).ok();
    let path = "/v1/apps/shop/plugins";
    stage.send("POST", path, "application/wasm", &wasm("counter"));
    for _ in 0..5 {
        let input = json!({"name": "n", "by": 1});
        stage.json("POST", "/v1/apps/shop/call/add", input).ok();
    }
    let watched = json!({"collection": "notes", "function": "add"});
    let trigger = "/v1/apps/shop/triggers/watch";
    stage.json("PUT", trigger, watched).ok();
    stage.json("POST", &format!("{trigger}/pause"), json!({}));
}

fn overview_shows(width: u32, dark: bool) {
    let stage = Stage::start();
    fill(&stage);
    let page = Page::open(&stage.url(), width, dark);
    page.fill("input[name=token]", &stage.server.token);
    page.click("button", "Log in");
    // It is the first view. Samples and heartbeats are some seconds old, and it loads again.
    page.see("h1", "Overview");
    page.see(".attention li", "with paused triggers");
    page.see(".attention a", "shop");
    page.see("section[aria-label=Hosts] td", "alive");
    page.see("dd", " ms");
    let script = |text: &str| page.browser.script(text, &[]);
    let drawn = script(
        "return [...document.querySelectorAll('.chart canvas')].map((canvas) => {
            const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return canvas.clientWidth > 150 && all.some((byte) => byte !== 0);
        })",
    );
    assert_eq!(drawn, json!([true, true, true, true, true, true]));
    let label = script("return document.querySelector('.plot').getAttribute('aria-label')");
    assert_eq!(label, "5 runs in the last hour, of which 0 failed.");
    page.check("all-hosts", &[]);
    page.click("summary", "table");
    page.see("details td", ":");
    let rows = script("return document.querySelectorAll('details tbody tr').length");
    assert_eq!(rows, json!(60));
    page.click("button", "Last day");
    page.see("button[aria-pressed=true]", "Last day");
    // Other colours: the charts are drawn again.
    let colour = "return getComputedStyle(document.querySelector('.swatch')).color";
    let before: Value = script(colour);
    page.click("button", "Dark");
    assert_ne!(script(colour), before);
    page.check("all-hosts-day", &[]);
    page.click(".attention a", "shop");
    page.see("h1", "shop");
    page.see("td", "paused by an operator");
    page.check_log("the overview", &[]);
    stage.server.stop();
}
