//! `kvasm kv export` and `import`: an app's entries as JSON Lines.

use super::client::{Path, bytes, connect, set, stream};
use super::failure::{Failure, Outcome};
use super::{Global, output};
use indicatif::{ProgressBar, ProgressDrawTarget};
use kvasm::http::Body;
use kvasm::http::api::Imported;
use kvasm::model::{AppName, Collection};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// What is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

pub(super) async fn export(
    global: &Global,
    app: &AppName,
    collection: Option<Collection>,
) -> Result<Outcome, Failure> {
    let client = connect(global).await?;
    let path = Path::app(app, &["kv", "export"]).with("collection", collection);
    let response = client.send(path.request("GET", Body::empty())?).await?;
    let progress = Progress::new("exported");
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    stream(response, |part| {
        progress.add(part);
        Ok(out.write_all(part)?)
    })
    .await?;
    out.flush()?;
    Ok(Outcome::Done)
}

pub(super) async fn import(
    global: &Global,
    app: &AppName,
    file: Option<PathBuf>,
) -> Result<Outcome, Failure> {
    let input: Box<dyn AsyncRead + Send + Unpin> = match file {
        None => Box::new(tokio::io::stdin()),
        Some(path) => {
            let opened = tokio::fs::File::open(&path).await;
            Box::new(opened.map_err(|e| Failure::user(format!("{}: {e}", path.display())))?)
        }
    };
    let client = connect(global).await?;
    let progress = Progress::new("read");
    let lines = ReaderStream::with_capacity(input, CHUNK_BYTES);
    let lines = futures_util::StreamExt::inspect(lines, move |part| {
        if let Ok(part) = part {
            progress.add(part);
        }
    });
    let path = Path::app(app, &["kv", "import"]);
    let mut request = path.request("POST", Body::from_stream(lines))?;
    set(&mut request, "content-type", "application/jsonl");
    let answer = bytes(client.send(request).await?).await?;
    let done: Imported =
        serde_json::from_slice(&answer).map_err(|e| Failure::host(e.to_string()))?;
    output::object(global.json, &json!(done), || {
        let (imported, expired) = (done.imported, done.expired);
        format!("Imported {imported} entries; {expired} had expired and were left out.")
    })?;
    Ok(Outcome::Done)
}

/// A running count of lines on a terminal; nothing elsewhere.
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
