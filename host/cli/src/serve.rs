//! `kvasm serve`.

use super::config::{Config, Listen, LogFormat};
use super::failure::{CommandOutcome, Failure};
use super::log::{LogGuard, LogWriter, log_panics};
use super::open::StoreSpec;
use super::otel::OtelExport;
use super::token_file::TokenFile;
use super::{Global, open};
use clap::Args;
use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::metrics::Metrics;
use kvasm::server::{AdminAddress, ServerOptions, router, routers, serve};
use kvasm::service::{Health, Spans, WatchLimits};
use kvasm::{Compiler, Host};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(super) struct Serve {
    /// Address or host name, and port, for calls and pages of plugins [default: 127.0.0.1:7180]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Address and port for the API and the console, or none: the API at --listen, without the
    /// console [default: 127.0.0.1:7181]
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_listen: Option<String>,
    /// Domain below which each app has a host name of its own, APP.DOMAIN
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Folder for compiled plugins, or none [default: in your cache directory]
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<String>,
    /// Format of log lines: text or json
    #[arg(long)]
    log_format: Option<String>,
    /// Set a configuration key, such as --set limits.wall_time=2s (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    keys: Vec<(String, String)>,
    /// Write the admin token of the first start to this new file instead of printing it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the effective configuration and exit
    #[arg(long)]
    print_config: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("expected KEY=VALUE".to_owned()),
    }
}

fn config(global: &Global, serve: &Serve) -> Result<Config, Failure> {
    let mut arguments = serve.keys.clone();
    let mut argument = |key: &str, value: Option<String>| {
        arguments.extend(value.map(|value| (key.to_owned(), value)));
    };
    argument("listen", serve.listen.clone());
    argument("admin.listen", serve.admin_listen.clone());
    argument("pages.domain", serve.domain.clone());
    argument("cache_dir", serve.cache_dir.clone());
    argument("log.format", serve.log_format.clone());
    let environment = |name: &str| global.environment().get(name).map(str::to_owned);
    let config = Config::load(global.config().as_deref(), environment, &arguments);
    let mut config = config.map_err(|e| Failure::user(e.to_string()))?;
    // `--store` is a global option.
    if let Some(store) = global.store_argument() {
        config.store = Some(open::parse(store)?);
    }
    Ok(config)
}

/// Starts the log. All lines are written once the guard is dropped.
fn start_log(config: &Config, metrics: &Metrics) -> Result<LogGuard, Failure> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|e| Failure::user(format!("log.filter is {:?}: {e}", config.log_filter)))?;
    let dropped: fn(u64) -> String = match config.log_format {
        LogFormat::Text => |lines| format!("WARN kvasm: {lines} log lines were dropped\n"),
        LogFormat::Json => |lines| {
            let line = serde_json::json!({
                "level": "WARN",
                "target": "kvasm",
                "message": "log lines were dropped",
                "lines": lines,
            });
            format!("{line}\n")
        },
    };
    let (writer, guard) = LogWriter::start(std::io::stderr(), metrics.clone(), dropped)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match config.log_format {
        LogFormat::Text => {
            let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
            log.with_ansi(color).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    log_panics();
    Ok(guard)
}

/// Prints lines to standard output without blocking on its reader.
fn print_lines(lines: Vec<String>) -> std::io::Result<()> {
    let print = move || {
        let mut out = std::io::stdout().lock();
        let printed = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
        if let Err(error) = printed.and_then(|()| out.flush()) {
            tracing::warn!(%error, "cannot write to standard output; create a token with `kvasm token create` on this host");
        }
    };
    // Not a thread of the runtime, which would wait for it at shutdown.
    std::thread::Builder::new()
        .name("kvasm-print".to_owned())
        .spawn(print)
        .map(drop)
}

pub(super) async fn host(
    config: &Config,
    store: &StoreSpec,
    metrics: Metrics,
    compiler: Compiler,
    spans: Spans,
) -> Result<Host, Failure> {
    let opened = open::store(store, metrics.clone(), config.migrate, config).await?;
    let host = open::limited(config, compiler)
        .shared_store(opened)
        .metrics(metrics.clone())
        .spans(spans)
        .secrets(open::keyring(store, config)?)
        .instances(config.instances)
        .modules(config.modules)
        .cache_limits(config.cache)
        .queue(config.queue)
        .health(config.health)
        .watch(watch_limits(config));
    let host = match config.compilers {
        Some(compilers) => host.compilers(compilers),
        None => host,
    };
    let host = open::outbound(host, config, metrics)?;
    Ok(config.cache_dir.apply(host).build()?)
}

/// One app's watchers leave at least three quarters of an address's connections to others.
fn watch_limits(config: &Config) -> WatchLimits {
    let connections = match config.admin_listen {
        Some(_) if config.admin.api => config.server.admin_connections,
        _ => config.server.connections,
    };
    let of_app = config.watch.watchers_of_app;
    WatchLimits {
        watchers_of_app: of_app.min(connections / 4),
        ..config.watch
    }
}

/// File descriptors reserved for the store, the cache, compilers and the log, so that connections
/// cannot use all of them.
const RESERVED_FILES: u64 = 128;

/// Fits the numbers of connections to the file limit.
fn limit_connections(config: &mut Config, files: u64) {
    let of_admin = match config.admin_listen {
        Some(_) => {
            let wanted = config.server.admin_connections;
            let most = usize::try_from(files / 4).unwrap_or(usize::MAX).max(1);
            config.server.admin_connections = wanted.min(most);
            config.server.admin_connections as u64
        }
        None => 0,
    };
    let of_egress = match &config.egress {
        egress if egress.enabled => egress.client.connections_max(),
        _ => 0,
    };
    let others = RESERVED_FILES
        .saturating_add(of_admin)
        .saturating_add(of_egress);
    let free = files.saturating_sub(others).max(files / 2).max(1);
    let free = usize::try_from(free).unwrap_or(usize::MAX);
    let wanted = config.server.connections;
    if free < wanted {
        tracing::warn!(
            files,
            "the open file limit is too low for server.connections = {wanted}; \
             using {free} connections"
        );
    }
    config.server.connections = wanted.min(free);
}

/// The listen backlog. Beyond it the system drops connections, and those clients retry after a
/// second or more. The usual 128 fill up in a few milliseconds.
const BACKLOG: u32 = 4_096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // So that a restarted server need not wait for connections of the previous one.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The open listeners of a server.
struct Listeners {
    public: TcpListener,
    admin: Option<TcpListener>,
}

impl Listeners {
    async fn open(config: &Config) -> Result<Listeners, Failure> {
        let open = async |key: &str, at: &Listen| {
            let listener = at.resolve().await.and_then(listen);
            listener.map_err(|e| Failure::user(format!("{key}: cannot listen on {at}: {e}")))
        };
        Ok(Listeners {
            public: open("listen", &config.listen).await?,
            admin: match &config.admin_listen {
                Some(at) => Some(open("admin.listen", at).await?),
                None => None,
            },
        })
    }

    /// The lines to print. The public address comes last.
    fn lines(&self) -> std::io::Result<Vec<String>> {
        let mut lines = Vec::new();
        if let Some(admin) = &self.admin {
            lines.push(format!("Administration on http://{}", admin.local_addr()?));
        }
        lines.push(format!("Listening on http://{}", self.public.local_addr()?));
        Ok(lines)
    }

    /// Serves all listeners until `stop`. Returns whether all requests finished in time.
    async fn serve(self, host: &Host, config: &Config, stop: CancellationToken) -> bool {
        let (options, metrics) = (config.server.clone(), host.metrics().clone());
        let Some(listener) = self.admin else {
            let router = router(host.clone(), options.clone(), stop.clone());
            return serve(self.public, router, options, metrics, stop).await;
        };
        let is_local = listener.local_addr().is_ok_and(|a| a.ip().is_loopback());
        let address = AdminAddress {
            open: config.admin.open || is_local,
            local: is_local,
            ..config.admin
        };
        let (public, admin) = routers(host.clone(), options.clone(), address, stop.clone());
        let of_admin = ServerOptions {
            connections: options.admin_connections,
            connections_of_address: None,
            ..options.clone()
        };
        let of_admin = serve(listener, admin, of_admin, metrics.clone(), stop.clone());
        let public = serve(self.public, public, options, metrics, stop);
        let (public, admin) = tokio::join!(public, of_admin);
        public && admin
    }
}

pub(super) async fn run(global: &Global, args: Serve) -> Result<CommandOutcome, Failure> {
    let mut config = config(global, &args)?;
    if args.print_config {
        write!(std::io::stdout(), "{}", config.to_toml())?;
        return Ok(CommandOutcome::Done);
    }
    let metrics = Metrics::default();
    let _log = start_log(&config, &metrics)?;
    global.environment().warn_of_unknown();
    ignore_hangups()?;
    // Each connection needs a file descriptor; the system's default limit is often 1,024.
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => limit_connections(&mut config, files),
        Err(error) => tracing::warn!(%error, "cannot raise the open file limit"),
    }
    let store = open::configured_store(&config)?;
    let environment = global.environment();
    let otel = OtelExport::start(&config.otel, environment, &metrics, store.database())?;
    let (compiler, spans) = (open::compiler(), otel.spans.clone());
    let host = host(&config, &store, metrics.clone(), compiler, spans).await?;
    let listeners = Listeners::open(&config).await?;

    // Before the address is printed, since a signal may follow immediately.
    let stop = CancellationToken::new();
    let signals = Signals::listen()?;
    let stopping = stop_at_signal(
        signals,
        host.health().clone(),
        config.shutdown_delay,
        stop.clone(),
    );
    tokio::spawn(stopping);
    let mut lines = first_token(&host, args.token_file.as_deref()).await?;
    lines.extend(listeners.lines()?);
    print_lines(lines)?;
    log_start(&config, &store, &listeners)?;

    let dispatch = DispatchOptions {
        drain: config.server.drain_timeout,
        ..config.dispatch.clone()
    };
    let dispatcher = Dispatcher::new(host.clone(), dispatch);
    let dispatching = tokio::spawn(dispatcher.run(stop.clone().cancelled_owned()));
    let drained = listeners.serve(&host, &config, stop).await;
    if let Err(error) = dispatching.await {
        tracing::error!(%error, "the dispatcher failed");
    }
    // Calls may have ended after the dispatcher.
    let (logs, calls) = (&config.dispatch.logs, &config.dispatch.calls);
    if let Err(error) = host.flush_logs(logs, calls).await {
        tracing::warn!(%error, "the last lines of apps' logs, or records of calls, were not stored");
    }
    if let Err(error) = host
        .history()
        .beat(&config.dispatch.shown_host_name(), true)
        .await
    {
        tracing::warn!(%error, "the last heartbeat was not stored: this host will be reported as gone");
    }
    otel.stop().await;
    if !drained {
        tracing::warn!("requests still running after server.drain_timeout were aborted");
    }
    tracing::info!("stopped");
    Ok(CommandOutcome::Done)
}

/// Creates the first token of the store, if it has none. Returns the lines to print.
async fn first_token(host: &Host, path: Option<&Path>) -> Result<Vec<String>, Failure> {
    // A restart finds the file of the first start, and leaves it alone.
    let file = match path {
        Some(path) if !host.admin().is_bootstrapped().await? => {
            Some((path, TokenFile::create(path)?))
        }
        _ => None,
    };
    Ok(match (host.admin().bootstrap().await?, file) {
        (Some(token), Some((path, file))) => {
            file.write(&token.reveal())?;
            vec![format!("Admin token written to {}", path.display())]
        }
        (Some(token), None) => vec![format!("Admin token, shown this once: {}", token.reveal())],
        (None, _) => {
            if let Some(path) = path.filter(|path| !path.exists()) {
                tracing::warn!(
                    file = %path.display(),
                    "the admin token of this store was created before, so --token-file is not written; \
                     create another one with `kvasm token create`"
                );
            }
            Vec::new()
        }
    })
}

/// Logs the version and the main limits of this server. The store is shown without secrets.
fn log_start(config: &Config, store: &StoreSpec, listeners: &Listeners) -> Result<(), Failure> {
    let listen = listeners.public.local_addr()?;
    let admin = listeners.admin.as_ref().map(TcpListener::local_addr);
    let (server, limits) = (&config.server, &config.limits);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        store_kind = store.kind(),
        store = store.shown(),
        listen = %listen,
        admin_listen = admin.transpose()?.map(tracing::field::display),
        connections = server.connections,
        bytes_in_flight = server.bytes_in_flight,
        instances = config.instances,
        memory = config.memory,
        handlers = config.dispatch.handlers,
        value = limits.value_bytes,
        input = limits.input_bytes,
        wall_time = ?limits.wall_time,
        cpu_time = ?limits.cpu_time,
        "started"
    );
    Ok(())
}

/// Ignores SIGHUP, apart from a log line: neither a closing terminal nor a script that asks daemons
/// to reload their configuration ends the server.
#[cfg(unix)]
fn ignore_hangups() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::warn!("SIGHUP ignored: the configuration is read only at startup");
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn ignore_hangups() -> std::io::Result<()> {
    Ok(())
}

/// The first signal stops the server gracefully, the second exits at once.
async fn stop_at_signal(
    mut signals: Signals,
    health: Arc<Health>,
    delay: Duration,
    stop: CancellationToken,
) {
    signals.next().await;
    health.begin_stop();
    tracing::info!("stopping; send a second signal to exit at once");
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        stop.cancel();
        tracing::info!("no longer accepting work");
    });
    signals.next().await;
    // Acknowledged writes are on disk; clients see their connections close.
    std::process::exit(INTERRUPTED);
}

/// The exit code of a process terminated by a signal.
const INTERRUPTED: i32 = 130;

/// The signals that stop the process. A signal that arrives between two calls of `next` is not
/// lost.
#[cfg(unix)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(super) fn listen() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn listen() -> std::io::Result<Signals> {
        Ok(Signals)
    }

    pub(super) async fn next(&mut self) {
        drop(tokio::signal::ctrl_c().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limit_reserves_files_for_store_and_admin() {
        let fitted = |admin: bool, files: u64| {
            let mut config = Config::default();
            config.admin_listen = config.admin_listen.filter(|_| admin);
            limit_connections(&mut config, files);
            (config.server.connections, config.server.admin_connections)
        };
        assert_eq!(fitted(true, 1_024), (1_024 - 128 - 256, 256));
        assert_eq!(fitted(true, u64::MAX), (20_000, 8_192));
        assert_eq!(fitted(true, 100), (50, 25));
        assert_eq!(fitted(false, 1_024).0, 1_024 - 128);
    }
}
