//! `kvasm logs`.

use super::Global;
use super::client::{Path, connect, stream};
use super::failure::{Failure, Outcome};
use super::output;
use clap::Args;
use kvasm::http::Body;
use kvasm::http::api::LogView;
use kvasm::model::AppName;
use std::io::Write;

#[derive(Args)]
pub(super) struct Logs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Go on with new lines as they come
    #[arg(long, short)]
    follow: bool,
    /// The last so many lines
    #[arg(long, short = 'n', default_value_t = 100)]
    limit: u32,
}

pub(super) async fn run(global: &Global, logs: Logs) -> Result<Outcome, Failure> {
    let client = connect(global).await?;
    if !client.is_server() {
        return Err(Failure::user(
            "logs are in the memory of a running server; name it with --server",
        ));
    }
    let path = Path::app(&logs.app, &["logs"]).with("limit", Some(logs.limit));
    let path = path.with("follow", logs.follow.then_some(true));
    // A plugin may log nothing for a long time.
    let client = match logs.follow {
        true => client.patient(),
        false => client,
    };
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
    Ok(Outcome::Done)
}

fn print(json: bool, line: &[u8]) -> Result<(), Failure> {
    // A blank line only says that the server is there.
    if line.is_empty() {
        return Ok(());
    }
    if json {
        return output::json_line(line);
    }
    let log: LogView = serde_json::from_slice(line)
        .map_err(|e| Failure::host(format!("the answer is not what it must be: {e}")))?;
    let (at, level) = (output::time(log.at), &log.level);
    let source = if log.source == "host" { "[host] " } else { "" };
    let thrown = if log.discarded { "[thrown away] " } else { "" };
    let text = format!(
        "{at} {level:<5} {} {source}{thrown}{}",
        log.function, log.message
    );
    writeln!(std::io::stdout(), "{}", output::clean_item(&text))?;
    Ok(())
}
