//! Two servers on one store: a change made through one applies to the next request to the
//! other, which has the old rows cached.

use crate::openapi::{Access, OF_A_SHOP, document, operations};
use crate::settings::echo_config;
use kvasm::model::{App, AppLimits, AppName, ConfigValue, PluginVersion, Scope, SettingName};
use kvasm::service::{Expiry, TokenSpec};
use kvasm::store::{PostgresStore, SqliteOptions, SqliteStore, Store};
use kvasm_tests::guests::module_with;
use kvasm_tests::postgres::{fresh_database, store_options};
use kvasm_tests::server::{ApiClient, Server};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often each change is made.
const ROUNDS: u32 = 100;

/// A plugin that answers with one letter.
fn letter(letter: char) -> Vec<u8> {
    let body = "(drop (call $output_write (i32.const 0) (i32.const 1))) (i32.const 0)";
    module_with(&letter.to_string(), "", body)
}

struct TwoServers {
    /// The server that gets the requests.
    asked: Server,
    /// The server that makes the changes.
    other: Server,
    /// The app "shop" with two versions, of which the first is active.
    shop: App,
    _keep: Box<dyn Any>,
}

impl TwoServers {
    async fn on_sqlite() -> TwoServers {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kvasm.db");
        let open = async || {
            let store = SqliteStore::open(SqliteOptions::new(&file)).await;
            Arc::new(store.unwrap()) as Arc<dyn Store>
        };
        let stores = [open().await, open().await];
        TwoServers::over(stores, Box::new(folder)).await
    }

    async fn on_postgres() -> TwoServers {
        let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
        let open = async || {
            let options = store_options(url.clone());
            Arc::new(PostgresStore::connect(options).await.unwrap()) as Arc<dyn Store>
        };
        let stores = [open().await, open().await];
        TwoServers::over(stores, Box::new(())).await
    }

    async fn over(stores: [Arc<dyn Store>; 2], keep: Box<dyn Any>) -> TwoServers {
        let [one, two] = stores;
        let asked = Server::over(one, None).await;
        let other = Server::over(two, Some(asked.root.secret().to_owned())).await;
        let shop = other.app("shop", true).await;
        let two = TwoServers {
            asked,
            other,
            shop,
            _keep: keep,
        };
        two.deploy(&two.shop, '1', true).await;
        two.deploy(&two.shop, '2', false).await;
        two
    }

    async fn deploy(&self, app: &App, answer: char, activate: bool) {
        let (host, wasm) = (&self.other.host, letter(answer));
        let actor = host.operator("test");
        host.deploy(&actor, app, wasm, activate).await.unwrap();
    }

    /// Callers of "shop" that keep the server's caches filled until this is dropped.
    fn callers(&self) -> JoinSet<()> {
        let mut callers = JoinSet::new();
        for api in [self.asked.anonymous(), self.asked.root.clone()] {
            for _ in 0..2 {
                let api = api.clone();
                callers.spawn(async move {
                    loop {
                        let status = api.call("shop", "run", "").await.status;
                        assert!([200, 401, 429].contains(&status), "{status}");
                    }
                });
            }
        }
        callers
    }

    /// Asserts that the caches were used.
    fn end(self, mut callers: JoinSet<()>) {
        if let Some(ended) = callers.try_join_next() {
            ended.unwrap();
        }
        let hits = counted(&self.asked, "hit");
        assert!(hits >= u64::from(ROUNDS), "only {hits} hits");
    }
}

/// A counter of `kvasm_access_total`.
fn counted(server: &Server, name: &str) -> u64 {
    let text = server.host.metrics().encode();
    let line = format!("kvasm_access_total{{name=\"{name}\"}} ");
    let count = text.lines().find_map(|found| found.strip_prefix(&line));
    count.map_or(0, |count| count.parse().unwrap())
}

async fn status(api: &ApiClient) -> u16 {
    api.call("shop", "run", "").await.status
}

async fn token_revocation(two: TwoServers) {
    let callers = two.callers();
    let (host, actor) = (&two.other.host, two.other.host.operator("test"));
    for round in 0..ROUNDS {
        let new = TokenSpec {
            name: "test".to_owned(),
            scopes: vec![Scope::ScriptRead],
            expires_at: Expiry::Never,
        };
        let app = (round % 2 == 0).then_some(&two.shop);
        let made = host.admin().create_token(&actor, app, new).await;
        let (token, bearer) = made.unwrap();
        let api = two.asked.root.with_token(Some(bearer.reveal()));
        for _ in 0..2 {
            assert_eq!(status(&api).await, 200, "{round}");
        }
        let revoked = host.admin().revoke_token(&actor, app, token.id).await;
        revoked.unwrap();
        api.call("shop", "run", "")
            .await
            .expect_problem(401, "token-invalid");
    }
    two.end(callers);
}

async fn visibility_change(two: TwoServers) {
    let callers = two.callers();
    let (host, actor) = (&two.other.host, two.other.host.operator("test"));
    let api = two.asked.anonymous();
    for round in 0..ROUNDS {
        for (public, expected) in [(false, 401), (true, 200)] {
            let changed = host.admin().set_public(&actor, &two.shop, public).await;
            changed.unwrap();
            assert_eq!(status(&api).await, expected, "{round}");
        }
    }
    two.end(callers);
}

async fn limits(two: TwoServers) {
    let callers = two.callers();
    let (host, actor) = (&two.other.host, two.other.host.operator("test"));
    let api = two.asked.anonymous();
    for round in 0..ROUNDS {
        for (calls_per_second, expected) in [(Some(0), 429), (None, 200)] {
            let limits = AppLimits {
                calls_per_second,
                ..AppLimits::default()
            };
            let admin = host.admin();
            let changed = admin.set_limits(&actor, &two.shop, limits.into(), None);
            changed.await.unwrap();
            assert_eq!(status(&api).await, expected, "{round}");
        }
    }
    two.end(callers);
}

async fn version_activation(two: TwoServers) {
    let callers = two.callers();
    let (host, actor) = (&two.other.host, two.other.host.operator("test"));
    let api = two.asked.anonymous();
    for round in 0..ROUNDS {
        let version = PluginVersion(2 - round % 2);
        let admin = host.admin();
        let activated = admin.activate_plugin(&actor, &two.shop, version).await;
        activated.unwrap();
        let answer = api.call("shop", "run", "").await.expect(200).text();
        assert_eq!(answer, version.0.to_string(), "{round}");
    }
    two.end(callers);
}

async fn settings_change(two: TwoServers) {
    let (host, actor) = (&two.other.host, two.other.host.operator("test"));
    let set = async |value: u32| {
        let value = ConfigValue::parse(value.to_string().as_bytes()).unwrap();
        let name = SettingName::parse("n").unwrap();
        let set = host.admin().set_config(&actor, &two.shop, name, value);
        set.await.unwrap();
    };
    set(ROUNDS).await;
    let echo = host.deploy(&actor, &two.shop, echo_config(), true);
    echo.await.unwrap();
    let callers = two.callers();
    let api = two.asked.anonymous();
    for round in 0..ROUNDS {
        set(round).await;
        for _ in 0..2 {
            let answer = api.call("shop", "run", "").await.expect(200).text();
            assert_eq!(answer, round.to_string());
        }
    }
    two.end(callers);
}

async fn app_deletion(two: TwoServers) {
    let callers = two.callers();
    let (host, actor) = (&two.other.host, two.other.host.operator("test"));
    let (api, root) = (two.asked.anonymous(), &two.asked.root);
    let name = AppName::parse("other").unwrap();
    for round in 0..ROUNDS {
        // Each time another app of the same name.
        let answer = ['a', 'b'][round as usize % 2];
        let app = host.admin().create_app(&actor, name.clone(), true).await;
        let app = app.unwrap();
        root.call("other", "run", "")
            .await
            .expect_problem(404, "no-active-plugin");
        two.deploy(&app, answer, true).await;
        for _ in 0..2 {
            let answered = api.call("other", "run", "").await.expect(200).text();
            assert_eq!(answered, answer.to_string(), "{round}");
        }
        host.delete_app(&actor, &app).await.unwrap();
        api.call("other", "run", "")
            .await
            .expect_problem(401, "token-required");
        root.call("other", "run", "")
            .await
            .expect_problem(404, "app-not-found");
    }
    two.end(callers);
}

/// A call with a token needs two rows, both cached: it makes one generation check and reads no
/// row. Some of several concurrent calls share a check.
async fn call_makes_one_generation_check(two: TwoServers) {
    let (server, api) = (&two.asked, &two.asked.root);
    let counts = || ["hit", "miss", "look"].map(|name| counted(server, name));
    status(api).await;
    let before = counts();
    for _ in 0..50 {
        assert_eq!(status(api).await, 200);
    }
    let [hits, misses, looks] = counts();
    let [hits, misses, looks] = [hits - before[0], misses - before[1], looks - before[2]];
    assert_eq!((hits, misses, looks), (100, 0, 50));
    let before = counts();
    let mut callers = JoinSet::new();
    for _ in 0..64 {
        let api = api.clone();
        callers.spawn(async move {
            for _ in 0..20 {
                assert_eq!(status(&api).await, 200);
            }
        });
    }
    callers.join_all().await;
    let [hits, misses, looks] = counts();
    let [hits, misses, looks] = [hits - before[0], misses - before[1], looks - before[2]];
    println!("{looks} generation checks for 1280 calls");
    assert_eq!((hits, misses), (2 * 1280, 0));
    assert!(looks <= 1280, "{looks}");
}

/// The same holds for each administrative request whose token and app are cached.
async fn admin_request_makes_one_generation_check(two: TwoServers) {
    let (server, root) = (&two.asked, &two.asked.root);
    let mut wrong = Vec::new();
    let mut count = 0;
    for operation in operations(&document(root).await) {
        let is_of_app = operation.path.contains("{app}");
        if !matches!(operation.access, Access::Scope(_)) || !is_of_app {
            continue;
        }
        count += 1;
        let name = format!("app-{count}");
        server.app(&name, false).await;
        let path = format!("/v1/apps/{name}");
        root.get(&path).await.expect(200);
        let parameters = OF_A_SHOP.map(|(part, value)| match part {
            "app" => (part, name.as_str()),
            _ => (part, value),
        });
        let before = counted(server, "look");
        root.send(&operation.method, &operation.target(&parameters))
            .await;
        let looks = counted(server, "look") - before;
        if looks != 1 {
            wrong.push(format!("{} {}: {looks}", operation.method, operation.path));
        }
    }
    assert!(count > 30, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_request_makes_one_generation_check_on_sqlite() {
    admin_request_makes_one_generation_check(TwoServers::on_sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_request_makes_one_generation_check_on_postgres() {
    admin_request_makes_one_generation_check(TwoServers::on_postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_makes_one_generation_check_on_sqlite() {
    call_makes_one_generation_check(TwoServers::on_sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_makes_one_generation_check_on_postgres() {
    call_makes_one_generation_check(TwoServers::on_postgres().await).await;
}

/// A cached row is not used without a generation check, and no change is made that other hosts
/// could not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cache_is_not_used_if_the_generation_check_fails() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kvasm.db");
    let store = SqliteStore::open(SqliteOptions::new(&file)).await.unwrap();
    let server = Server::over(Arc::new(store), None).await;
    let shop = server.deployed("shop", letter('1')).await;
    let (api, actor) = (server.anonymous(), server.host.operator("test"));
    for api in [&api, &server.root] {
        assert_eq!(status(api).await, 200);
    }
    let outside = rusqlite::Connection::open(&file).unwrap();
    outside.busy_timeout(Duration::from_secs(60)).unwrap();
    outside.execute("DELETE FROM registry", []).unwrap();
    for api in [&api, &server.root] {
        api.call("shop", "run", "")
            .await
            .expect_problem(500, "internal");
    }
    let admin = server.host.admin();
    let changed = admin.set_public(&actor, &shop, false).await;
    assert!(changed.is_err(), "{changed:?}");
    let row = "INSERT INTO registry (id, generation) VALUES (1, zeroblob(16))";
    outside.execute(row, []).unwrap();
    for api in [&api, &server.root] {
        assert_eq!(status(api).await, 200);
    }
    assert!(admin.set_public(&actor, &shop, false).await.is_ok());
    assert_eq!(status(&api).await, 401);
}

macro_rules! seen_by_the_next_request {
    ($($change:ident),*) => {
        mod is_seen_by_the_next_request_on_sqlite {
            use super::TwoServers;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $change() {
                super::$change(TwoServers::on_sqlite().await).await;
            })*
        }
        mod is_seen_by_the_next_request_on_postgres {
            use super::TwoServers;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $change() {
                super::$change(TwoServers::on_postgres().await).await;
            })*
        }
    };
}

seen_by_the_next_request!(
    token_revocation,
    visibility_change,
    limits,
    version_activation,
    settings_change,
    app_deletion
);
