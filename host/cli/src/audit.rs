//! `kvasm audit`.

use super::client::{Pages, connect};
use super::dead_letter::parse_time;
use super::failure::{CommandOutcome, Failure};
use super::token::path;
use super::{Global, output};
use clap::Args;
use kvasm::api::{AuditPage, AuditView};
use kvasm::model::{AppName, Timestamp};

/// The maximum number of rows of a page.
const PAGE_ROWS_MAX: usize = 1_000;

#[derive(Args)]
pub(super) struct AuditArgs {
    /// Only operations on this app
    #[arg(value_parser = AppName::parse)]
    app: Option<AppName>,
    /// Number of rows to show, newest first
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Only operations of this actor: the name of a token or of a command
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only this operation, such as token.create, or those of this kind, such as token
    #[arg(long, value_name = "OPERATION")]
    action: Option<String>,
    /// Only operations at or after this time: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only operations before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
}

/// Shows the audit log, newest first.
pub(super) async fn run(global: &Global, audit: AuditArgs) -> Result<CommandOutcome, Failure> {
    let rows = read(global, audit).await?;
    if global.json {
        output::json(&rows)?;
        return Ok(CommandOutcome::Done);
    }
    let rows = rows.into_iter().map(|row| {
        [
            output::time(row.at),
            row.actor,
            row.action,
            row.app.unwrap_or_default(),
            row.detail.to_string(),
            row.request_id,
        ]
    });
    output::table(["TIME", "WHO", "WHAT", "APP", "DETAIL", "REQUEST"], rows)?;
    Ok(CommandOutcome::Done)
}

/// Reads pages up to the limit. A page of a search may be short, or empty, before the last one.
async fn read(global: &Global, audit: AuditArgs) -> Result<Vec<AuditView>, Failure> {
    let client = connect(global).await?;
    let (mut rows, mut before, mut pages) = (Vec::new(), None, Pages::default());
    loop {
        let left = audit.limit - rows.len();
        let path = path(audit.app.as_ref(), &["audit"])
            .with("limit", Some(left.min(PAGE_ROWS_MAX)))
            .with("actor", audit.actor.as_deref())
            .with("action", audit.action.as_deref())
            .with("since", audit.since.map(|at| at.0))
            .with("until", audit.until.map(|at| at.0))
            .with("before", before);
        let page: AuditPage = client.get(&path).await?;
        rows.extend(page.audit.into_iter().take(left));
        before = pages.next(page.next)?;
        if before.is_none() || rows.len() >= audit.limit {
            return Ok(rows);
        }
    }
}
