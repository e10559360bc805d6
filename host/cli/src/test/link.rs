//! The line to the test's process: standard input and output.

use super::messages::{FetchAnswer, HarnessLine};
use kvasm::model::Timestamp;
use parking_lot::Mutex;
use std::io::Write;
use tokio::sync::oneshot;

/// The exit code after a planned crash.
const CRASHED: i32 = 86;

/// Sends lines to the harness, and waits for its answers.
#[derive(Default)]
pub(super) struct HarnessLink {
    /// Who waits for the response to the request that was sent last.
    waiting: Mutex<Option<oneshot::Sender<FetchAnswer>>>,
}

impl HarnessLink {
    /// Sends a line. If the test has ended, so does this process.
    pub(super) fn send(&self, line: &HarnessLine) {
        let written = serde_json::to_string(line).map_err(std::io::Error::from);
        let mut out = std::io::stdout().lock();
        let sent = written
            .and_then(|text| writeln!(out, "{text}"))
            .and_then(|()| out.flush());
        if sent.is_err() {
            std::process::exit(1);
        }
    }

    /// Sends a request of the plugin, and waits for the response.
    pub(super) async fn ask(&self, line: HarnessLine) -> FetchAnswer {
        let (answer, answered) = oneshot::channel();
        *self.waiting.lock() = Some(answer);
        self.send(&line);
        match answered.await {
            Ok(answer) => answer,
            // The process ends then.
            Err(_) => std::future::pending().await,
        }
    }

    /// Passes a response on to who waits for it.
    pub(super) fn answer(&self, fetched: FetchAnswer) {
        if let Some(waiting) = self.waiting.lock().take() {
            let _ = waiting.send(fetched);
        }
    }

    /// Ends the process at once, as a crash would.
    pub(super) fn crash(&self) -> ! {
        self.send(&HarnessLine::Crashed(Timestamp::now().0));
        std::process::exit(CRASHED)
    }
}
