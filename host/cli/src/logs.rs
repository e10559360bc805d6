//! `kvasm logs`.

use super::Global;
use super::client::{Client, RequestPath, connect, stream};
use super::dead_letter::parse_time;
use super::failure::{CommandOutcome, Failure};
use super::output;
use axum::body::Body;
use clap::Args;
use kvasm::api::LogView;
use kvasm::model::{AppName, Level, Timestamp, TraceId};
use std::io::Write;
use uuid::Uuid;

#[derive(Args)]
pub(super) struct LogsArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Print new lines as they arrive
    #[arg(long, short)]
    follow: bool,
    /// Number of lines to show
    #[arg(long, short = 'n', default_value_t = 100)]
    limit: u32,
    /// Only lines of this request
    #[arg(long, value_name = "ID")]
    request: Option<Uuid>,
    /// Only lines of this trace, which the client of a request or its request id names
    #[arg(long, value_name = "ID", value_parser = trace_id)]
    trace: Option<TraceId>,
    /// Only lines at least as severe as this: error, warn, info, debug or trace
    #[arg(long, value_parser = level)]
    level: Option<Level>,
    /// Only lines written at or after this time: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only lines of calls of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Only lines that contain this text
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
}

fn level(word: &str) -> Result<Level, String> {
    let words = || Level::ALL.map(Level::as_str).join(", ");
    word.parse()
        .map_err(|()| format!("expected one of {}", words()))
}

fn trace_id(text: &str) -> Result<TraceId, String> {
    let refused = |()| "expected 32 hexadecimal digits, or a UUID".to_owned();
    text.parse().map_err(refused)
}

pub(super) async fn run(global: &Global, logs: LogsArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    if logs.follow && !client.is_server() {
        return Err(Failure::user(
            "only a running server's log can be followed; specify it with --server",
        ));
    }
    let path = RequestPath::app(&logs.app, &["logs"])
        .with("request", logs.request)
        .with("trace", logs.trace)
        .with("level", logs.level.map(Level::as_str))
        .with("since", logs.since.map(|at| at.0))
        .with("function", logs.function)
        .with("grep", logs.grep);
    if !logs.follow {
        return print_pages(global, &client, &path, logs.limit).await;
    }
    let path = path
        .with("limit", Some(logs.limit))
        .with("follow", Some(true));
    // A plugin may log nothing for a long time.
    let client = client.without_timeout();
    let response = client.send(path.request("GET", Body::empty())?).await?;
    let mut rest = Vec::new();
    stream(response, |part| {
        rest.extend_from_slice(part);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            print(global.json, line.trim_ascii())?;
        }
        Ok(())
    })
    .await?;
    Ok(CommandOutcome::Done)
}

/// Prints the newest lines, oldest first. One page of the server may have fewer than there are.
async fn print_pages(
    global: &Global,
    client: &Client,
    path: &RequestPath,
    limit: u32,
) -> Result<CommandOutcome, Failure> {
    let found = read_pages(client, path, limit).await?;
    for line in &found.lines {
        print(global.json, line)?;
    }
    Ok(CommandOutcome::Done)
}

/// Lines of JSON that were read by pages.
pub(super) struct PagedLines {
    /// Oldest first.
    pub(super) lines: Vec<Vec<u8>>,
    /// The number of records that were left out when they were written.
    pub(super) left_out: u64,
}

/// Reads the newest lines.
pub(super) async fn read_pages(
    client: &Client,
    path: &RequestPath,
    limit: u32,
) -> Result<PagedLines, Failure> {
    let mut newest_first = Vec::new();
    let (mut left, mut cursor, mut left_out) = (limit as usize, None::<String>, 0_u64);
    while left > 0 {
        let page = path
            .clone()
            .with("limit", Some(left))
            .with("before", cursor);
        let response = client.send(page.request("GET", Body::empty())?).await?;
        let header = |name| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        cursor = header("kvasm-next");
        let lost = header("kvasm-left-out").and_then(|number| number.parse::<u64>().ok());
        left_out = left_out.saturating_add(lost.unwrap_or(0));
        let mut text = Vec::new();
        stream(response, |part| {
            text.extend_from_slice(part);
            Ok(())
        })
        .await?;
        let lines = text.split(|byte| *byte == b'\n');
        let lines: Vec<_> = lines
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        left = left.saturating_sub(lines.len());
        newest_first.extend(lines.into_iter().rev());
        if cursor.is_none() {
            break;
        }
    }
    newest_first.reverse();
    Ok(PagedLines {
        lines: newest_first,
        left_out,
    })
}

fn print(json: bool, line: &[u8]) -> Result<(), Failure> {
    // A blank line only keeps the connection alive.
    if line.is_empty() {
        return Ok(());
    }
    if json {
        return output::json_line(line);
    }
    let log: LogView = serde_json::from_slice(line)
        .map_err(|e| Failure::host(format!("the server sent an invalid response: {e}")))?;
    writeln!(std::io::stdout(), "{}", shown(&log))?;
    Ok(())
}

/// Formats a record for people. Line breaks in a plugin's text are escaped, so that it cannot forge
/// another record, such as one of the host. A record of the host may have several lines, such as a
/// trace; those after the first are indented.
pub(super) fn shown(log: &LogView) -> String {
    let (at, level) = (output::time(log.at), &log.level);
    let source = if log.source == "host" { "[host] " } else { "" };
    let discarded = if log.discarded { "[discarded] " } else { "" };
    let text = format!(
        "{at} {level:<5} {} {source}{discarded}{}",
        log.function, log.message
    );
    match log.source.as_str() {
        "host" => output::escape_item(&text),
        _ => output::escape_line(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_text_cannot_forge_a_host_log_line() {
        let log = LogView {
            seq: 1,
            at: 0,
            level: "info".to_owned(),
            source: "plugin".to_owned(),
            function: "f".to_owned(),
            request_id: String::new(),
            trace_id: None,
            message: "x\n1970-01-01T00:00:00.000Z error f [host] forged\r\u{1b}[2K".to_owned(),
            discarded: false,
            cost: None,
        };
        let text = shown(&log);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains(['\n', '\r', '\u{1b}']));
        assert!(
            text.starts_with("1970-01-01T00:00:00.000Z info  f x\\n1970-"),
            "{text}"
        );
    }
}
