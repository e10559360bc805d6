//! The files of `docs/deploy` and `docs/monitoring`: the commands in them are valid, and the names in them exist.

use kvasm_tests::program::process::{CommandOutput, Home, eventually, program, run};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const UNIT: &str = include_str!("../../../docs/deploy/kvasm.service");
const DOCKERFILE: &str = include_str!("../../../docs/deploy/Dockerfile");
const SCRAPE: &str = include_str!("../../../docs/monitoring/prometheus.yml");
const ALERTS: &str = include_str!("../../../docs/monitoring/alerts.yml");
const DASHBOARD: &str = include_str!("../../../docs/monitoring/dashboard.json");
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// The user of the image.
const NOBODY: u32 = 65_532;

/// The text after a name at the start of each line.
fn settings<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let lines = text.lines();
    lines.filter_map(|line| line.strip_prefix(name)).collect()
}

/// The configuration that results from arguments and variables.
fn configuration(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> CommandOutput {
    let mut command = home.command(arguments);
    command
        .arg("--print-config")
        .envs(variables.iter().copied());
    run(command, b"")
}

/// Asserts that each variable sets a configuration key to this value.
fn assert_in_effect(config: &str, variables: &[(&str, &str)]) {
    let rows = OPERATING
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    let keys: Vec<_> = rows.filter_map(|row| row.split('`').next()).collect();
    for (variable, value) in variables {
        let of_key = |key: &str| format!("KVASM_{}", key.replace('.', "_").to_uppercase());
        let key = keys.iter().find(|key| of_key(key) == *variable);
        let key = key.unwrap_or_else(|| panic!("{variable} sets no key"));
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let section = match section {
            "" => config.split("\n[").next(),
            section => config
                .split("\n[")
                .find(|part| part.starts_with(&format!("{section}]"))),
        };
        let line = format!("\n{name} = \"{value}\"\n");
        assert!(
            section.is_some_and(|s| format!("\n{s}\n").contains(&line)),
            "{line}{config}"
        );
    }
}

#[test]
fn systemd_unit_command_is_valid() {
    let home = Home::new();
    let command = settings(UNIT, "ExecStart=");
    let [command] = command.as_slice() else {
        panic!("{command:?}");
    };
    let words: Vec<_> = command.split_whitespace().collect();
    assert_eq!(words.first(), Some(&"/usr/bin/kvasm"));
    let variables: Vec<_> = settings(UNIT, "Environment=")
        .into_iter()
        .map(|setting| setting.split_once('=').unwrap())
        .collect();
    let ended = configuration(&home, &words[1..], &variables);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!variables.is_empty());
    assert_in_effect(&ended.stdout, &variables);
    // Its folders are those that systemd creates and makes writable.
    assert_eq!(settings(UNIT, "StateDirectory="), ["kvasm"]);
    assert_eq!(settings(UNIT, "CacheDirectory="), ["kvasm"]);
    let is_below = |(_, value): &(&str, &str)| {
        value.contains("/var/lib/kvasm/") || value.contains("/var/cache/kvasm/")
    };
    assert!(variables.iter().all(is_below), "{variables:?}");
}

/// Where systemd is installed, it recognises each setting.
#[test]
fn systemd_verifies_the_unit() {
    let home = Home::new();
    let asked = Command::new("systemd-analyze").arg("--version").output();
    if !asked.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: systemd-analyze is not installed");
        return;
    }
    // It also checks that the program exists.
    let program = program();
    let unit = UNIT.replace("/usr/bin/kvasm", program.to_str().unwrap());
    let path = home.file("kvasm.service", unit.as_bytes());
    let mut command = home.prepare("systemd-analyze");
    command.args(["verify", "--man=no", &path]);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let ended = run(command, b"");
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (0, ""),
        "{}",
        ended.stdout
    );
}

#[test]
fn container_image_command_is_valid() {
    let home = Home::new();
    let json = |name| {
        let found = settings(DOCKERFILE, name);
        let [found] = found.as_slice() else {
            panic!("{name}{found:?}");
        };
        serde_json::from_str::<Vec<String>>(found).unwrap()
    };
    assert_eq!(json("ENTRYPOINT "), ["/usr/bin/kvasm"]);
    let command = json("CMD ");
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    let variables: Vec<_> = settings(DOCKERFILE, "ENV ")
        .into_iter()
        .map(|setting| setting.split_once('=').unwrap())
        .collect();
    let ended = configuration(&home, &command, &variables);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!variables.is_empty());
    assert_in_effect(&ended.stdout, &variables);
    // Not root, and numeric, so that an orchestrator can verify that.
    let user = format!("{NOBODY}:{NOBODY}");
    assert_eq!(settings(DOCKERFILE, "USER "), [user.as_str()]);
    assert_eq!(settings(DOCKERFILE, "VOLUME "), ["/var/lib/kvasm"]);
    let port = ended.stdout.contains("listen = \"0.0.0.0:7180\"");
    assert!(
        port && settings(DOCKERFILE, "EXPOSE ") == ["7180 7181"],
        "{}",
        ended.stdout
    );
}

/// As in the image: an unprivileged user without a home or a temporary folder, in a folder that
/// it does not own, with one folder for the store and the cache.
#[test]
fn server_runs_unprivileged_with_one_writable_folder() {
    let home = Home::new();
    let folder = home.path("public");
    std::fs::create_dir(&folder).unwrap();
    let of_all = std::fs::Permissions::from_mode(0o755);
    let parent = Path::new(&folder).parent().unwrap().to_owned();
    for open in [&parent, Path::new(&folder)] {
        std::fs::set_permissions(open, of_all.clone()).unwrap();
    }
    // The program may be in a folder that no other user can access.
    let binary = format!("{folder}/kvasm");
    std::fs::copy(program(), &binary).unwrap();
    let store = format!("{folder}/store");
    std::fs::create_dir(&store).unwrap();
    let closed = format!("{folder}/closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();

    let is_root = std::fs::metadata(&store).unwrap().uid() == 0;
    let mut command = home.prepare(&binary);
    if is_root {
        chown(&store, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    command
        .env_clear()
        .env("KVASM_STORE", format!("sqlite:{store}/kvasm.db"))
        .env("KVASM_CACHE_DIR", format!("{store}/compiled"))
        .env("KVASM_LISTEN", "127.0.0.1:0")
        .env("KVASM_ADMIN_LISTEN", "none")
        .env("KVASM_ENGINE_INSTANCES", "16")
        .current_dir(&closed)
        .arg("serve");
    let server = home.spawn(command);
    server.deploy_guest("demo");
    assert_eq!(server.call("demo", "hello", b"").ok().text(), "hello");
    server.get("/readyz").ok();
    eventually("a compiled plugin in the folder", || {
        let files = std::fs::read_dir(format!("{store}/compiled")).ok()?;
        (files.count() > 0).then_some(())
    });
    let owner = std::fs::metadata(format!("{store}/kvasm.db")).unwrap();
    assert_eq!(owner.mode() & 0o777, 0o600);
    assert!(!is_root || owner.uid() == NOBODY);
    server.stop_and_inspect_log(|log| {
        let complaints = log
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("ERROR"));
        // The limit of open files depends on the machine.
        let complaints: Vec<_> = complaints
            .filter(|line| !line.contains("the open file limit is too low"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:?}");
    });
    assert_eq!(std::fs::read_dir(&closed).unwrap().count(), 0);
}

/// Checks that an expression names only metrics that exist, and returns their number. That the table
/// has those of `/metrics` is a test of its own.
fn check_metrics(text: &str) -> usize {
    let rows = OPERATING
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    let known: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.split(|c| !is_name(c));
    let names = names.filter(|n| n.starts_with("kvasm_") || n.starts_with("process_"));
    let names = names.map(|name| name.strip_suffix("_bucket").unwrap_or(name));
    let unknown = |name: &&str| assert!(known.contains(name), "unknown metric {name}");
    names.inspect(unknown).count()
}

/// A panel of a metric that does not exist stays empty.
#[test]
fn dashboard_uses_existing_metrics() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let panels = panels.iter().filter(|panel| panel["type"] != "row");
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            assert!(check_metrics(expression) > 0, "{expression}");
            assert!(expression.contains("job=~\"$job\""), "{expression}");
        }
    }
    assert!(ids.len() > 20, "{} panels", ids.len());
}

/// An alert on a metric that does not exist never fires.
#[test]
fn alerts_use_existing_metrics() {
    let count = check_metrics(ALERTS);
    assert!(count >= 10, "only {count} names were found");
    assert!(SCRAPE.contains("- alerts.yml") && SCRAPE.contains("metrics_path: /metrics"));
    let admin = UNIT.contains("--admin-listen 127.0.0.1:7181");
    assert!(admin && SCRAPE.contains("127.0.0.1:7181"));
}
