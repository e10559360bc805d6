//! Export and import of entries in the console, and entries that are shown as they change.

use super::console::is_inert;
use super::page::Page;
use super::stage::{ENCODED, HOSTILE, SHOWN, Stage};
use kvasm_tests::program::process::eventually;
use serde_json::json;

/// Makes the browser write to its private file system, as to a file that a person has chosen.
const CHOOSE: &str = "window.showSaveFilePicker = async () => {
    const root = await navigator.storage.getDirectory();
    window.saved = await root.getFileHandle('out', { create: true });
    return window.saved;
};";
/// A browser that cannot write files: the download is kept instead of saved.
const CANNOT_CHOOSE: &str = "window.showSaveFilePicker = undefined;
    HTMLAnchorElement.prototype.click = () => {};
    const make = URL.createObjectURL;
    URL.createObjectURL = (blob) => { window.saved = { getFile: async () => blob }; return make.call(URL, blob); };";
const SAVED: &str = "const done = arguments[arguments.length - 1];
    window.saved.getFile().then((file) => file.text()).then(done);";
/// A disk that is slow: each write waits until it is released.
const SLOW: &str = "window.showSaveFilePicker = async () => ({
    createWritable: async () => ({
        write: () => new Promise((done) => { window.release = done; }),
        close: async () => { window.stored = true; },
        abort: async () => { window.aborted = true; },
    }),
});";

pub fn transfer(stage: &Stage, page: &Page) {
    let path = format!("/v1/apps/shop/kv/entry?collection={ENCODED}&key={ENCODED}");
    stage.json("PUT", &path, json!(HOSTILE)).ok();
    let export = || {
        stage
            .send("GET", "/v1/apps/shop/kv/export", "", b"")
            .ok()
            .text()
    };
    let exported = export();
    let lines = exported.lines().count();
    assert_eq!(lines, 3);
    page.tab("Entries");
    page.click(".collections a", "notes");
    page.click("summary", "Export and import");
    for (set_up, button, expected) in [
        (CHOOSE, "Export all entries", 3),
        (CHOOSE, "Export the collection", 2),
        (CANNOT_CHOOSE, "Export all entries", 3),
    ] {
        page.browser.script(set_up, &[]);
        page.click("button", button);
        page.see("[role=status]", &format!("Exported {expected} entries"));
        let saved = page.browser.script_later(SAVED);
        let saved = saved.as_str().unwrap();
        assert_eq!(saved.lines().count(), expected, "{saved}");
        assert!(exported.contains(saved), "{saved}");
    }
    page.browser.script(SLOW, &[]);
    page.click("button", "Export all entries");
    page.see("button", "Cancel");
    eventually("a write", || {
        let waits = page.browser.script("return Boolean(window.release)", &[]);
        waits.as_bool().unwrap().then_some(())
    });
    page.click("button", "Cancel");
    page.browser.script("window.release()", &[]);
    page.see("[role=status]", "Cancelled. Nothing was saved.");
    let ended = page.browser.script(
        "return [window.aborted ?? null, window.stored ?? null]",
        &[],
    );
    assert_eq!(ended, json!([true, null]));

    // Into a file with a line that no import takes, after more than one part.
    let line = |number: u32| {
        format!(
            "{{\"collection\":\"imported\",\"key\":\"{number:06}\",\"json\":\"{:300}\"}}\n",
            "x"
        )
    };
    let good: String = (0..6000).map(line).collect();
    let file = stage
        .home
        .file("<b>bad.jsonl", format!("{good}<script>\n").as_bytes());
    page.attach("input[name=import]", &file);
    page.click("button", "Import");
    page.see(
        "[aria-label=Import] [role=alert]",
        "The part that begins with line",
    );
    let text = page.text();
    let number_before = |words: &str| {
        let (head, _) = text
            .split_once(words)
            .unwrap_or_else(|| panic!("{words}: {text}"));
        let number = head
            .rsplit(|c: char| !c.is_ascii_digit() && c != ',')
            .next()
            .unwrap();
        number.replace(',', "").parse::<usize>().unwrap()
    };
    let counted = number_before(" entries were imported before")
        + number_before(" entries were imported, then");
    let imported = || export().matches("\"imported\"").count();
    assert_eq!((counted, imported()), (6000, 6000));
    page.check("import-failed", &[400, 422]);
    let file = stage.home.file("good.jsonl", exported.as_bytes());
    page.attach("input[name=import]", &file);
    page.click("button", "Import");
    page.see("[aria-label=Import] [role=status]", "Imported 3 entries.");
    page.check("transfer", &[]);
    // Cancelled between two parts, of which the first is complete.
    let many: String = (6000..60_000).map(line).collect();
    let file = stage.home.file("many.jsonl", many.as_bytes());
    page.attach("input[name=import]", &file);
    page.click("button", "Import");
    page.see("[aria-label=Import] progress", "");
    page.click("[aria-label=Import] button", "Cancel");
    page.see("[aria-label=Import] [role=status]", "Cancelled.");
    assert!(imported() < 60_000);
    stage.send(
        "DELETE",
        "/v1/apps/shop/kv/entry?collection=imported&key=000000",
        "",
        b"",
    );
}

pub fn live(stage: &Stage, page: &Page) {
    page.tab("Entries");
    page.click(".collections a", "notes");
    page.click("label", "Live");
    page.see("[role=status]", "Changes are shown as they are made.");
    stage.put("shop", "notes", ENCODED, json!(1));
    page.see("a.key", SHOWN);
    page.see(".badge", "changed, version");
    is_inert(page);
    page.click("a.key", "a");
    page.see(".entry .tree", "1");
    stage.put("shop", "notes", "a", json!({"seen": HOSTILE}));
    page.see(".entry .tree", SHOWN);
    page.check("live", &[]);
    // What a person edits is left alone.
    page.click(".entry button", "Edit");
    page.fill("textarea[name=json]", "{\"mine\": 2}");
    stage.put("shop", "notes", "a", json!({"theirs": 3}));
    page.see(
        ".entry [role=status]",
        "Someone else has changed this entry meanwhile",
    );
    let draft = "return document.querySelector('textarea[name=json]').value";
    assert_eq!(page.browser.script(draft, &[]), json!("{\"mine\": 2}"));
    page.click("button", "Save over version");
    page.see(".conflict", "theirs");
    page.click(".conflict button", "Write mine over version");
    page.see(".entry .tree", "mine");
    page.check_log("a conflict", &[412]);
    page.click(".entry button", "Edit");
    let path = "/v1/apps/shop/kv/entry?collection=notes&key=a";
    stage.send("DELETE", path, "", b"").ok();
    page.see(
        ".entry [role=status]",
        "Someone else has deleted this entry meanwhile",
    );
    page.click(".entry button", "Cancel");
    page.see(".entry", "There is no such entry.");
    page.see_no("a.key[aria-current]", "a");
    page.check_log("a deleted entry", &[404]);
    // Another app's entries are not of interest.
    stage.put("neighbour", "notes", "foreign", json!(1));
    // A flood: the list shows its result.
    let line =
        |number: u32| format!("{{\"collection\":\"notes\",\"key\":\"{number:05}\",\"json\":1}}\n");
    let lines: String = (0..5000).map(line).collect();
    stage
        .send(
            "POST",
            "/v1/apps/shop/kv/import",
            "application/jsonl",
            lines.as_bytes(),
        )
        .ok();
    page.see("a.key", "00049");
    page.see_no("a.key", "foreign");
    let nodes = page
        .browser
        .script("return document.querySelectorAll('*').length", &[]);
    assert!(nodes.as_u64().unwrap() < 2000, "{nodes}");
    page.click("label", "Live");
    page.see_no(".badge", "");
    // After the flood, the entry that is shown was read again.
    page.check_log("a flood", &[404]);
}

/// The stream continues after a restart of the host, with what was written meanwhile.
#[test]
fn live_entries_survive_a_restart() {
    let stage = Stage::start();
    stage.json("POST", "/v1/apps", json!({"name": "shop"})).ok();
    stage.put("shop", "notes", "a", json!(1));
    let page = Page::open(&stage.url(), 1280, false);
    page.log_in(&stage.server.token);
    page.browser.go(&format!(
        "{}/#/apps/shop/entries?collection=notes",
        stage.url()
    ));
    page.click("label", "Live");
    page.see("[role=status]", "Changes are shown as they are made.");
    stage.put("shop", "notes", "b", json!(1));
    page.see("a.key", "b");
    let stage = stage.restart();
    stage.put("shop", "notes", "c", json!(1));
    page.see("a.key", "c");
    page.see("[role=status]", "Changes are shown as they are made.");
    stage.put("shop", "notes", "d", json!(1));
    page.see("a.key", "d");
    stage.server.stop();
}
