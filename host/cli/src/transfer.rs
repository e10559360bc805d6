//! `kvasm kv export` and `import`: an app's entries as JSON Lines.

use super::client::{RequestPath, bytes, connect, set, stream};
use super::failure::{CommandOutcome, Failure};
use super::{Global, input, output};
use axum::body::Body;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget};
use kvasm::api::Imported;
use kvasm::model::{AppName, Collection};
use parking_lot::Mutex;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// Size of a read.
const CHUNK_BYTES: usize = 64 * 1024;

pub(super) async fn export(
    global: &Global,
    app: &AppName,
    collection: Option<Collection>,
) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let path = RequestPath::app(app, &["kv", "export"]).with("collection", collection);
    let response = client.send(path.request("GET", Body::empty())?).await?;
    let progress = Progress::new("exported");
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut pause = Duration::ZERO;
    let done = stream(response, |part| {
        progress.add(part);
        let start = Instant::now();
        out.write_all(part)?;
        pause = pause.max(start.elapsed());
        Ok(())
    });
    done.await
        .map_err(|failure| explain_pause(pause, failure))?;
    out.flush()?;
    Ok(CommandOutcome::Done)
}

/// The length of a pause of the reader that may cause a failure.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Adds a hint to a failure that a long pause of the reader may have caused.
fn explain_pause(pause: Duration, failure: Failure) -> Failure {
    if pause < LONG_PAUSE || failure.is_closed_pipe() {
        return failure;
    }
    let seconds = pause.as_secs();
    failure.at(&format!(
        "the output was not read for {seconds} s, and the server aborts responses that are read \
         too slowly (see its settings server.write_timeout and server.min_rate)"
    ))
}

pub(super) async fn import(
    global: &Global,
    app: &AppName,
    file: Option<PathBuf>,
) -> Result<CommandOutcome, Failure> {
    let (name, input): (_, Box<dyn AsyncRead + Send + Unpin>) = match file {
        None => ("standard input".to_owned(), Box::new(tokio::io::stdin())),
        Some(path) => {
            let name = path.display().to_string();
            let opened = tokio::fs::File::open(&path).await;
            let opened = opened.map_err(|e| Failure::user(format!("{name}: {e}")))?;
            (name, Box::new(opened))
        }
    };
    let client = connect(global).await?;
    let progress = Progress::new("read");
    // Why reading the input failed, which the server does not know.
    let broken = Arc::new(Mutex::new(None));
    let mut is_first = true;
    let lines = ReaderStream::with_capacity(input, CHUNK_BYTES).map({
        let broken = Arc::clone(&broken);
        move |part| {
            let part = part.and_then(|part| match std::mem::take(&mut is_first) {
                true => match input::strip_bom(&part) {
                    Ok(start) => Ok(part.slice_ref(start)),
                    Err(why) => Err(std::io::Error::other(why)),
                },
                false => Ok(part),
            });
            match &part {
                Ok(part) => progress.add(part),
                Err(error) => *broken.lock() = Some(format!("{name}: {error}")),
            }
            part
        }
    });
    let path = RequestPath::app(app, &["kv", "import"]);
    let mut request = path.request("POST", Body::from_stream(lines))?;
    set(&mut request, "content-type", "application/jsonl");
    let sent = client.send(request).await;
    let answer = match broken.lock().take() {
        Some(why) => Err(Failure::user(why)),
        None => sent,
    };
    let answer = bytes(answer?).await?;
    let done: Imported =
        serde_json::from_slice(&answer).map_err(|e| Failure::host(e.to_string()))?;
    output::object(global.json, &json!(done), || {
        let (imported, expired) = (done.imported, done.expired);
        format!("Imported {imported} entries; skipped {expired} that had expired.")
    })?;
    Ok(CommandOutcome::Done)
}

/// A running count of lines, on a terminal only.
struct Progress(ProgressBar);

impl Progress {
    fn new(verb: &'static str) -> Progress {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) =
            indicatif::ProgressStyle::with_template("{spinner} {human_pos} {msg} ({per_sec})")
        {
            bar.set_style(style);
        }
        bar.set_message(verb);
        Progress(bar)
    }

    fn add(&self, part: &[u8]) {
        let lines = part.iter().filter(|byte| **byte == b'\n').count();
        self.0.inc(lines as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
