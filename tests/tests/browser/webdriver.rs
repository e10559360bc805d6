//! A client of chromedriver: the few commands of WebDriver that the tests use.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::runtime::Runtime;

/// The timeout of a command. Chromium starts slowly on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The name of an element's id (WebDriver, section 12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A session of Chromium. Dropping it ends the browser.
pub struct WebDriver {
    driver: Child,
    runtime: Runtime,
    http: reqwest::Client,
    session: String,
    _profile: tempfile::TempDir,
}

/// The refusal of a command, such as `stale element reference`.
#[derive(Debug)]
pub struct Refused(pub String);

/// The path in an environment variable, which `cargo xtask test` sets, or a program in `PATH`.
fn program(variable: &str, names: &[&str]) -> PathBuf {
    let given = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = names
        .iter()
        .flat_map(|name| folders.iter().map(move |at| at.join(name)));
    let found = given.into_iter().chain(found).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        let name = names[0];
        panic!("{name} is not installed; `cargo xtask test --test browser` installs it")
    })
}

/// The script of axe-core, which `cargo xtask test` installs.
pub fn axe() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let usual = root.join("target/toolchains/axe-core/node_modules/axe-core/axe.min.js");
    let given = std::env::var_os("KVASM_AXE").map(PathBuf::from);
    let path = given.unwrap_or(usual);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|_| panic!("no axe-core; `cargo xtask test --test browser` installs it"))
}

/// Starts chromedriver at a free port.
///
/// It takes a port of IPv4 and needs the same port of IPv6. Another process may have that one, and
/// chromedriver exits; the next attempt gets another port.
fn start_driver() -> (Child, u16) {
    let mut printed = String::new();
    for _ in 0..10 {
        let mut driver = Command::new(program("KVASM_CHROMEDRIVER", &["chromedriver"]))
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(driver.stdout.take().unwrap());
        let mut lines = stdout.lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            printed += &format!("{line}\n");
            let (_, rest) = line.split_once("successfully on port ")?;
            rest.trim_end_matches('.').parse::<u16>().ok()
        });
        if let Some(port) = port {
            // It must be able to write to its output.
            std::thread::spawn(move || lines.for_each(drop));
            return (driver, port);
        }
        let status = driver.wait().unwrap();
        printed += &format!("chromedriver ended: {status}\n");
    }
    panic!("chromedriver does not start:\n{printed}");
}

impl WebDriver {
    /// Starts a browser whose page has this size, and prefers dark or light colours.
    pub fn start((width, height): (u32, u32), is_dark: bool) -> WebDriver {
        // Fails only if another test was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let chromium = program("KVASM_CHROMIUM", &["chromium", "chromium-browser"]);
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = start_driver();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let mut browser = WebDriver {
            driver,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            http,
            session: format!("http://127.0.0.1:{port}/session"),
            _profile: profile,
        };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            &profile,
        ];
        let capabilities = json!({
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
        });
        let started = browser.post("", json!({"capabilities": {"alwaysMatch": capabilities}}));
        let id = started.unwrap()["sessionId"].as_str().unwrap().to_owned();
        browser.session = format!("{}/{id}", browser.session);
        browser.cdp(
            "Emulation.setDeviceMetricsOverride",
            json!({
                "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
            }),
        );
        let scheme = if is_dark { "dark" } else { "light" };
        browser.cdp(
            "Emulation.setEmulatedMedia",
            json!({
                "features": [{"name": "prefers-color-scheme", "value": scheme}],
            }),
        );
        browser
    }

    fn cdp(&self, command: &str, parameters: Value) {
        let body = json!({"cmd": command, "params": parameters});
        self.post("/goog/cdp/execute", body).unwrap();
    }

    fn post(&self, path: &str, body: Value) -> Result<Value, Refused> {
        self.answer(
            self.http
                .post(format!("{}{path}", self.session))
                .json(&body),
        )
    }

    fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value, Refused> {
        let answer = async {
            let response = request.send().await.unwrap();
            response.json::<Value>().await.unwrap()
        };
        let mut answer = self.runtime.block_on(answer);
        let value = answer["value"].take();
        match value.get("error").and_then(Value::as_str) {
            Some(error) => Err(Refused(format!("{error}: {}", value["message"]))),
            None => Ok(value),
        }
    }

    pub fn go(&self, url: &str) {
        self.post("/url", json!({"url": url})).unwrap();
    }

    fn get(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}{path}", self.session));
        self.answer(request).unwrap()
    }

    /// Loads the page again.
    pub fn refresh(&self) {
        self.post("/refresh", json!({})).unwrap();
    }

    /// The title of the document.
    pub fn title(&self) -> String {
        self.get("/title").as_str().unwrap().to_owned()
    }

    /// The handle of the current tab.
    pub fn tab(&self) -> String {
        self.get("/window").as_str().unwrap().to_owned()
    }

    /// Opens a tab, makes it the current one, and returns its handle.
    pub fn open_tab(&self) -> String {
        let made = self.post("/window/new", json!({"type": "tab"})).unwrap();
        let tab = made["handle"].as_str().unwrap().to_owned();
        self.switch(&tab);
        tab
    }

    /// Makes a tab the current one.
    pub fn switch(&self, tab: &str) {
        self.post("/window", json!({"handle": tab})).unwrap();
    }

    /// Runs a script in the page and returns its result.
    pub fn script(&self, script: &str, arguments: &[Value]) -> Value {
        self.try_script(script, arguments).unwrap()
    }

    fn try_script(&self, script: &str, arguments: &[Value]) -> Result<Value, Refused> {
        self.post(
            "/execute/sync",
            json!({"script": script, "args": arguments}),
        )
    }

    /// Runs a script that passes its result to its last argument.
    pub fn script_later(&self, script: &str) -> Value {
        self.post("/execute/async", json!({"script": script, "args": []}))
            .unwrap()
    }

    /// The id of the first visible element that a selector selects and whose text contains
    /// `text`; preferably one with just this text.
    pub fn find(&self, selector: &str, text: &str) -> Option<String> {
        const FIND: &str = "const [css, text] = arguments;
            const isVisible = (e) => (e.closest('select') ?? e).getClientRects().length > 0;
            const all = [...document.querySelectorAll(css)].filter(isVisible);
            return all.find((e) => e.textContent.trim() === text)
                ?? all.find((e) => e.textContent.includes(text)) ?? null;";
        let found = self
            .try_script(FIND, &[json!(selector), json!(text)])
            .ok()?;
        Some(found.get(ELEMENT)?.as_str()?.to_owned())
    }

    pub fn click(&self, element: &str) -> Result<(), Refused> {
        self.post(&format!("/element/{element}/click"), json!({}))
            .map(drop)
    }

    pub fn send_keys(&self, element: &str, text: &str) -> Result<(), Refused> {
        let path = format!("/element/{element}/value");
        self.post(&path, json!({"text": text})).map(drop)
    }

    /// A screenshot, as PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        use base64::Engine as _;
        let request = self.http.get(format!("{}/screenshot", self.session));
        let text = self.answer(request).unwrap();
        let text = text.as_str().unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    }

    /// What the browser has logged since the last call: scripts' errors, failed requests, and
    /// violations of the policy.
    pub fn take_log(&self) -> Vec<Value> {
        let log = self.post("/se/log", json!({"type": "browser"})).unwrap();
        log.as_array().unwrap().clone()
    }
}

impl Drop for WebDriver {
    fn drop(&mut self) {
        let request = self.http.delete(&self.session);
        let ended = async {
            let _ = request.timeout(Duration::from_secs(10)).send().await;
        };
        self.runtime.block_on(ended);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
