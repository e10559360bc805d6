//! Modules that are slow or large to compile, many of one app, and many at once.

use super::kit;
use kvasm::model::{App, AppName};
use kvasm::service::Actor;
use kvasm::store::{MemoryStore, Store};
use kvasm::{Blame, Call, CallError, Compiler, Host, HostBuilder, LoadError};
use kvasm_tests::guests::module_with;
use kvasm_tests::program::process::program;
use kvasm_tests::server::eventually;
use kvasm_tests::slow_modules::{blocks, functions, ifs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

fn compiler() -> Compiler {
    Compiler::Process {
        program: program(),
        arguments: vec!["compile-worker".into()],
    }
}

/// A host that compiles in processes, one at a time.
fn host(store: &Arc<MemoryStore>, set_up: impl FnOnce(HostBuilder) -> HostBuilder) -> Host {
    let builder = Host::builder()
        .instances(16)
        .shared_store(Arc::clone(store) as Arc<dyn Store>)
        .compiler(compiler())
        .compilers(1);
    set_up(builder).build().unwrap()
}

async fn app(host: &Host, name: &str) -> App {
    let name = AppName::parse(name).unwrap();
    host.create_app(name).await.unwrap()
}

/// The app's current row.
async fn current(host: &Host, app: &App) -> App {
    host.app(&app.name).await.unwrap().unwrap()
}

fn actor(host: &Host) -> Actor {
    host.operator("test")
}

/// A small module, distinct for each number.
fn small(number: usize) -> Vec<u8> {
    let field = format!("(global i32 (i32.const {number}))");
    module_with("", &field, "(i32.const 0)")
}

/// A module with enough functions that compiling it takes a while.
fn large(functions: usize) -> Vec<u8> {
    let function = "(func (param i32) (result i32)
       (i32.add (i32.mul (local.get 0) (i32.load (local.get 0))) (i32.load offset=4 (local.get 0))))";
    module_with("", &function.repeat(functions), "(i32.const 0)")
}

/// The compilers that this process has started, running or not yet waited for. Databases of
/// other tests are its children too.
fn processes() -> usize {
    const COMPILERS: [&str; 4] = ["kvasm", "exe", "echo", "cat"];
    let own = std::process::id().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The pid and, in parentheses, the name; then the state and the parent.
        let Some((name, rest)) = stat.rsplit_once(')') else {
            return false;
        };
        let name = name.split_once('(').map_or("", |(_, name)| name);
        rest.split_whitespace().nth(1) == Some(&own) && COMPILERS.contains(&name)
    })
    .count()
}

/// How many modules were loaded from this source.
fn modules(host: &Host, from: &str) -> u64 {
    let text = host.metrics().encode();
    let line = format!("kvasm_modules_total{{name=\"{from}\"}} ");
    let found = text.lines().find_map(|l| l.strip_prefix(&line));
    found.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_compilations_do_not_block_other_apps() {
    let _alone = kit::serial().await;
    let store = Arc::new(MemoryStore::default());
    // The modules that start cold below were deployed on another host.
    let elsewhere = host(&store, |b| b);
    let cold = app(&elsewhere, "cold").await;
    elsewhere
        .deploy(&actor(&elsewhere), &cold, small(1), true)
        .await
        .unwrap();
    let cold = current(&elsewhere, &cold).await;

    // No limit ends the compilations, so requests that complete meanwhile did not wait for
    // them.
    let patient = |builder: HostBuilder| {
        builder
            .compile_time(Duration::from_secs(600))
            .compile_memory(8 << 30)
    };
    let host = host(&store, patient);
    let mut slow = Vec::new();
    for (name, wasm) in [("a", blocks()), ("b", ifs()), ("c", blocks())] {
        let app = app(&host, name).await;
        let host = host.clone();
        slow.push(tokio::spawn(async move {
            host.deploy(&actor(&host), &app, wasm, true).await
        }));
    }
    eventually("a compiler runs", async || processes() > 0).await;
    for number in 2..5 {
        let neighbour = app(&host, &format!("neighbour-{number}")).await;
        host.deploy(&actor(&host), &neighbour, small(number), true)
            .await
            .unwrap();
        let neighbour = current(&host, &neighbour).await;
        host.invoke(&neighbour, Call::function("run"))
            .await
            .unwrap();
    }
    eventually("the cold plugin runs", async || {
        host.invoke(&cold, Call::function("run")).await.is_ok()
    })
    .await;
    assert!(slow.iter().all(|deploy| !deploy.is_finished()));
    // One in each lane.
    assert!(processes() <= 2, "{}", processes());

    // Cancelling a deploy ends its compiler.
    for deploy in &slow {
        deploy.abort();
    }
    eventually("the compilers are gone", async || processes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_app_compiles_one_module_at_a_time() {
    let _alone = kit::serial().await;
    let store = Arc::new(MemoryStore::default());
    let host = host(&store, |b| {
        b.compilers(4)
            .compile_time(Duration::from_secs(600))
            .compile_memory(8 << 30)
    });
    let app = app(&host, "a").await;
    let mut deploys = Vec::new();
    for wasm in [blocks(), ifs(), small(1)] {
        let (host, app) = (host.clone(), app.clone());
        deploys.push(tokio::spawn(async move {
            host.deploy(&actor(&host), &app, wasm, true).await
        }));
    }
    eventually("a compiler runs", async || processes() > 0).await;
    for _ in 0..20 {
        assert!(processes() <= 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for deploy in &deploys {
        deploy.abort();
    }
    eventually("the compilers are gone", async || processes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compiler_over_its_time_or_memory_limit_is_killed() {
    let _alone = kit::serial().await;
    let store = Arc::new(MemoryStore::default());
    let second = Duration::from_secs(1);
    let quick = host(&store, |b| b.compile_time(second).compile_memory(8 << 30));
    let a = app(&quick, "a").await;
    let error = quick.load(&a, blocks()).await.err().unwrap();
    let is_over = match &error {
        LoadError::TooSlow(time) => *time == second,
        // A busy machine may not grant it a second of CPU time within ten.
        LoadError::Host(cause) => cause.to_string().contains("ten times its CPU time"),
        _ => false,
    };
    assert!(is_over, "{error:?}");
    eventually("it is gone", async || processes() == 0).await;
    quick.load(&a, small(1)).await.unwrap();

    let lean = host(&store, |b| b.compile_memory(200 << 20));
    let error = lean.load(&a, blocks()).await.err().unwrap();
    assert!(matches!(error, LoadError::CompilerMemory(_)), "{error}");
    eventually("it is gone", async || processes() == 0).await;
    lean.load(&a, small(1)).await.unwrap();

    // Its response is limited too.
    let small_code = host(&store, |b| b.modules_bytes(4_096));
    let error = small_code.load(&a, large(100)).await.err().unwrap();
    assert!(matches!(error, LoadError::CodeTooLarge(4_096)), "{error}");
    eventually("it is gone", async || processes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_compiler_program_is_a_host_error() {
    let _alone = kit::serial().await;
    let store = Arc::new(MemoryStore::default());
    for (program, argument) in [
        ("/bin/echo", "hello"),
        ("/bin/cat", "-"),
        // Exits like a compiler that cannot start.
        ("/bin/ls", "/nonexistent"),
        ("/nonexistent", ""),
    ] {
        let host = host(&store, |b| {
            b.compiler(Compiler::Process {
                program: program.into(),
                arguments: vec![argument.into()],
            })
            // `cat` waits for an end of input that does not come.
            .compile_time(Duration::from_millis(200))
        });
        let app = App {
            ..current_or_new(&host).await
        };
        let error = host.load(&app, small(1)).await.err().unwrap();
        assert!(matches!(error, LoadError::Host(_)), "{program}: {error:?}");
        eventually("it is gone", async || processes() == 0).await;
    }
}

async fn current_or_new(host: &Host) -> App {
    let name = AppName::parse("a").unwrap();
    match host.app(&name).await.unwrap() {
        Some(app) => app,
        None => host.create_app(name).await.unwrap(),
    }
}

/// The modules in a cache folder, without files that are still being written.
fn kept(cache: &Path) -> usize {
    let files = std::fs::read_dir(cache).unwrap().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.len() > 64 && !name.ends_with(".tmp"))
        .count()
}

/// A module of 14 MB, next to a neighbour whose plugin is tiny and cold too.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_cold_starts_share_one_load() {
    let _alone = kit::serial().await;
    let store = Arc::new(MemoryStore::default());
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let first = host(&store, |b| b.compile_time(Duration::from_secs(600)));
    let wasm = functions(40_000, 13 << 20);
    assert!(wasm.len() > 14_000_000, "{}", wasm.len());
    let mut apps = Vec::new();
    for (name, wasm) in [("a", wasm), ("b", small(1))] {
        let app = app(&first, name).await;
        first
            .deploy(&actor(&first), &app, wasm, true)
            .await
            .unwrap();
        apps.push(current(&first, &app).await);
    }
    // Compiled the first time, read from the folder the second time: one of each app.
    for (compiled, disk) in [(2, 0), (0, 2)] {
        let host = host(&store, |b| {
            b.cache_dir(&cache).compile_time(Duration::from_secs(600))
        });
        let mut calls = JoinSet::new();
        for app in [0; 32].into_iter().chain([1]) {
            let (host, app) = (host.clone(), apps[app].clone());
            // Loading is limited by the call's time limit, on a busy machine too.
            calls.spawn(
                async move { while host.invoke(&app, Call::function("run")).await.is_err() {} },
            );
        }
        calls.join_all().await;
        assert_eq!(modules(&host, "compiled"), compiled);
        assert_eq!(modules(&host, "disk"), disk);
        assert_eq!(host.modules().0, 2);
        // Calls continue once a module is in memory, before it is in the folder.
        eventually("both are in the folder", async || kept(&cache) == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_cold_start_completes() {
    let _alone = kit::serial().await;
    let store = Arc::new(MemoryStore::default());
    let first = host(&store, |b| b);
    let a = app(&first, "a").await;
    first
        .deploy(&actor(&first), &a, large(5_000), true)
        .await
        .unwrap();
    let a = current(&first, &a).await;
    let host = host(&store, |b| b);
    let call = host.invoke(&a, Call::function("run"));
    let left = tokio::time::timeout(Duration::from_millis(1), call).await;
    eventually("it is in memory", async || host.modules().0 == 1).await;
    host.invoke(&a, Call::function("run")).await.unwrap();
    assert_eq!(modules(&host, "compiled"), 1, "{}", left.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn module_cache_is_limited_and_evicts_deleted_versions() {
    let _alone = kit::serial().await;
    let store = Arc::new(MemoryStore::default());
    let one = host(&store, |b| b);
    let a = app(&one, "a").await;
    one.load(&a, small(0)).await.unwrap();
    let (_, bytes) = one.modules();
    let bound = bytes * 4 + bytes / 2;
    let host = host(&store, |b| {
        b.modules_bytes(bound).compiler(Compiler::InProcess)
    });
    for number in 0..16 {
        host.deploy(&actor(&host), &a, small(number), true)
            .await
            .unwrap();
        assert!(host.modules().1 <= bound);
    }
    assert_eq!(host.modules().0, 4);

    let b = app(&host, "b").await;
    let same = host.deploy(&actor(&host), &b, small(14), true).await;
    same.unwrap();
    let version = |number| kvasm::model::PluginVersion(number);
    host.delete_plugin(&actor(&host), &a, version(14))
        .await
        .unwrap();
    assert_eq!(host.modules().0, 3);
    // Another app has this module too.
    host.delete_plugin(&actor(&host), &a, version(15))
        .await
        .unwrap();
    assert_eq!(host.modules().0, 3);
    host.delete_app(&actor(&host), &b).await.unwrap();
    assert_eq!(host.modules().0, 2);
    host.delete_app(&actor(&host), &a).await.unwrap();
    assert_eq!(host.modules(), (0, 0));
}

/// A module that uses all its memory, in 8 memories, and computes until its time limit.
fn greedy() -> Vec<u8> {
    let memories = "(memory 127)".repeat(7);
    module_with("", &memories, "(loop $on (br $on)) (i32.const 0)")
}

/// Instances with many memories take one place each, like any other.
#[tokio::test(flavor = "multi_thread")]
async fn calls_with_eight_memories_do_not_starve_others() {
    let _alone = kit::serial().await;
    let store = Arc::new(MemoryStore::default());
    // Memory for 8 greedy instances: they get 4 of these, the neighbour the rest.
    let host = host(&store, |b| {
        b.compiler(Compiler::InProcess).memory(8 * (57 << 20))
    });
    let (a, b) = (app(&host, "a").await, app(&host, "b").await);
    let greedy = host.load(&a, greedy()).await.unwrap();
    let neighbour = host.load(&b, small(1)).await.unwrap();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (host, greedy) = (host.clone(), greedy.clone());
            tokio::spawn(async move { host.call(&greedy, Call::function("run")).await })
        })
        .collect();
    for _ in 0..20 {
        host.call(&neighbour, Call::function("run")).await.unwrap();
    }
    let mut refused = 0;
    for call in calls {
        match call.await.unwrap().unwrap_err().error {
            error @ CallError::HostMemory => {
                assert_eq!(error.blame(), Blame::Host);
                refused += 1;
            }
            CallError::Deadline { .. } | CallError::CpuTime { .. } => {}
            other => panic!("{other}"),
        }
    }
    assert!(refused > 0);
    // All of it is released.
    let room = module_with("", "(memory 800)", "(i32.const 0)");
    let room = host.load(&b, room).await.unwrap();
    host.call(&room, Call::function("run")).await.unwrap();
}
