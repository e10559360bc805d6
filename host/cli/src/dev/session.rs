//! One run of `kvasm dev`: builds, swaps versions, and repeats the last call.

use super::watch::Sources;
use crate::build::{BuildOptions, build};
use crate::failure::Failure;
use crate::shell::quoted;
use crate::{logs, output};
use kvasm::api::LogView;
use kvasm::model::{App, AppName, PluginVersion};
use kvasm::service::{Actor, ServiceError};
use kvasm::{Call, DeployError, Host, InvokeError};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;
use tokio::task::spawn_blocking;

/// Interval at which the sources are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Number of log lines printed at once.
const LOG_LINES_MAX: usize = 1_000;

/// A call that is repeated after each swap.
pub(super) struct LastCall {
    pub(super) function: String,
    pub(super) input: Vec<u8>,
}

/// The plugin that is developed, and the app that it serves.
pub(super) struct Session {
    pub(super) host: Host,
    pub(super) app: AppName,
    pub(super) folder: PathBuf,
    /// The store's name, for other commands.
    pub(super) store: String,
    pub(super) options: Arc<BuildOptions>,
    pub(super) last_call: Option<LastCall>,
    /// The active version, and its module.
    active: Option<(PluginVersion, Vec<u8>)>,
    /// A module that could not be activated, which may be tried again.
    refused: Option<Vec<u8>>,
}

impl Session {
    /// Creates the app if the store has none of that name.
    pub(super) async fn start(
        host: Host,
        app: AppName,
        store: String,
        folder: PathBuf,
        options: BuildOptions,
        last_call: Option<LastCall>,
    ) -> Result<Session, Failure> {
        if host.app(&app).await?.is_none() {
            let actor = host.operator("dev");
            host.admin().create_app(&actor, app.clone(), true).await?;
        }
        let session = Session {
            host,
            app,
            folder,
            store,
            options: Arc::new(options),
            last_call,
            active: None,
            refused: None,
        };
        let app = session.current_app().await?;
        tokio::spawn(print_logs(session.host.clone(), app));
        Ok(session)
    }

    /// Builds, and builds again after each change, until an error of the store. `lines` are those of
    /// standard input.
    pub(super) async fn run(mut self, mut lines: Receiver<String>) -> Result<(), Failure> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sources = Sources::new(self.folder.clone());
        let mut has_input = true;
        loop {
            tokio::select! {
                _ = look.tick() => {
                    // Before the build, so that a change during it is seen afterwards.
                    let looked = spawn_blocking(move || (sources.have_changed(), sources)).await;
                    let (have_changed, looked) =
                        looked.map_err(|error| Failure::host(error.to_string()))?;
                    sources = looked;
                    if have_changed {
                        self.rebuild().await?;
                        sources.ignore_lock();
                    }
                }
                line = lines.recv(), if has_input => match line {
                    Some(line) => self.command(line.trim()).await?,
                    None => has_input = false,
                }
            }
        }
    }

    /// Builds the plugin and makes it the active version. After a failure the one before stays.
    async fn rebuild(&mut self) -> Result<(), Failure> {
        let (folder, options) = (self.folder.clone(), Arc::clone(&self.options));
        let start = Instant::now();
        let built = spawn_blocking(move || build(&folder, &options)).await;
        let build_time = start.elapsed();
        // Whatever comes of it, it is newer.
        self.refused = None;
        match built.map_err(|error| Failure::host(error.to_string()))? {
            Ok(built) => {
                let built_in = format!("built in {:.1} s and ", build_time.as_secs_f32());
                self.replace(built.wasm, &built_in).await
            }
            Err(failure) => {
                self.note_failure(&failure, "Save a change to build again.");
                Ok(())
            }
        }
    }

    /// Makes a module the active version, and repeats the last call.
    async fn replace(&mut self, wasm: Vec<u8>, built_in: &str) -> Result<(), Failure> {
        match self.swap(wasm.clone(), built_in).await {
            Ok(false) => Ok(()),
            Ok(true) => self.call_again().await,
            Err(failure) => {
                self.refused = Some(wasm);
                let next = "Save a change, or press Enter to activate the same module again.";
                self.note_failure(&failure, next);
                Ok(())
            }
        }
    }

    /// Says what failed, what is served, and what happens next.
    fn note_failure(&self, failure: &Failure, next: &str) {
        failure.note();
        let state = match &self.active {
            Some((version, _)) => format!("Version {version} stays active."),
            None => "No version is active yet.".to_owned(),
        };
        output::note(&format!("{state} {next}"));
    }

    /// Deploys a module, and grants what it needs. Returns whether it differs from the active one.
    async fn swap(&mut self, wasm: Vec<u8>, built_in: &str) -> Result<bool, Failure> {
        if self.active.as_ref().is_some_and(|(_, was)| *was == wasm) {
            say("Nothing has changed in the module.")?;
            return Ok(false);
        }
        let start = Instant::now();
        let actor = self.host.operator("dev");
        let app = self.current_app().await?;
        let deployed = self.host.deploy(&actor, &app, wasm.clone(), false).await;
        let (version, _, exports) = deployed.map_err(|error| match error {
            DeployError::Load(error) => Failure::from(error),
            DeployError::Service(error) => Failure::from(error),
        })?;
        let activated = self.activate(&actor, &app, version, &exports.needs).await;
        if let Err(failure) = activated {
            // The next build uploads another one.
            let _ = self.host.delete_plugin(&actor, &app, version).await;
            return Err(failure);
        }
        let swap_time = start.elapsed();
        if let Some((before, _)) = self.active.replace((version, wasm)) {
            // Only the space that it takes is lost if it stays.
            let _ = self.host.delete_plugin(&actor, &app, before).await;
        }
        let mut offers = exports.functions;
        offers.extend(exports.http.map(|_| "HTTP".to_owned()));
        let handlers = exports.triggers.iter();
        offers.extend(handlers.map(|trigger| format!("{} (handler)", trigger.name)));
        say(&format!(
            "Version {version} is active, {built_in}swapped in {:.1} s: {}.",
            swap_time.as_secs_f32(),
            offers.join(", ")
        ))?;
        Ok(true)
    }

    async fn activate(
        &self,
        actor: &Actor,
        app: &App,
        version: PluginVersion,
        needs: &kvasm::model::Needs,
    ) -> Result<(), Failure> {
        let admin = self.host.admin();
        let grants = needs.grants();
        if !grants.is_empty() {
            admin.add_grants(actor, app, grants).await?;
        }
        let activated = admin.activate_plugin(actor, app, version).await;
        activated.map(drop).map_err(|error| match error {
            ServiceError::NeedsUnmet(_) => Failure::from(error).with_advice(&format!(
                "Set it with `kvasm --store {store} config set {app} NAME VALUE`, or `secret set`",
                store = quoted(&self.store),
                app = self.app
            )),
            error => Failure::from(error),
        })
    }

    /// Does what a line of standard input says: an empty one activates a module that was refused, or
    /// repeats the last call; another one is a function and its input.
    async fn command(&mut self, line: &str) -> Result<(), Failure> {
        if line.is_empty()
            && let Some(wasm) = self.refused.take()
        {
            return self.replace(wasm, "").await;
        }
        if !line.is_empty() {
            let (function, input) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            self.last_call = Some(LastCall {
                function: function.to_owned(),
                input: input.trim().as_bytes().to_vec(),
            });
        }
        if self.last_call.is_none() {
            return say("There is no last call; write a function and its input, or use --call.");
        }
        self.call_again().await
    }

    /// Repeats the last call, if there is one.
    async fn call_again(&self) -> Result<(), Failure> {
        let Some(LastCall { function, input }) = &self.last_call else {
            return Ok(());
        };
        let app = self.current_app().await?;
        let call = Call::function(function.as_str()).input(input.clone());
        match self.host.invoke(&app, call).await {
            Ok(response) => {
                let text = String::from_utf8_lossy(&response.output).into_owned();
                say(&format!("{function}: {text}"))
            }
            Err(error) => {
                // The log has the backtrace.
                let why = match &error {
                    InvokeError::Call(failure) => match failure.log.panic() {
                        Some(panic) => format!("the plugin {panic}"),
                        None => failure.error.summary(),
                    },
                    error => error.to_string(),
                };
                output::note_item(&format!("{function} failed: {why}"));
                Ok(())
            }
        }
    }

    async fn current_app(&self) -> Result<App, Failure> {
        let app = self.host.app(&self.app).await?;
        app.ok_or_else(|| Failure::user(format!("the app {} was deleted", self.app)))
    }
}

/// Prints a line of results.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{}", output::escape_lines(text))?;
    Ok(())
}

/// Prints the app's log as it grows.
async fn print_logs(host: Host, app: App) {
    let Some(following) = host.logs().follow(app.id) else {
        return;
    };
    let grown = following.grown();
    let mut seen = 0;
    loop {
        let mut notified = std::pin::pin!(grown.notified());
        // Before reading, so that no line is missed.
        notified.as_mut().enable();
        for record in host.logs().read(app.id, seen, LOG_LINES_MAX) {
            seen = record.seq;
            output::note_block(&logs::shown(&LogView::from(&record)));
        }
        notified.await;
    }
}
