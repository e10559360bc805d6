//! The program as a process, with its own home folder.

use super::guest;
use super::raw_client::{PATIENCE, RawConnection, ReceivedBytes, Response, request};
use std::io::{PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The path of the program: `KVASM_BIN`, or what `cargo build --workspace --bin kvasm` builds.
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("KVASM_BIN") {
        return program.into();
    }
    // The test is in target/debug/deps, and the program in target/debug.
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("kvasm");
    assert!(
        program.exists(),
        "`cargo build --workspace --bin kvasm` builds the program"
    );
    program
}

/// Polls until `found` returns something, for at most a minute.
#[track_caller]
pub fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("timed out after a minute: {what}");
}

/// The output and the exit status of a command.
pub struct CommandOutput {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A folder that is the home of a server and its users.
pub struct Home {
    folder: TempDir,
    /// The token printed at the first start.
    token: OnceLock<String>,
}

impl Default for Home {
    fn default() -> Home {
        Home {
            folder: tempfile::tempdir().unwrap(),
            token: OnceLock::new(),
        }
    }
}

impl Home {
    pub fn new() -> Home {
        Home::default()
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A command whose environment refers only to this home.
    pub fn prepare(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(program.into());
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A command of the program. A server that it starts has one address for everything, unless
    /// the arguments name an administration address: many servers run at the same time.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.prepare(program());
        command.env("KVASM_ADMIN_LISTEN", "none");
        command.args(arguments);
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> CommandOutput {
        run(self.command(arguments), b"")
    }

    /// Starts a server on a free port.
    pub fn start(&self, arguments: &[&str]) -> Server {
        let mut command = self.command(&SERVE_ARGUMENTS);
        command.args(arguments);
        self.spawn(command)
    }

    /// Starts a server with this pipe as its standard error.
    pub fn start_logging_to(&self, pipe: PipeWriter, arguments: &[&str]) -> Server {
        let mut command = self.command(&SERVE_ARGUMENTS);
        command.args(arguments).stderr(pipe);
        self.spawn(command)
    }

    /// Starts a server from a command.
    pub fn spawn(&self, mut command: Command) -> Server {
        let mut child = command.spawn().unwrap();
        let stdout = collect(child.stdout.take().unwrap());
        // A pipe that a test has taken is not collected.
        let stderr = child.stderr.take().map(collect).unwrap_or_default();
        let mut server = Server {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            token: String::new(),
            stdout,
            stderr,
            received: ReceivedBytes::default(),
        };
        server.address = server.wait_for_address();
        let printed = server.stdout();
        let token = printed
            .lines()
            .find_map(|line| line.strip_prefix(TOKEN_PREFIX));
        if let Some(token) = token {
            let _ = self.token.set(token.to_owned());
        }
        server.token = self.token.get().cloned().unwrap_or_default();
        server
    }
}

/// Printed before the token at the first start.
pub const TOKEN_PREFIX: &str = "Admin token, shown this once: ";

/// Arguments to serve on a free port with few instances, as many servers run at the same time.
pub const SERVE_ARGUMENTS: [&str; 5] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--set",
    "engine.instances=16",
];

/// Runs a command to its end.
pub fn run(mut command: Command, input: &[u8]) -> CommandOutput {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    // A program that fails early closes its stdin.
    let _ = child.stdin.take().unwrap().write_all(input);
    let status = end(&mut child);
    let text = |output: Output| {
        eventually("the end of the output", || {
            let output = output.lock().unwrap();
            output.1.then(|| output.0.clone())
        })
    };
    CommandOutput {
        code: status.code().unwrap(),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// The output of a process, and whether it is complete.
type Output = Arc<Mutex<(String, bool)>>;

fn collect(mut from: impl Read + Send + 'static) -> Output {
    let output = Output::default();
    let into = Arc::clone(&output);
    std::thread::spawn(move || {
        let mut part = vec![0; 64 * 1024];
        while let Ok(len @ 1..) = from.read(&mut part) {
            let text = String::from_utf8_lossy(&part[..len]);
            into.lock().unwrap().0.push_str(&text);
        }
        into.lock().unwrap().1 = true;
    });
    output
}

fn end(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    panic!("the process did not end within a minute");
}

/// A running server. Dropping it kills it.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// An administrator's token.
    pub token: String,
    stdout: Output,
    stderr: Output,
    /// All bytes that clients have received.
    pub received: ReceivedBytes,
}

impl Server {
    fn wait_for_address(&mut self) -> SocketAddr {
        eventually("the line that says where the server listens", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", self.stderr());
            let stdout = self.stdout();
            let (_, rest) = stdout.split_once("Listening on http://")?;
            let (address, _) = rest.split_once('\n')?;
            Some(address.parse().unwrap())
        })
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().0.clone()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().0.clone()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The current memory of the process, in bytes.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The peak memory of the process, in bytes.
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    #[track_caller]
    fn status(&self, name: &str) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let mut command = Command::new("sh");
        let pid = self.child.id().to_string();
        command.args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]);
        // A process that has already ended needs no signal.
        let _ = command.stderr(Stdio::null()).status().unwrap();
    }

    /// Waits for the end. Returns the exit code, or none if a signal ended the process.
    pub fn code(&mut self) -> Option<i32> {
        end(&mut self.child).code()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Stops the server and waits until it has ended.
    pub fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.code(), Some(0), "{}", self.stderr());
    }

    /// Stops the server and inspects its whole log.
    pub fn stop_and_inspect_log(mut self, look: impl FnOnce(&str)) {
        self.signal("TERM");
        assert_eq!(self.code(), Some(0), "{}", self.stderr());
        let log = eventually("the end of the log", || {
            let output = self.stderr.lock().unwrap();
            output.1.then(|| output.0.clone())
        });
        look(&log);
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Opens a connection.
    pub fn open(&self) -> RawConnection {
        RawConnection::open(self.address, Arc::clone(&self.received))
    }

    /// The authorization header of an administrator.
    pub fn authorization(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    /// Sends a request on a new connection. Returns none if there is no response.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Option<Response> {
        let mut line = RawConnection::try_open(self.address, Arc::clone(&self.received)).ok()?;
        let headers = format!("Connection: close\r\n{headers}");
        line.try_send(request(method, path, &headers, body));
        line.answer()
    }

    /// Sends a request as an administrator.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Response {
        let headers = format!("Content-Type: {kind}\r\n{}", self.authorization());
        self.try_request(method, path, &headers, body)
            .expect("an answer")
    }

    /// Sends a GET request without a token.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.try_request("GET", path, "", b"").expect("an answer")
    }

    /// Calls a function without a token.
    #[track_caller]
    pub fn call(&self, app: &str, function: &str, input: &[u8]) -> Response {
        let path = format!("/v1/apps/{app}/call/{function}");
        self.try_request("POST", &path, "", input)
            .expect("an answer")
    }

    /// Writes an entry of the collection `c`.
    #[track_caller]
    pub fn put(&self, app: &str, key: &str, value: &[u8]) -> Response {
        let path = format!("/v1/apps/{app}/kv/entry?collection=c&key={key}");
        self.admin("PUT", &path, "application/octet-stream", value)
    }

    /// Reads an entry of the collection `c`.
    #[track_caller]
    pub fn entry(&self, app: &str, key: &str) -> Response {
        let path = format!("/v1/apps/{app}/kv/entry?collection=c&key={key}");
        self.admin("GET", &path, "text/plain", b"")
    }

    /// Creates an app that accepts public calls, without limits.
    #[track_caller]
    pub fn create_app(&self, name: &str) {
        let new = format!("{{\"name\":\"{name}\",\"public\":true}}");
        self.admin("POST", "/v1/apps", "application/json", new.as_bytes())
            .ok();
        let path = format!("/v1/apps/{name}/limits");
        self.admin("PUT", &path, "application/json", b"{}").ok();
    }

    /// Creates an app with the plugin of `guest`.
    #[track_caller]
    pub fn deploy_guest(&self, app: &str) {
        self.create_app(app);
        let path = format!("/v1/apps/{app}/plugins");
        self.admin("POST", &path, "application/wasm", &guest::wasm())
            .ok();
    }

    /// Waits until `count` calls are running.
    #[track_caller]
    pub fn wait_for_calls(&self, count: u32) {
        let line = format!("kvasm_instances {count}\n");
        eventually("calls that run", || {
            let metrics = self.admin("GET", "/metrics", "text/plain", b"").ok();
            metrics.text().contains(&line).then_some(())
        });
    }

    /// Reads the value of a metric.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let metrics = self.admin("GET", "/metrics", "text/plain", b"").ok().text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in {metrics}"))
    }

    /// Fails the test if the server is not ready.
    #[track_caller]
    pub fn assert_healthy(&self) {
        assert_eq!(self.get("/healthz").ok().text(), "ok\n");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
