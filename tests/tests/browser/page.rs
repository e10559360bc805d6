//! A page of the console, and what must hold on each of its views.

use super::screen;
use super::webdriver::{Refused, WebDriver, axe};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The timeout of a wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// Selects all text of a field: Control, A, and Control again.
const ALL: &str = "\u{e009}a\u{e000}";

pub struct Page {
    pub browser: WebDriver,
    width: u32,
    base: String,
    axe: String,
}

impl Page {
    /// Opens the console in a new browser.
    pub fn open(base: &str, width: u32, is_dark: bool) -> Page {
        let browser = WebDriver::start((width, 900), is_dark);
        browser.go(&format!("{base}/"));
        let base = base.to_owned();
        Page {
            browser,
            width,
            base,
            axe: axe(),
        }
    }

    /// Waits until an element with this text is visible.
    #[track_caller]
    pub fn see(&self, selector: &str, text: &str) -> String {
        self.until(&format!("{selector} with {text:?}"), || {
            self.browser.find(selector, text)
        })
    }

    /// Waits until no such element is visible.
    #[track_caller]
    pub fn see_no(&self, selector: &str, text: &str) {
        let gone = || self.browser.find(selector, text).is_none().then_some(());
        self.until(&format!("no {selector} with {text:?}"), gone);
    }

    #[track_caller]
    fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            if start.elapsed() > PATIENCE {
                panic!(
                    "timed out waiting for {what}; the page has:\n{}",
                    self.text()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The text of the page.
    pub fn text(&self) -> String {
        let text = self.browser.script("return document.body.innerText", &[]);
        text.as_str().unwrap().to_owned()
    }

    /// Does something with an element, again if it was replaced or covered meanwhile.
    #[track_caller]
    fn with(&self, selector: &str, text: &str, act: impl Fn(&str) -> Result<(), Refused>) {
        let start = Instant::now();
        while let Err(Refused(why)) = act(&self.see(selector, text)) {
            assert!(
                start.elapsed() < PATIENCE,
                "{selector} with {text:?}: {why}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub fn click(&self, selector: &str, text: &str) {
        self.with(selector, text, |element| self.browser.click(element));
    }

    /// Opens a view of an app by its tab.
    #[track_caller]
    pub fn tab(&self, name: &str) {
        self.click(".tabs a", name);
        self.see(".tabs a[aria-current]", name);
    }

    /// Replaces the text of a field.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        let keys = format!("{ALL}{text}");
        self.with(selector, "", |element| {
            self.browser.send_keys(element, &keys)
        });
    }

    /// Chooses a file.
    #[track_caller]
    pub fn attach(&self, selector: &str, path: &str) {
        self.with(selector, "", |element| {
            self.browser.send_keys(element, path)
        });
    }

    /// Drops a file on an element.
    pub fn drop_file(&self, selector: &str, name: &str, bytes: &[u8]) {
        use base64::Engine as _;
        const DROP: &str = "const [css, name, text] = arguments;
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            document.querySelector(css).dispatchEvent(
                new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));";
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        self.browser
            .script(DROP, &[json!(selector), json!(name), json!(text)]);
    }

    pub fn log_in(&self, token: &str) {
        self.fill("input[name=token]", token);
        self.click("button", "Log in");
        self.click("nav a", "Apps");
        self.see("h1", "Apps");
    }

    /// Checks the view: nothing was logged except refused requests with these statuses, axe-core
    /// finds no serious fault, nothing is wider than the page, nothing came from another host, and
    /// it looks like the kept screenshot.
    #[track_caller]
    pub fn check(&self, name: &str, refusals: &[u16]) {
        self.check_log(name, refusals);
        self.browser.script(&self.axe, &[]);
        let violations = self.browser.script_later(
            "const done = arguments[arguments.length - 1];
             axe.run(document, { resultTypes: ['violations'] }).then((found) => done(
                found.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical')
                    .map((v) => [v.id, v.nodes.map((n) => n.html).slice(0, 3)])),
                (error) => done([String(error)]));",
        );
        assert_eq!(violations, json!([]), "{name}: axe-core");
        let width = self
            .browser
            .script("return document.documentElement.scrollWidth", &[]);
        assert!(
            width.as_u64().unwrap() <= u64::from(self.width),
            "{name}: {width} wide"
        );
        let foreign = self.browser.script(
            "const [base] = arguments; return performance.getEntriesByType('resource')
                .map((entry) => entry.name).filter((name) => !name.startsWith(base))",
            &[json!(self.base)],
        );
        assert_eq!(foreign, json!([]), "{name}: requests to others");
        screen::check(
            &format!("{}-{name}", self.width),
            &self.browser.screenshot(),
        );
    }

    /// Checks what the browser has logged.
    #[track_caller]
    pub fn check_log(&self, name: &str, refusals: &[u16]) {
        let is_expected = |entry: &Value| {
            let (source, text) = (entry["source"].as_str(), entry["message"].as_str());
            let text = text.unwrap_or_default();
            let refused = |status: &u16| text.contains(&format!("a status of {status} "));
            let is_quiet = matches!(entry["level"].as_str(), Some("INFO" | "DEBUG"));
            match source {
                Some("security") => false,
                Some("network") => refusals.iter().any(refused),
                _ => is_quiet,
            }
        };
        let log = self.browser.take_log();
        let bad: Vec<&Value> = log.iter().filter(|entry| !is_expected(entry)).collect();
        assert!(bad.is_empty(), "{name}: {bad:#?}");
    }
}
