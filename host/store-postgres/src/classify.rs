//! Classification of sqlx errors, by variant and SQLSTATE, never by text.

use super::sessions::SharedSession;
use super::shortage::NoConnection;
use kvasm_core::store::StoreError;
use sqlx::Error;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Returns the SQLSTATE of an error that the server sent.
fn sqlstate(error: &Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}

/// Maps an sqlx error to a store error.
pub(super) fn store_error(error: Error) -> StoreError {
    let error = match error {
        // Without sqlx's wording, which speaks of a configuration.
        Error::Configuration(cause) if cause.is::<NoConnection>() => {
            return StoreError::Unavailable(cause);
        }
        Error::Configuration(cause) if cause.is::<SharedSession>() => {
            return StoreError::Failed(cause);
        }
        other => other,
    };
    match sqlstate(&error).as_deref() {
        Some("23503") => StoreError::AppNotFound,
        // disk_full
        Some("53100") => StoreError::Full(Box::new(error)),
        _ if unavailable(&error) => StoreError::Unavailable(Box::new(error)),
        _ => StoreError::Failed(Box::new(error)),
    }
}

/// Maps a failed migration to a store error.
pub(super) fn migrate_error(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)
            if unavailable(&cause) =>
        {
            StoreError::Unavailable(Box::new(cause))
        }
        other => StoreError::Failed(Box::new(other)),
    }
}

/// A name or identity is already used.
pub(super) fn unique_violation(error: &Error) -> bool {
    sqlstate(error).as_deref() == Some("23505")
}

/// A write exceeded the grant of its slot, and was rolled back.
pub(super) fn over_grant(error: &Error) -> bool {
    let Some(answer) = error.as_database_error() else {
        return false;
    };
    answer.code().as_deref() == Some("23514")
        && answer.constraint() == Some("app_usage_within_quota")
}

/// The statement's wait for a lock timed out.
pub(super) fn lock_timed_out(error: &Error) -> bool {
    // lock_not_available
    sqlstate(error).as_deref() == Some("55P03")
}

/// The server is running but accepts no connection now: it is starting, or the limit of the server,
/// the database or the role is reached.
pub(super) fn no_room(error: &Error) -> bool {
    // cannot_connect_now, too_many_connections
    matches!(sqlstate(error).as_deref(), Some("57P03" | "53300"))
}

/// The session is not the one in which the statement was prepared: a pooler gave it to another
/// client in between.
pub(super) fn foreign_session(error: &Error) -> bool {
    // invalid_sql_statement_name, duplicate_prepared_statement
    matches!(sqlstate(error).as_deref(), Some("26000" | "42P05"))
}

/// A number exceeds the range of its type.
pub(super) fn out_of_range(error: &Error) -> bool {
    sqlstate(error).as_deref() == Some("22003")
}

/// The transaction lost a race and may succeed if it is run again.
pub(super) fn lost_race(error: &Error) -> bool {
    // serialization_failure, deadlock_detected
    matches!(sqlstate(error).as_deref(), Some("40001" | "40P01"))
}

/// The server is not running or not ready yet: worth another attempt to connect.
pub(super) fn starting_up(error: &Error) -> bool {
    match error {
        Error::Io(cause) => matches!(
            cause.kind(),
            // The latter is a Unix socket that the server has not created yet.
            std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound
        ),
        other => no_room(other),
    }
}

/// The connection is closed, or its server will not serve it any more.
pub(super) fn lost_connection(error: &Error) -> bool {
    match error {
        Error::Io(_) | Error::Tls(_) | Error::WorkerCrashed => true,
        other => sqlstate(other).is_some_and(|code| {
            // 08: connection exceptions. admin_shutdown, crash_shutdown,
            // cannot_connect_now, database_dropped, idle_session_timeout,
            // idle_in_transaction_session_timeout; and read_only_sql_transaction:
            // the primary that this connection led to has become a standby.
            code.starts_with("08")
                || matches!(
                    code.as_str(),
                    "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" | "25006"
                )
        }),
    }
}

/// A connection that returned this error for a statement must not be reused.
pub(super) fn ends_connection(error: &Error) -> bool {
    let severity = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .map(PgDatabaseError::severity);
    let closed_by_server = matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic));
    // After a response that was not understood, the state of the protocol is unknown.
    closed_by_server || lost_connection(error) || matches!(error, Error::Protocol(_))
}

/// The database cannot be reached or is overloaded, and a retry may succeed.
fn unavailable(error: &Error) -> bool {
    match error {
        Error::PoolTimedOut | Error::PoolClosed => true,
        other if lost_connection(other) || lost_race(other) => true,
        other => sqlstate(other).is_some_and(|code| match code.as_str() {
            // query_canceled: the statement timeout; lock_not_available.
            "57014" | "55P03" => true,
            // Insufficient resources: connections, memory.
            code => code.starts_with("53"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::error::{DatabaseError, ErrorKind};
    use std::borrow::Cow;
    use std::fmt;

    #[derive(Debug)]
    struct Answer(&'static str, Option<&'static str>);

    fn answer(code: &'static str) -> Error {
        Error::from(Answer(code, None))
    }

    impl fmt::Display for Answer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Answer {}

    impl DatabaseError for Answer {
        fn message(&self) -> &str {
            self.0
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(Cow::Borrowed(self.0))
        }
        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
        fn constraint(&self) -> Option<&str> {
            self.1
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn class(error: Error) -> &'static str {
        match store_error(error) {
            StoreError::AppNotFound => "app not found",
            StoreError::Unavailable(_) => "unavailable",
            StoreError::Failed(_) => "failed",
            StoreError::Full(_) => "full",
            StoreError::AppExists
            | StoreError::Conflict { .. }
            | StoreError::NotInteger { .. }
            | StoreError::Overflow { .. }
            | StoreError::LeaseLost
            | StoreError::AlreadyAnswered
            | StoreError::AnswerTooLarge { .. }
            | StoreError::Deliveries { .. }
            | StoreError::TooManyTriggers { .. }
            | StoreError::LimitsChanged
            | StoreError::LastAdmin
            | StoreError::OtherSecretsKey { .. }
            | StoreError::Quota { .. }
            | StoreError::PluginNotFound(_)
            | StoreError::PluginActive(_)
            | StoreError::NeedsUnmet(_)
            | StoreError::NothingToRollBackTo => "another",
        }
    }

    #[test]
    fn errors_are_classified_by_sqlstate() {
        for code in [
            "08000", "08006", "53000", "53200", "53300", "57014", "57P01", "57P02", "57P03",
            "25006", "40001", "40P01", "55P03",
        ] {
            assert_eq!(class(answer(code)), "unavailable", "{code}");
        }
        for code in [
            "42P01", "42601", "XX000", "23514", "22P02", "3D000", "28P01",
        ] {
            assert_eq!(class(answer(code)), "failed", "{code}");
        }
        assert_eq!(class(answer("23503")), "app not found");
        assert_eq!(class(answer("53100")), "full");
    }

    #[test]
    fn exhausted_slot_is_detected_by_constraint_name() {
        let refusal = |constraint| Error::from(Answer("23514", Some(constraint)));
        assert!(over_grant(&refusal("app_usage_within_quota")));
        assert!(!over_grant(&refusal("another_check")));
        assert!(!over_grant(&answer("23514")));
        assert!(!over_grant(&Error::RowNotFound));
    }

    #[test]
    fn overflowing_sum_is_detected_by_sqlstate() {
        assert!(out_of_range(&answer("22003")));
        assert!(!out_of_range(&answer("22P02")) && !out_of_range(&Error::RowNotFound));
    }

    #[test]
    fn errors_are_classified_by_variant() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(class(Error::Io(reset)), "unavailable");
        assert_eq!(class(Error::PoolTimedOut), "unavailable");
        assert_eq!(class(Error::RowNotFound), "failed");
        assert_eq!(class(Error::Protocol("odd".into())), "failed");
    }
}
