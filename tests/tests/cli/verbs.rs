//! Every verb of the command line, over each kind of connection to a host.

use kvasm_tests::program::guest;
use kvasm_tests::program::process::{Home, run};
use std::collections::BTreeSet;

/// A command: its arguments, its input and the expected result.
struct Row {
    words: Vec<String>,
    input: &'static [u8],
    code: i32,
    /// Text that the output contains.
    prints: &'static str,
}

fn row(words: &str) -> Row {
    Row {
        words: words.split(' ').map(str::to_owned).collect(),
        input: b"",
        code: 0,
        prints: "",
    }
}

impl Row {
    fn with_input(self, input: &'static [u8]) -> Row {
        Row { input, ..self }
    }

    fn expect_output(self, prints: &'static str) -> Row {
        Row { prints, ..self }
    }

    fn expect_code(self, code: i32) -> Row {
        Row { code, ..self }
    }
}

const LINE: &[u8] = b"{\"collection\":\"c\",\"key\":\"imported\",\"json\":1}\n";
const BATCH: &[u8] =
    b"{\"operations\":[{\"set\":{\"collection\":\"c\",\"key\":\"b\",\"json\":1}}]}";
const KEYS: &[u8] = b"{\"keys\":[{\"collection\":\"c\",\"key\":\"k\"}]}";

/// One command for each verb, ordered so that each finds what it needs. `TOKEN` is the id of
/// the token that the previous row created, and `MODULE` is a plugin.
fn rows() -> Vec<Row> {
    let letter = "0198c1d3-0d52-7a31-8f6e-5b1f0f2f7c02";
    vec![
        row("app create shop --public"),
        row("app list").expect_output("shop"),
        row("app show shop").expect_output("shop"),
        row("app public shop false").expect_output("no"),
        row("app limits shop --entries 100").expect_output("100"),
        row("usage shop").expect_output("100"),
        row("overview").expect_output("HOST"),
        row("overview --day").expect_output("runs of functions in the last day"),
        row("deploy shop MODULE").expect_output("Version 1"),
        row("plugin deploy shop MODULE").expect_output("Version 2"),
        row("plugin versions shop").expect_output("active"),
        row("plugin functions shop").expect_output("hello"),
        row("plugin activate shop 1").expect_output("Version 1"),
        row("plugin activate shop 2").expect_output("Version 2"),
        row("plugin rollback shop").expect_output("Version 1"),
        row("plugin delete shop 2").expect_output("Deleted"),
        row("call shop echo --input -")
            .with_input(b"hi")
            .expect_output("hi"),
        row("kv set shop c k 1").expect_output("Version"),
        row("kv get shop c k").expect_output("1"),
        row("kv has shop c k").expect_output("true"),
        row("kv increment shop c k").expect_output("Now 2"),
        row("kv commit shop")
            .with_input(BATCH)
            .expect_output("version"),
        row("kv get-many shop").with_input(KEYS).expect_output("2"),
        row("kv list shop c --values --all").expect_output("VALUE"),
        row("kv collections shop").expect_output("c"),
        row("kv export shop").expect_output("\"key\":\"k\""),
        row("kv import shop")
            .with_input(LINE)
            .expect_output("Imported 1"),
        row("kv delete shop c k").expect_output("Deleted"),
        row("config set shop currency EUR").expect_output("Set currency"),
        row("config get shop currency").expect_output("EUR"),
        row("config list shop").expect_output("EUR"),
        row("config unset shop currency").expect_output("Removed currency"),
        row("secret set shop key")
            .with_input(b"hunter2\n")
            .expect_output("Set key"),
        row("secret list shop").expect_output("key"),
        row("secret unset shop key").expect_output("Removed key"),
        row("plugin needs shop").expect_output("NEED"),
        row("grant shop http https://*.example.com").expect_output("https://*.example.com"),
        row("grant shop timers").expect_output("timers"),
        row("grants shop").expect_output("http https://*.example.com"),
        row("revoke shop timers").expect_output("Revoked"),
        row("trigger set shop hello --collection other").expect_output("hello"),
        row("trigger list shop").expect_output("hello"),
        row("trigger pause shop hello").expect_output("Paused"),
        row("trigger resume shop hello"),
        row("trigger delete shop hello").expect_output("Deleted"),
        row("delivery list shop").expect_output("TRIGGER"),
        row("delivery discard shop --all").expect_code(1),
        row("calls shop"),
        row("timer list shop").expect_output("TIMER"),
        row("timer cancel shop t").expect_code(1),
        row("timer run shop t").expect_code(1),
        row("dead-letter list shop").expect_output("REASON"),
        row(&format!("dead-letter show shop {letter}")).expect_code(1),
        row("dead-letter replay shop --all").expect_code(1),
        row("dead-letter discard shop --all").expect_code(1),
        row("token create ci --scope app:read --app shop --expires 90d").expect_output("kvasm_"),
        row("token show").expect_output("instance:admin"),
        row("token list --app shop").expect_output("until"),
        row("token revoke TOKEN").expect_output("Revoked"),
        row("token list").expect_output("revoked"),
        row("audit shop").expect_output("token.create"),
        row("audit --action token --since 1h").expect_output("token.create"),
        row("app delete shop --yes").expect_output("Deleted"),
    ]
}

/// Verbs that need neither a server nor a store, or only one of them.
const ALONE: [&str; 13] = [
    "serve",
    "login",
    "new",
    "build",
    "dev",
    "test",
    "inspect",
    "run",
    "migrate",
    "logs",
    "kv watch",
    "secret new-key",
    "secret rotate-key",
];

/// The verbs that a command's help lists.
fn verbs(home: &Home, words: &[&str], all: &mut BTreeSet<String>) {
    let help = home.run(&[words, &["--help"]].concat());
    assert_eq!(help.code, 0, "{words:?}: {}", help.stderr);
    let Some((_, rest)) = help.stdout.split_once("\nCommands:\n") else {
        all.insert(words.join(" "));
        return;
    };
    let lines = rest.lines().take_while(|line| !line.is_empty());
    // Continuation lines of a long entry are indented further.
    let lines = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for line in lines {
        let word = line.split_whitespace().next().unwrap();
        if word != "help" {
            verbs(home, &[words, &[word]].concat(), all);
        }
    }
}

#[test]
fn every_verb_is_covered_by_the_table() {
    let home = Home::new();
    let mut all = BTreeSet::new();
    verbs(&home, &[], &mut all);
    assert!(all.len() > 40, "{all:?}");
    let rows = rows();
    for verb in all {
        let words = row(&verb).words;
        let has_row = rows.iter().any(|row| row.words.starts_with(&words));
        assert!(
            has_row || ALONE.contains(&verb.as_str()),
            "{verb} has no row"
        );
    }
}

/// Runs each row with these arguments and variables.
fn run_all(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) {
    let module = home.file("guest.wasm", &guest::wasm());
    let mut made = String::new();
    for row in rows() {
        let words = row.words.iter().map(|word| match word.as_str() {
            "MODULE" => module.clone(),
            "TOKEN" => made.clone(),
            word => word.to_owned(),
        });
        let words: Vec<String> = words.collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = home.command(&[arguments, &words].concat());
        command.envs(variables.iter().copied());
        let ended = run(command, row.input);
        let (stdout, stderr) = (&ended.stdout, &ended.stderr);
        assert_eq!(ended.code, row.code, "{words:?}: {stdout}{stderr}");
        assert!(stdout.contains(row.prints), "{words:?}: {stdout}");
        if let Some(rest) = stderr.strip_prefix("Token ") {
            made = rest.split('.').next().unwrap().to_owned();
        }
    }
}

#[test]
fn every_verb_works_with_arguments() {
    let home = Home::new();
    let server = home.start(&[]);
    let url = server.url();
    run_all(&home, &["--server", &url, "--token", &server.token], &[]);
    server.stop();
}

#[test]
fn every_verb_works_with_variables() {
    let home = Home::new();
    let server = home.start(&[]);
    let url = format!(" {}\r\n", server.url());
    let token = format!("\u{feff}{}\n", server.token);
    let variables = [
        ("KVASM_SERVER", url.as_str()),
        ("KVASM_TOKEN", &token),
        // A server takes precedence over a store; an empty value counts as unset.
        ("KVASM_STORE", "sqlite:/nonexistent/x.db"),
        ("KVASM_PROFILE", ""),
    ];
    run_all(&home, &[], &variables);
    server.stop();
}

#[test]
fn every_verb_works_with_a_saved_profile() {
    let home = Home::new();
    let server = home.start(&[]);
    let url = server.url();
    let login = [
        "login",
        "--profile",
        "p",
        "--server",
        &url,
        "--token",
        &server.token,
    ];
    let ended = home.run(&login);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    // Arguments take precedence over the environment.
    let variables = [
        ("KVASM_STORE", "sqlite:/nonexistent/x.db"),
        ("KVASM_TOKEN", "kvasm_x"),
    ];
    run_all(&home, &["--profile", "p"], &variables);
    run_all(&home, &[], &[("KVASM_PROFILE", "p")]);
    server.stop();
}

#[test]
fn every_verb_works_on_a_store() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("argument.db"));
    run_all(
        &home,
        &["--store", &store],
        &[("KVASM_SERVER", "http://127.0.0.1:1")],
    );
    let store = format!("sqlite:{}", home.path("variable.db"));
    run_all(&home, &[], &[("KVASM_STORE", &store)]);
    let file = format!("store = \"sqlite:{}\"\n", home.path("file.db"));
    let file = home.file("kvasm.toml", file.as_bytes());
    run_all(&home, &["--config", &file], &[]);
    assert!(std::fs::exists(home.path("file.db")).unwrap());
}
