//! Opens connections: encrypted according to `sslmode`, and with session settings.
//!
//! Settings are sent as a statement once the connection is established, not as startup parameters:
//! poolers refuse those that they do not know.

use super::{PostgresOptions, tls};
use kvasm_core::store::StoreError;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Error, PgConnection};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};

/// Opens connections to one database.
pub(super) struct Connector {
    options: PgConnectOptions,
    mode: PgSslMode,
    /// Statements that are run on each new connection.
    settings: String,
    /// Whether it was logged that connections are not encrypted.
    warned: AtomicBool,
}

impl Connector {
    pub(super) fn new(options: &PostgresOptions) -> Result<Connector, StoreError> {
        let connect = parse(&options.url)?.disable_statement_logging();
        Ok(Connector {
            mode: mode(&connect),
            // No value is read as text, so nothing depends on it, and PgBouncer refuses it.
            options: connect.extra_float_digits(None),
            settings: settings(options),
            warned: AtomicBool::new(false),
        })
    }

    /// Opens a connection with the session settings.
    pub(super) async fn open(&self) -> Result<PgConnection, Error> {
        let mut connection = self.bare().await?;
        let settings = AssertSqlSafe(self.settings.clone());
        sqlx::raw_sql(settings).execute(&mut connection).await?;
        Ok(connection)
    }

    /// Opens a connection with the database's own settings.
    pub(super) async fn bare(&self) -> Result<PgConnection, Error> {
        match self.mode {
            PgSslMode::Prefer => match self.encrypted(PgSslMode::Prefer).await {
                Err(error) if may_be_plain(&error) => self.plain_instead(error).await,
                other => other,
            },
            PgSslMode::Allow => match self.connect(PgSslMode::Disable).await {
                Err(error) if refused(&error) => self.encrypted(PgSslMode::Require).await,
                other => other,
            },
            PgSslMode::Require => self.encrypted(PgSslMode::Require).await,
            mode => self.connect(mode).await,
        }
    }

    async fn connect(&self, mode: PgSslMode) -> Result<PgConnection, Error> {
        self.options.clone().ssl_mode(mode).connect().await
    }

    /// Opens an encrypted connection without checking the server's certificate.
    async fn encrypted(&self, mode: PgSslMode) -> Result<PgConnection, Error> {
        match self.connect(mode).await {
            Err(error) if tls::cannot_read_certificate(&error) => {
                tls::connect(&self.options).await.unwrap_or(Err(error))
            }
            other => other,
        }
    }

    /// Opens a connection without encryption, after an encrypted one failed.
    async fn plain_instead(&self, error: Error) -> Result<PgConnection, Error> {
        match self.connect(PgSslMode::Disable).await {
            // The server requires encryption, so its error is the relevant one.
            Err(plain) if refused(&plain) => Err(error),
            Ok(connection) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %error,
                        "connections to Postgres are not encrypted: the TLS handshake failed, \
                         and sslmode=prefer allows a fallback; sslmode=require does not"
                    );
                }
                Ok(connection)
            }
            other => other,
        }
    }
}

fn parse(url: &str) -> Result<PgConnectOptions, StoreError> {
    // Without the cause, which repeats parts of the URL.
    let unreadable = |_| {
        let why = "the Postgres URL is not valid; expected postgres://user@host:5432/database";
        StoreError::Failed(why.into())
    };
    let options: PgConnectOptions = url.parse().map_err(unreadable)?;
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("kvasm"),
    })
}

/// Returns the requested mode. As in libpq, `require` with a file of root certificates means
/// `verify-ca`.
fn mode(options: &PgConnectOptions) -> PgSslMode {
    let has_authorities = || {
        let url = options.to_url_lossy();
        url.query_pairs().any(|(name, _)| name == "sslrootcert")
    };
    match options.get_ssl_mode() {
        PgSslMode::Require if has_authorities() => PgSslMode::VerifyCa,
        mode => mode,
    }
}

fn settings(options: &PostgresOptions) -> String {
    let timeout_ms = options.statement_timeout.as_millis().max(1);
    [
        format!("SET statement_timeout = {timeout_ms}"),
        // A host that vanishes within a transaction holds its locks no longer than this.
        format!("SET idle_in_transaction_session_timeout = {timeout_ms}"),
        // Required by the statements in `sql`, whatever the database's default is.
        "SET default_transaction_isolation = 'read committed'".to_owned(),
        // No statement here is meant to scan a whole table, but one that was planned while a table
        // was empty, as queues often are, would.
        "SET enable_seqscan = off".to_owned(),
    ]
    .join("; ")
}

/// The server has no rule that allows this connection, encrypted or not.
fn refused(error: &Error) -> bool {
    let code = error.as_database_error().and_then(|answer| answer.code());
    code.as_deref() == Some("28000")
}

/// An encrypted connection failed in a way in which an unencrypted one may not.
fn may_be_plain(error: &Error) -> bool {
    match error {
        Error::Tls(_) | Error::Protocol(_) => true,
        Error::Io(cause) => !matches!(
            cause.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound | ErrorKind::TimedOut
        ),
        other => refused(other),
    }
}
