//! `kvasm call`.

use super::client::{RequestPath, bytes, connect_to_load, set};
use super::failure::{CommandOutcome, Failure};
use super::run::output_as_json;
use super::{Global, input, output};
use axum::body::Body;
use axum::http::HeaderMap;
use clap::Args;
use kvasm::api::CostView;
use kvasm::model::{AppName, IdempotencyKey};
use serde_json::json;

#[derive(Args)]
pub(super) struct CallArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// The function to call
    function: String,
    /// Input of the function: text, @FILE, or - for stdin [default: none]
    #[arg(long, short)]
    input: Option<String>,
    /// Make the call take effect once: a repeat with the same key and input gets the kept answer
    #[arg(long, value_name = "KEY", value_parser = IdempotencyKey::parse)]
    idempotency_key: Option<IdempotencyKey>,
    /// Print what the call used, such as CPU time and reads; requires a token with log:read
    #[arg(long, short)]
    verbose: bool,
}

/// Calls a function of the app's active plugin.
pub(super) async fn run(global: &Global, call: CallArgs) -> Result<CommandOutcome, Failure> {
    let input = match &call.input {
        Some(input) => input::argument(input)?,
        None => Vec::new(),
    };
    let client = connect_to_load(global).await?;
    let path = RequestPath::app(&call.app, &["call", &call.function]);
    let mut request = path.request("POST", Body::from(input))?;
    set(&mut request, "content-type", "application/octet-stream");
    if let Some(key) = &call.idempotency_key {
        set(&mut request, "idempotency-key", &key.to_header());
    }
    if call.verbose {
        set(&mut request, "kvasm-cost", "?1");
    }
    let answer = client.send(request).await;
    // What a transaction writes is up to the plugin.
    let answer = answer.map_err(|failure| failure.of_plugin_if(&["no-integer"]));
    let answer = answer.map_err(|failure| match client.is_server() {
        true => failure.with_log_of(global, &call.app),
        // The log was in the memory of this process.
        false => failure,
    })?;
    let cost = cost_of(answer.headers());
    let replayed = answer.headers().contains_key("idempotency-replayed");
    if !global.json {
        if replayed {
            output::note("This is the kept answer of an earlier call with this key.");
        }
        // Before the output, which need not end with a line break.
        match cost {
            Some(cost) => note_cost(&cost),
            None if call.verbose => output::note(
                "The server did not report the cost of the call; the token needs the scope \
                 log:read.",
            ),
            None => {}
        }
        output::stream(answer, b"").await?;
        return Ok(CommandOutcome::Done);
    }
    let id = answer
        .headers()
        .get("x-request-id")
        .and_then(|id| id.to_str().ok());
    let id = id.unwrap_or_default().to_owned();
    let body = bytes(answer).await?;
    let mut answer = json!({ "output": output_as_json(&body), "request_id": id });
    if let Some(members) = answer.as_object_mut() {
        if call.verbose {
            members.insert("cost".to_owned(), json!(cost));
        }
        if call.idempotency_key.is_some() {
            members.insert("replayed".to_owned(), json!(replayed));
        }
    }
    output::json(&answer)?;
    Ok(CommandOutcome::Done)
}

/// Returns the cost of a call, if a response reports it.
pub(super) fn cost_of(headers: &HeaderMap) -> Option<CostView> {
    let field = headers.get("kvasm-cost")?.to_str().ok()?;
    let timings = headers.get_all("server-timing").iter();
    CostView::parse(field, timings.filter_map(|value| value.to_str().ok()))
}

/// Prints the cost of a call to standard error.
pub(super) fn note_cost(cost: &CostView) {
    output::note_item(&cost_block(cost));
}

/// One line for each figure, in two columns.
fn cost_block(cost: &CostView) -> String {
    let reads = format!("{} ({} bytes)", cost.entries_read, cost.bytes_read);
    let writes = format!("{} ({} bytes)", cost.entries_written, cost.bytes_written);
    let (ms, us) = (cost.cpu_us / 1_000, cost.cpu_us % 1_000);
    let rows = [
        ("CPU time", format!("{ms}.{us:03} ms")),
        ("peak memory", format!("{} KiB", cost.memory_bytes / 1024)),
        ("entries read", reads),
        ("entries written", writes),
        ("host calls", cost.host_calls.to_string()),
        ("fetches", cost.fetches.to_string()),
        ("runs", cost.runs.to_string()),
    ];
    let lines = rows.map(|(name, value)| format!("{name:15}  {value}"));
    format!("cost of the call:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_one_block() {
        let cost = CostView {
            runs: 2,
            cpu_us: 1_034,
            memory_bytes: 1_114_112,
            entries_read: 3,
            entries_written: 4,
            bytes_read: 50,
            bytes_written: 60,
            host_calls: 9,
            fetches: 1,
        };
        assert_eq!(
            cost_block(&cost),
            "cost of the call:\n\
             CPU time         1.034 ms\n\
             peak memory      1088 KiB\n\
             entries read     3 (50 bytes)\n\
             entries written  4 (60 bytes)\n\
             host calls       9\n\
             fetches          1\n\
             runs             2"
        );
    }
}
