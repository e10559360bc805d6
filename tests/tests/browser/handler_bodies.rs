//! Bodies that are not text, to a plugin's HTTP handler and from it.

use super::page::Page;
use super::stage::Stage;
use kvasm_tests::guests::{manifest, module_with};
use serde_json::json;

/// A plugin whose handler answers with the request, framed, as the body.
fn echo() -> Vec<u8> {
    // The head of the response, and its length before it.
    let data = "\\0e\\00\\00\\00{\\22status\\22:200}";
    let body = "(drop (call $output_write (i32.const 0) (i32.const 18)))
        (drop (call $output_write (i32.const 4096) (i32.wrap_i64
            (call $input_read (i32.const 0) (i32.const 4096) (i32.const 60000)))))
        (i32.const 0)";
    let http = manifest(&[r#"{"kind":"http","name":"run"}"#]);
    module_with(data, &http, body)
}

pub fn bodies(stage: &Stage, page: &Page) {
    stage.json("POST", "/v1/apps", json!({"name": "echo"})).ok();
    let path = "/v1/apps/echo/plugins";
    stage.send("POST", path, "application/wasm", &echo()).ok();
    page.browser.go(&format!("{}/#/apps/echo", stage.url()));
    page.see("h1", "echo");
    page.tab("Call");
    let send = |name: &str, bytes: &[u8]| {
        let file = stage.home.file(name, bytes);
        page.attach("input[name=body-file]", &file);
        page.click("button", "Send");
    };
    send("large.bin", &[0; 47 * 1024 + 1]);
    page.see("p span", "large.bin, 47.0 KiB");
    page.see("[role=alert]", "A file as the body has at most 47.0 KiB");
    // As large as it may be, and of bytes that are no text.
    send("<b>body.bin", &[0xff; 47 * 1024]);
    page.see("p span", "<b>body.bin, 47.0 KiB");
    page.see("[aria-label=Response] dd", "200");
    page.click("[aria-label=Response] button", "Show more");
    page.see("[aria-label=Response] pre.hex", &"ff ".repeat(8));
    page.see("[aria-label=Response] button", "Download 47.");
    page.check("http-bytes", &[]);
    // The text again. The frame around it begins with the length of its head.
    page.click("button", "Send the text instead");
    page.fill("textarea[name=body]", "body");
    page.click("button", "Send");
    page.see_no("[aria-label=Response] button", "Download 47.");
    page.see("[aria-label=Response] pre.hex", "body");
    page.check_log("bodies of the HTTP handler", &[]);
}
