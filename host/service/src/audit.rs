//! Reads of the audit log.

use super::{Actor, Admin, ServiceError};
use kvasm_core::{App, AppName, Audit, Capability, Timestamp};
use uuid::Uuid;

/// Maximum number of rows that one search reads: what a host reads from a store in well under a second.
const SEARCHED_ROWS_MAX: u32 = 5_000;
/// Rows that a search reads at once.
const SEARCH_PAGE: u32 = 500;
/// How far the time of a row may be from that in its identity, in milliseconds.
const CLOCK_SLACK_MS: i64 = 60_000;

/// Which rows of the audit log to return, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Only rows with this actor.
    pub actor: Option<String>,
    /// Only rows with this action, such as `token.create`, or of this kind, such as `token`.
    pub action: Option<String>,
    /// Only rows about the app of this name, which may be deleted.
    pub app: Option<AppName>,
    /// Only rows at or after this time.
    pub since: Option<Timestamp>,
    /// Only rows before this time.
    pub until: Option<Timestamp>,
    /// Only rows below this one: the [`next`](AuditRows::next) of the previous page.
    pub before: Option<Uuid>,
    /// Maximum number of rows.
    pub limit: u32,
}

/// A page of the audit log.
#[derive(Debug, Clone)]
pub struct AuditRows {
    /// Newest first. A search may find fewer than asked for, or none, before its last page.
    pub rows: Vec<Audit>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<Uuid>,
}

impl AuditQuery {
    fn matches(&self, row: &Audit) -> bool {
        let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|w| w == has);
        let of_kind = |wanted: &str| {
            let rest = row.action.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let app = row.app.as_ref().map(|(_, name)| name);
        is(&self.actor, &row.actor)
            && self.action.as_deref().is_none_or(of_kind)
            && (self.app.is_none() || self.app.as_ref() == app)
            && self.since.is_none_or(|since| row.at >= since)
            && self.until.is_none_or(|until| row.at < until)
    }

    fn selects_all(&self) -> bool {
        self.actor.is_none()
            && self.action.is_none()
            && self.app.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }

    /// Where a search starts. Identities begin with their time, so nothing above `until` is read.
    fn start(&self) -> Option<Uuid> {
        let until = self.until.map(|until| {
            let ms = u128::try_from(until.0.saturating_add(CLOCK_SLACK_MS)).unwrap_or(0);
            Uuid::from_u128(ms.min((1 << 48) - 1) << 80)
        });
        match (self.before, until) {
            (Some(before), Some(until)) => Some(before.min(until)),
            (before, until) => before.or(until),
        }
    }

    /// Whether no row below this one is recent enough.
    fn ends_at(&self, row: &Audit) -> bool {
        let first = self
            .since
            .map(|since| since.0.saturating_sub(CLOCK_SLACK_MS));
        first.is_some_and(|first| row.at.0 < first)
    }
}

impl Admin {
    /// Returns the rows of the audit log about an app, or of all of it, that a query selects. A search
    /// reads a bounded number of rows; if it ends early, the page has a `next`.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app, or without
    /// `instance:admin` for all.
    pub async fn audit(
        &self,
        actor: &Actor,
        app: Option<&App>,
        query: &AuditQuery,
    ) -> Result<AuditRows, ServiceError> {
        actor.require(match app {
            Some(app) => Capability::AppAdmin(app.id),
            None => Capability::InstanceAdmin,
        })?;
        let app = app.map(|app| app.id);
        let page = match query.selects_all() {
            true => query.limit,
            false => SEARCH_PAGE,
        };
        let (mut rows, mut before, mut left) = (Vec::new(), query.start(), SEARCHED_ROWS_MAX);
        loop {
            let found = self.store.audit(app, before, page).await?;
            let is_last = found.len() < page as usize;
            for row in found {
                before = Some(row.id);
                if query.ends_at(&row) {
                    return Ok(AuditRows { rows, next: None });
                }
                if query.matches(&row) {
                    rows.push(row);
                    if rows.len() >= query.limit as usize {
                        return Ok(AuditRows { rows, next: before });
                    }
                }
            }
            left = left.saturating_sub(page);
            if is_last || left == 0 {
                let next = before.filter(|_| !is_last);
                return Ok(AuditRows { rows, next });
            }
        }
    }
}
