//! The plugins of docs/cookbook.md, built as modules and called concurrently on a real server: no
//! update is lost.

use super::User;
use super::blocks::{self, checkout};
use super::guide::{cargo, make_package};
use kvasm_tests::program::process::{Home, Server};
use kvasm_tests::program::raw_client::Response;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const TARGET: &str = "wasm32-wasip1";
/// How many calls are made at once.
const CALLS: usize = 16;

/// The recipes that are called concurrently, by heading.
const RECIPES: [&str; 5] = [
    "Unique constraint",
    "Secondary index",
    "Queue",
    "Rate limiter",
    "Leaderboard",
];

/// The name of the app and the module of a recipe.
fn name(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

/// Builds the recipes, and deploys each to an app of its own.
fn deployed(user: &User, home: &Home) -> Server {
    let mut examples = String::new();
    for heading in RECIPES {
        let name = name(heading);
        write!(
            examples,
            "[[example]]\nname = {name:?}\ncrate-type = [\"cdylib\"]\n"
        )
        .unwrap();
    }
    let folder = make_package(user, "kvasm-cookbook", &examples);
    let blocks = blocks::read("docs/cookbook.md");
    for heading in RECIPES {
        let block = blocks.iter().find(|block| block.heading == heading);
        let path = folder.join(format!("examples/{}.rs", name(heading)));
        std::fs::write(path, &block.unwrap().text).unwrap();
    }
    let build = ["build", "--release", "--examples", "--target", TARGET];
    cargo(user, &folder, &build);
    let modules = checkout().join(format!("target/new-plugins/{TARGET}/release/examples"));
    let server = home.start(&[]);
    for heading in RECIPES {
        let app = name(heading);
        let module = modules.join(format!("{}.wasm", app.replace('-', "_")));
        let module = std::fs::read(module).unwrap();
        server.create_app(&app);
        let path = format!("/v1/apps/{app}/plugins");
        server
            .admin("POST", &path, "application/wasm", &module)
            .ok();
    }
    server
}

/// Makes calls at once, and returns their responses in order.
fn at_once(call: impl Fn(usize) -> Response + Sync) -> Vec<Response> {
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..CALLS)
            .map(|number| {
                scope.spawn({
                    let call = &call;
                    move || call(number)
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

fn statuses(responses: &[Response], status: u16) -> usize {
    responses
        .iter()
        .filter(|response| response.status == status)
        .count()
}

fn bytes(input: &Value) -> Vec<u8> {
    input.to_string().into_bytes()
}

/// All keys of a collection.
fn keys(server: &Server, app: &str, collection: &str) -> Vec<String> {
    let path = format!("/v1/apps/{app}/kv/list?collection={collection}");
    let page = server.admin("GET", &path, "text/plain", b"").ok().json();
    let entries = page["entries"].as_array().unwrap().iter();
    entries
        .map(|entry| entry["key"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn recipes_lose_no_update() {
    let (user, home) = (User::new(), Home::new());
    let server = deployed(&user, &home);
    address_is_registered_once(&server);
    task_has_one_owner(&server);
    job_is_taken_once(&server);
    limit_holds(&server);
    best_score_stays(&server);
    server.stop();
}

fn address_is_registered_once(server: &Server) {
    let register = |number| {
        let user = json!({ "name": format!("user {number}"), "email": "ada@example.com" });
        server.call("unique-constraint", "register", &bytes(&user))
    };
    let responses = at_once(register);
    assert_eq!(statuses(&responses, 200), 1);
    assert_eq!(statuses(&responses, 422), CALLS - 1);
    let users = keys(server, "unique-constraint", "users");
    assert_eq!(users.len(), 1, "{users:?}");
}

fn task_has_one_owner(server: &Server) {
    let put = |number| {
        let task = json!(["t1", { "owner": format!("owner{number}"), "title": "Paint" }]);
        server.call("secondary-index", "put_task", &bytes(&task))
    };
    assert_eq!(statuses(&at_once(put), 200), CALLS);
    let index = keys(server, "secondary-index", "tasks-by-owner");
    assert_eq!(index.len(), 1, "{index:?}");
    let (owner, _) = index[0].split_once(' ').unwrap();
    let tasks = server.call("secondary-index", "tasks_of", &bytes(&json!(owner)));
    assert_eq!(tasks.ok().json()[0]["owner"], owner);
}

fn job_is_taken_once(server: &Server) {
    let push = |number| server.call("queue", "push", &bytes(&json!(format!("job {number}"))));
    assert_eq!(statuses(&at_once(push), 200), CALLS);
    let taken = at_once(|_| server.call("queue", "take", b""));
    let jobs = taken
        .into_iter()
        .map(|taken| taken.ok().json()["job"].to_string());
    assert_eq!(jobs.collect::<BTreeSet<_>>().len(), CALLS);
    assert_eq!(server.call("queue", "take", b"").ok().json(), Value::Null);
}

fn limit_holds(server: &Server) {
    let minute = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs() / 60
    };
    loop {
        let start = minute();
        let responses = at_once(|_| server.get("/a/rate-limiter/"));
        let allowed = statuses(&responses, 200);
        assert_eq!(allowed + statuses(&responses, 429), CALLS);
        // In a new minute the calls count from zero.
        if minute() == start {
            return assert_eq!(allowed, 3);
        }
    }
}

fn best_score_stays(server: &Server) {
    let submit = |number| server.call("leaderboard", "submit", &bytes(&json!(["ada", number])));
    assert_eq!(statuses(&at_once(submit), 200), CALLS);
    let top = server.call("leaderboard", "top", b"10").ok().json();
    assert_eq!(top, json!([["ada", CALLS - 1]]));
}
