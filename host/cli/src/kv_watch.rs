//! `kvasm kv watch`.

use super::client::{Client, RequestPath, connect, stream};
use super::failure::{CommandOutcome, Failure};
use super::kv::collection;
use super::{Global, output};
use axum::body::Body;
use clap::Args;
use kvasm::model::{AppName, Collection};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::Write;
use std::time::Duration;

/// Without any data for this long, the connection is lost: the server sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(60);
/// The pauses before connecting again.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Maximum size of an event, which has one value.
const EVENT_BYTES_MAX: usize = 256 << 20;

#[derive(Args)]
pub(super) struct KvWatchArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Only this collection
    #[arg(value_parser = collection)]
    collection: Option<Collection>,
    /// Only keys with this prefix
    #[arg(long)]
    prefix: Option<String>,
    /// Only changes after the one with this id
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
}

/// An event of the stream, while its lines arrive.
#[derive(Default)]
struct PartialEvent {
    name: String,
    data: String,
}

/// A change.
#[derive(Deserialize)]
struct ChangeEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    collection: String,
    #[serde(default)]
    entryversion: String,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
}

/// Why the server has ended a stream.
#[derive(Deserialize)]
struct WatchEndData {
    reason: String,
}

/// What has been received.
struct Received {
    json: bool,
    /// The id of the last event.
    last: Option<u64>,
    /// The bytes of an incomplete line.
    rest: Vec<u8>,
    event: PartialEvent,
    /// The reason why the server has ended the stream.
    end: Option<String>,
}

pub(super) async fn run(global: &Global, args: KvWatchArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    if !client.is_server() {
        return Err(Failure::user(
            "only the entries of a running server can be watched; specify it with --server",
        ));
    }
    let client = client.with_timeout(SILENCE);
    let mut received = Received {
        json: global.json,
        last: args.after,
        rest: Vec::new(),
        event: PartialEvent::default(),
        end: None,
    };
    let (mut connected, mut pause) = (false, PAUSE_MIN);
    loop {
        let before = received.last;
        let lost = match receive(&client, &args, &mut received).await {
            Ok(()) => None,
            // Also before the first event: a mistake in the command must not be repeated.
            Err(failure) if !connected && received.last == before => return Err(failure),
            Err(failure) if !failure.may_pass() => return Err(failure),
            Err(failure) => Some(failure),
        };
        connected = true;
        match received.end.take().as_deref() {
            Some("token") => return Err(ended("the token is revoked or has expired")),
            Some("app-deleted") => return Err(ended("the app was deleted")),
            Some(_) | None => {}
        }
        if received.last != before {
            pause = PAUSE_MIN;
        }
        let why = lost.map_or_else(String::new, |failure| format!(": {}", failure.text()));
        output::note_item(&format!("Connection lost{why}; connecting again."));
        tokio::time::sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

fn ended(why: &str) -> Failure {
    Failure::user(format!("the server ended the stream: {why}"))
}

async fn receive(
    client: &Client,
    args: &KvWatchArgs,
    received: &mut Received,
) -> Result<(), Failure> {
    let path = RequestPath::app(&args.app, &["kv", "watch"])
        .with("collection", args.collection.as_ref())
        .with("prefix", args.prefix.as_ref())
        .with("after", received.last);
    received.rest.clear();
    received.event = PartialEvent::default();
    let response = client.send(path.request("GET", Body::empty())?).await?;
    stream(response, |part| received.add(part)).await
}

impl Received {
    fn add(&mut self, part: &[u8]) -> Result<(), Failure> {
        self.rest.extend_from_slice(part);
        if self.rest.len() > EVENT_BYTES_MAX {
            return Err(Failure::host("the server sent an event that is too large"));
        }
        if !part.contains(&b'\n') {
            return Ok(());
        }
        let mut lines = std::mem::take(&mut self.rest);
        let rest = lines.iter().rposition(|byte| *byte == b'\n');
        self.rest = lines.split_off(rest.map_or(0, |end| end + 1));
        let text = String::from_utf8_lossy(&lines);
        text.lines().try_for_each(|line| self.line(line))
    }

    fn line(&mut self, line: &str) -> Result<(), Failure> {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                let event = std::mem::take(&mut self.event);
                return self.event(&event);
            }
            "id" => self.last = value.parse().ok().or(self.last),
            "event" => value.clone_into(&mut self.event.name),
            "data" => self.event.data.push_str(value),
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, event: &PartialEvent) -> Result<(), Failure> {
        let invalid = |e| Failure::host(format!("the server sent an invalid response: {e}"));
        match event.name.as_str() {
            "" if event.data.is_empty() => Ok(()),
            "" if self.json => output::json_line(event.data.as_bytes()),
            "" => {
                let change: ChangeEvent<'_> = serde_json::from_str(&event.data).map_err(invalid)?;
                writeln!(std::io::stdout(), "{}", change.shown())?;
                Ok(())
            }
            "gap" => {
                if self.json {
                    let gap: serde_json::Value =
                        serde_json::from_str(&event.data).map_err(invalid)?;
                    output::json(&serde_json::json!({ "gap": gap }))?;
                }
                output::note("Changes are missing; read the entries again.");
                Ok(())
            }
            "end" => {
                let end: WatchEndData = serde_json::from_str(&event.data).map_err(invalid)?;
                self.end = Some(end.reason);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl ChangeEvent<'_> {
    /// Formats a change for people, in one line.
    fn shown(&self) -> String {
        let verb = self.kind.rsplit('.').next().unwrap_or_default();
        let value = match (&self.data, &self.data_base64) {
            (Some(json), _) => super::kv::shown(Some(*json), None),
            (None, Some(bytes)) => super::kv::shown(None, Some(bytes)),
            (None, None) => String::new(),
        };
        let time = self.time.as_deref().unwrap_or_default();
        let text = format!(
            "{time} {verb:<6} {} {} {} {value}",
            self.collection, self.subject, self.entryversion
        );
        output::escape_line(text.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received() -> Received {
        Received {
            json: false,
            last: None,
            rest: Vec::new(),
            event: PartialEvent::default(),
            end: None,
        }
    }

    #[test]
    fn events_are_read_from_parts_of_any_size() {
        let text = "event: ready\nid: 7\ndata: {}\n\n:\n\n:\nid: 9\n\n\
                    event: end\nid: 9\ndata: {\"reason\":\"slow\"}\n\n";
        for size in 1..text.len() {
            let mut received = received();
            for part in text.as_bytes().chunks(size) {
                received.add(part).ok().unwrap();
            }
            assert_eq!(received.last, Some(9), "{size}");
            assert_eq!(received.end.as_deref(), Some("slow"), "{size}");
        }
    }

    #[test]
    fn change_is_one_line_without_control_characters() {
        let text = r#"{"type":"kvasm.entry.set","time":"T","subject":"a\nb\u001b[2K",
            "collection":"c","entryversion":"3","data":{"x":1}}"#;
        let change: ChangeEvent<'_> = serde_json::from_str(text).unwrap();
        let shown = change.shown();
        assert!(!shown.contains(['\n', '\u{1b}']), "{shown}");
        assert!(shown.starts_with("T set    c a\\nb"), "{shown}");
        assert!(shown.ends_with(" 3 {\"x\":1}"), "{shown}");
    }
}
