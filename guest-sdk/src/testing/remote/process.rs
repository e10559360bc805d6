//! The process of the host, and the folder of its store.

use super::messages::{Answer, Line};
use crate::sys::native;
use crate::testing::Deliveries;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Set by `kvasm test --wasm`: the program that is the host, and a folder with the module.
const PROGRAM_VARIABLE: &str = "KVASM_TEST_HOST";
const FOLDER_VARIABLE: &str = "KVASM_TEST_FOLDER";

/// Counts the harnesses of this process.
static HARNESSES: AtomicU64 = AtomicU64::new(0);

/// How a request ended.
pub(super) enum Ended {
    Done(Box<Answer>),
    /// The host has crashed, as planned.
    Crashed,
}

/// A host in a process of its own.
pub(super) struct HostProcess {
    program: PathBuf,
    /// What `kvasm test` has prepared.
    folder: PathBuf,
    /// The folder of this harness: `store`, and copies of it.
    own: PathBuf,
    copies: Cell<u32>,
    running: RefCell<Option<Pipes>>,
    /// What handlers did during the current requests, and which one has started last.
    deliveries: RefCell<Deliveries>,
    handler: RefCell<String>,
}

struct Pipes {
    child: Child,
    to: Option<ChildStdin>,
    from: Option<BufReader<ChildStdout>>,
}

impl HostProcess {
    /// Returns the host of a new harness, if `kvasm test --wasm` runs the test.
    pub(super) fn of_environment() -> Option<HostProcess> {
        let program = std::env::var_os(PROGRAM_VARIABLE)?.into();
        let folder: PathBuf = std::env::var_os(FOLDER_VARIABLE)?.into();
        let number = HARNESSES.fetch_add(1, Ordering::Relaxed);
        let own = format!("{}-{number}", std::process::id());
        Some(HostProcess {
            program,
            own: folder.join("stores").join(own),
            folder,
            copies: Cell::new(0),
            running: RefCell::new(None),
            deliveries: RefCell::default(),
            handler: RefCell::default(),
        })
    }

    fn store(&self) -> PathBuf {
        self.own.join("store")
    }

    /// Starts the process, and opens the store.
    #[track_caller]
    pub(super) fn open(&self) {
        let mut command = Command::new(&self.program);
        command
            .arg("test-host")
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = must("start the host", command.spawn());
        let (to, from) = (child.stdin.take(), child.stdout.take());
        self.running.replace(Some(Pipes {
            child,
            to,
            from: from.map(BufReader::new),
        }));
        self.exchange(&json!({
            "do": "open",
            "folder": self.store(),
            "now_ms": native::time_ms(),
        }));
    }

    /// Sends a request, and waits until it is done. `runs_plugin` are those that faults are planned
    /// for.
    ///
    /// # Panics
    /// If the host refuses it, or has ended.
    #[track_caller]
    pub(super) fn request(&self, action: &str, arguments: Value, runs_plugin: bool) -> Ended {
        if self.running.borrow().is_none() {
            self.open();
        }
        let mut request = arguments;
        if let Value::Object(members) = &mut request {
            members.insert("do".to_owned(), action.into());
            members.insert("now_ms".to_owned(), native::time_ms().into());
            if runs_plugin {
                members.insert("faults".to_owned(), native::planned_faults());
            }
        }
        let ended = self.exchange(&request);
        if runs_plugin {
            match &ended {
                Ended::Done(answer) => native::count_faults(answer.operations, answer.conflicts),
                Ended::Crashed => native::count_crash(),
            }
        }
        ended
    }

    #[track_caller]
    fn exchange(&self, request: &Value) -> Ended {
        self.send(request);
        loop {
            let line = self.receive();
            match line {
                Line::Log(text) => eprintln!("{text}"),
                Line::Fetch(fetch) => {
                    let mut answer = json!({ "do": "fetched", "now_ms": native::time_ms() });
                    if let (Value::Object(into), Value::Object(from)) =
                        (&mut answer, super::answer_fetch(fetch))
                    {
                        into.extend(from);
                    }
                    self.send(&answer);
                }
                Line::Started(handler) => drop(self.handler.replace(handler)),
                Line::Succeeded => self.deliveries.borrow_mut().succeeded += 1,
                Line::Failed(why) => self.deliveries.borrow_mut().failures.push(why),
                Line::Crashed(now_ms) => {
                    native::set_now_ms(now_ms);
                    let handler = self.handler.take();
                    if !handler.is_empty() {
                        let why = format!("{handler}: the host crashed");
                        self.deliveries.borrow_mut().failures.push(why);
                    }
                    self.stop();
                    return Ended::Crashed;
                }
                Line::Done(answer) => {
                    self.handler.take();
                    return Ended::Done(answer);
                }
                Line::Refused(why) => panic!("the host of `kvasm test --wasm`: {why}"),
            }
        }
    }

    fn send(&self, message: &Value) {
        let mut running = self.running.borrow_mut();
        if let Some(to) = running.as_mut().and_then(|pipes| pipes.to.as_mut()) {
            let sent = writeln!(to, "{message}").and_then(|()| to.flush());
            must("tell the host", sent);
        }
    }

    fn receive(&self) -> Line {
        let mut text = String::new();
        let mut running = self.running.borrow_mut();
        if let Some(from) = running.as_mut().and_then(|pipes| pipes.from.as_mut()) {
            must("hear the host", from.read_line(&mut text));
        }
        drop(running);
        assert!(
            !text.is_empty(),
            "the host of `kvasm test --wasm` has ended; its messages are above"
        );
        serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!(
                "the SDK of the test and the program `kvasm` are of different versions: {error}: \
                 {text}"
            )
        })
    }

    /// Returns what handlers did since this was called last.
    pub(super) fn take_deliveries(&self) -> Deliveries {
        self.deliveries.take()
    }

    /// Waits for the end of the process. The next request starts another one.
    fn stop(&self) {
        if let Some(mut pipes) = self.running.take() {
            drop(pipes.to);
            let _ = pipes.child.wait();
        }
    }

    /// Ends the process, and copies the store. Returns the folder of the copy.
    pub(super) fn save(&self) -> Rc<Path> {
        self.stop();
        self.copies.set(self.copies.get() + 1);
        let copy = self.own.join(format!("copy-{}", self.copies.get()));
        copy_files(&self.store(), &copy);
        copy.into()
    }

    /// Ends the process, and puts a copy in the place of the store.
    pub(super) fn restore(&self, copy: &Path) {
        self.stop();
        must("remove the store", std::fs::remove_dir_all(self.store()));
        copy_files(copy, &self.store());
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if let Some(mut pipes) = self.running.take() {
            // Nothing of it is needed any more.
            let _ = pipes.child.kill();
            let _ = pipes.child.wait();
        }
        // The folder itself stays: it tells that a test has run the module.
        for folder in std::fs::read_dir(&self.own).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

fn copy_files(from: &Path, to: &Path) {
    must("make a folder", std::fs::create_dir_all(to));
    for file in must("read the store", std::fs::read_dir(from)).flatten() {
        must(
            "copy the store",
            std::fs::copy(file.path(), to.join(file.file_name())),
        );
    }
}

fn must<T>(what: &str, result: std::io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("`kvasm test --wasm` cannot {what}: {error}"))
}
