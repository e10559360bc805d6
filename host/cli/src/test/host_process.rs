//! The process that is the host of one test.

use super::link::HarnessLink;
use super::messages::{HarnessAction, HarnessAnswer, HarnessLine, HarnessRequest};
use super::test_app::TestApp;
use super::{CACHE, MODULE};
use crate::failure::Failure;
use kvasm::model::Timestamp;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The first argument of the process. The second is the folder that `kvasm test` has made.
pub(crate) const TEST_HOST: &str = "test-host";

/// Serves the harness at the other end of standard input and output, until it closes them.
pub(crate) fn serve(folder: Option<PathBuf>) -> ExitCode {
    let link = Arc::new(HarnessLink::default());
    let served = match (folder, tokio::runtime::Runtime::new()) {
        (Some(folder), Ok(runtime)) => {
            let served = runtime.block_on(requests(&folder, &link));
            runtime.shutdown_background();
            served
        }
        (None, _) => Err(Failure::user(
            "`kvasm test --wasm` starts this itself, with a folder",
        )),
        (_, Err(error)) => Err(error.into()),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            link.send(&HarnessLine::Refused(failure.text().to_owned()));
            ExitCode::FAILURE
        }
    }
}

async fn requests(folder: &Path, link: &Arc<HarnessLink>) -> Result<(), Failure> {
    let mut lines = input_lines();
    let mut app: Option<Arc<TestApp>> = None;
    while let Some(line) = lines.recv().await {
        let request: HarnessRequest = serde_json::from_str(&line).map_err(|error| {
            Failure::user(format!(
                "the SDK of the test and this program are of different versions: {error}"
            ))
        })?;
        match (request.action, &app) {
            (HarnessAction::Fetched(answer), _) => link.answer(answer),
            (HarnessAction::Stop, _) => return Ok(()),
            (HarnessAction::Open { folder: store }, _) => {
                Timestamp::stop_clock(Timestamp(request.now_ms));
                let wasm = crate::input::file(&folder.join(MODULE))?;
                let opened = TestApp::open(&store, wasm, &folder.join(CACHE), link).await?;
                app = Some(Arc::new(opened));
                link.send(&HarnessLine::Done(Box::new(HarnessAnswer {
                    now_ms: request.now_ms,
                    ..HarnessAnswer::default()
                })));
            }
            (action, Some(app)) => {
                let app = Arc::clone(app);
                let request = HarnessRequest { action, ..request };
                // While it waits for the test, the test may ask for more.
                tokio::spawn(async move { app.act(request).await });
            }
            (_, None) => return Err(Failure::user("no store is open")),
        }
    }
    Ok(())
}

/// Reads lines of standard input, until it ends.
fn input_lines() -> mpsc::UnboundedReceiver<String> {
    let (send, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
