//! Guests, and hosts that run them.

use kvasm::model::{App, AppId, AppName, Batch, Commit, Grant, Limits, Op, Timestamp};
use kvasm::store::Store;
use kvasm::wasmtime::{Caller, WasmRet};
use kvasm::{Call, CallFailure, Host, HostBuilder, Invocation, Plugin, Response};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads a guest that `cargo xtask guests` builds.
pub fn wasm(name: &str) -> Vec<u8> {
    let folder = match std::env::var_os("KVASM_GUESTS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/guests"),
    };
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; `cargo xtask guests` builds the guests",
            path.display()
        )
    })
}

/// Returns the guests of this name that were built for earlier states of the ABI: hosts run them
/// unchanged.
pub fn frozen(name: &str) -> Vec<Vec<u8>> {
    let releases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/guests");
    let releases = std::fs::read_dir(releases).unwrap().map(Result::unwrap);
    let folders = releases
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    let guests = folders.map(|folder| std::fs::read(folder.join(format!("{name}.wasm"))).unwrap());
    let guests: Vec<_> = guests.collect();
    assert!(!guests.is_empty());
    guests
}

/// Returns the frozen guests of a name, and that of this state of the project.
pub fn of_each_release(name: &str) -> Vec<Vec<u8>> {
    [frozen(name), vec![wasm(name)]].concat()
}

/// A builder of a host whose plugins may import `meanwhile` from `test_v1`. It runs `work` for
/// the calling app.
pub fn meanwhile<R, F>(
    builder: HostBuilder,
    work: impl Fn(AppId) -> F + Send + Sync + 'static,
) -> HostBuilder
where
    R: WasmRet + 'static,
    F: Future<Output = R> + Send + 'static,
{
    builder.extend(move |linker| {
        linker.func_wrap_async(
            "test_v1",
            "meanwhile",
            move |caller: Caller<'_, Invocation>, ()| {
                let app = caller.data().guest_state().caller().app();
                Box::new(work(app))
            },
        )?;
        Ok(())
    })
}

/// Writes directly to the store, bypassing the host.
pub async fn write_directly(store: &Arc<dyn Store>, app: AppId, ops: Vec<Op>) {
    let batch = Commit::new(app, Timestamp::now(), Batch::of(ops));
    store.commit(batch).await.unwrap();
}

/// A module in the text format with a memory of one page, `data` at address 0, and `body` as
/// its function `run`, which returns the value that `body` leaves on the stack.
///
/// Every import of `kvasm_v1` is available under its name.
pub fn module(data: &str, body: &str) -> Vec<u8> {
    module_with(data, "", body)
}

/// Like [`module`], with additional fields.
pub fn module_with(data: &str, fields: &str, body: &str) -> Vec<u8> {
    module_importing("", data, fields, body)
}

/// Like [`module_with`], with additional imports.
pub fn module_importing(more: &str, data: &str, fields: &str, body: &str) -> Vec<u8> {
    let imports: String = kvasm_abi::IMPORTS
        .iter()
        .map(|import| {
            let params: String = import
                .params
                .split_whitespace()
                .map(|param| format!("(param {param})"))
                .collect();
            format!(
                "(import \"kvasm_v1\" \"{0}\" (func ${0} {params} (result {1})))\n",
                import.name, import.result
            )
        })
        .collect();
    let text = format!(
        "(module {imports} {more} (memory (export \"memory\") 1) (data (i32.const 0) \"{data}\")
         {fields}
         (func (export \"run\") (result i32) {body}))"
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A custom section in the text format that declares functions and handlers.
pub fn manifest(lines: &[&str]) -> String {
    let escaped = |line: &&str| line.replace('"', "\\\"").replace('\n', " ");
    let text: Vec<_> = lines.iter().map(escaped).collect();
    format!("(@custom \"kvasm.plugin.v1\" \"{}\")", text.join(" "))
}

/// A host with one app, over a store in memory by default.
pub struct TestHost {
    /// The host.
    pub host: Host,
    /// Its app.
    pub app: App,
}

impl TestHost {
    /// Starts a host with the default limits.
    pub async fn new() -> TestHost {
        TestHost::with(|builder| builder).await
    }

    /// Starts a host with changed limits.
    pub async fn with_limits(change: impl FnOnce(&mut Limits)) -> TestHost {
        let mut limits = Limits::default();
        change(&mut limits);
        TestHost::with(|builder| builder.limits(limits)).await
    }

    /// Starts a host over a store.
    pub async fn over(store: impl Store) -> TestHost {
        TestHost::with(|builder| builder.store(store)).await
    }

    /// Starts a host as the builder says. Tests build many hosts at once, so each reserves room
    /// for few instances.
    pub async fn with(set_up: impl FnOnce(HostBuilder) -> HostBuilder) -> TestHost {
        let host = set_up(Host::builder().instances(16)).build().unwrap();
        let app = host
            .create_app(AppName::parse("app").unwrap())
            .await
            .unwrap();
        TestHost { host, app }
    }

    /// Grants a permission to the app's plugins.
    pub async fn grant(&self, grant: Grant) {
        let operator = self.host.operator("test");
        let grants = self
            .host
            .admin()
            .add_grants(&operator, &self.app, vec![grant]);
        grants.await.unwrap();
    }

    /// Loads a module for the app.
    pub async fn load(&self, wasm: Vec<u8>) -> Plugin {
        self.host.load(&self.app, wasm).await.unwrap()
    }

    /// Loads a module and calls its function `run`.
    pub async fn run(&self, wasm: Vec<u8>) -> Result<Response, CallFailure> {
        let plugin = self.load(wasm).await;
        self.host.call(&plugin, Call::function("run")).await
    }

    /// Runs `body`, which leaves the `i64` result of a host function on the stack. Returns that
    /// result and its message.
    pub async fn result(&self, data: &str, body: &str) -> (i64, String) {
        self.result_of(module(data, &report(body)), Call::function("run"))
            .await
    }

    /// Like [`result`](TestHost::result), for a module that uses [`report`].
    pub async fn result_of(&self, wasm: Vec<u8>, call: Call) -> (i64, String) {
        let plugin = self.load(wasm).await;
        let output = self.host.call(&plugin, call).await.unwrap().output;
        let (result, message) = output.split_at(8);
        (
            i64::from_le_bytes(result.try_into().unwrap()),
            String::from_utf8(message.to_vec()).unwrap(),
        )
    }
}

/// A body that writes the `i64` left by `body` to the output, followed by the message of the
/// last status. Both pass through the second half of the memory.
pub fn report(body: &str) -> String {
    format!(
        "(i64.store (i32.const 32768) {body})
         (drop (call $output_write (i32.const 32768) (i32.const 8)))
         (drop (call $output_write (i32.const 32776)
            (i32.wrap_i64 (call $error_message (i32.const 32776) (i32.const 32760)))))
         (i32.const 0)"
    )
}
