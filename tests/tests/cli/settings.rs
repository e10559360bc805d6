//! Configuration values and secrets of an app, and the key of secrets.

use super::User;
use std::path::PathBuf;

const SECRET: &str = "correct-horse-battery-staple";

impl User {
    fn set_secret(&self, name: &str, secret: &str) {
        let set = self.run_with(&["secret", "set", "demo", name], secret.as_bytes());
        assert_eq!(set.code, 0, "{}", set.stderr);
        assert!(!format!("{}{}", set.stdout, set.stderr).contains(secret.trim()));
    }

    fn store(&self) -> PathBuf {
        self.home.path().join(".local/share/kvasm/kvasm.db")
    }

    fn key_file(&self) -> PathBuf {
        self.store().with_file_name("kvasm.db.secrets-key")
    }

    /// Number of keys in the key file.
    fn keys(&self) -> usize {
        let text = std::fs::read_to_string(self.key_file()).unwrap();
        text.lines().filter(|line| line.len() == 64).count()
    }
}

#[test]
fn config_values_are_set_printed_and_removed() {
    let user = User::with_app();
    user.ok(&["config", "set", "demo", "currency", "EUR"]);
    let set = user.run_with(&["config", "set", "demo", "text", "-"], b"a\nb");
    assert_eq!(set.code, 0, "{}", set.stderr);
    assert_eq!(user.ok(&["config", "get", "demo", "currency"]), "EUR\n");
    let all = user.run(&["config", "list", "demo", "--json"]).json();
    assert_eq!(all[1]["value"], "a\nb");
    assert!(user.ok(&["config", "list", "demo"]).contains("currency"));
    user.ok(&["config", "unset", "demo", "currency"]);
    assert_eq!(user.run(&["config", "get", "demo", "currency"]).code, 1);
    let absent = ["config", "unset", "demo", "currency"];
    user.fails(&absent, 2, "demo has no configuration value currency");
    user.fails(&["config", "set", "demo", "a b", "x"], 2, "' '");
    user.fails(
        &["config", "set", "nope", "a", "x"],
        2,
        "kvasm app create nope",
    );
}

#[test]
fn secrets_are_read_from_stdin_or_a_file_and_never_printed() {
    let user = User::with_app();
    assert!(!user.key_file().exists());
    user.set_secret("from-stdin", &format!("{SECRET}\n"));
    let file = user.home.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    user.ok(&[
        "secret",
        "set",
        "demo",
        "from-file",
        "--file",
        file.to_str().unwrap(),
    ]);
    // As an argument it is not accepted.
    let argument = user.run(&["secret", "set", "demo", "a", SECRET]);
    assert_eq!(argument.code, 2);
    user.fails(&["secret", "set", "demo", "a"], 2, "the secret is empty");
    let all = user.run(&["secret", "list", "demo", "--json"]).json();
    assert_eq!(
        (&all[0]["name"], &all[1]["name"]),
        (&"from-file".into(), &"from-stdin".into())
    );
    let mut shown = String::new();
    for arguments in [
        ["secret", "list", "demo"].as_slice(),
        &["secret", "list", "demo", "--json"],
        &["config", "list", "demo", "--json"],
        &["audit", "--json"],
        &["kv", "export", "demo"],
        &["app", "show", "demo", "--json"],
    ] {
        shown += &user.ok(arguments);
    }
    assert!(!shown.contains(SECRET), "{shown}");
    // Nor is it in the store.
    for folder in std::fs::read_dir(user.store().parent().unwrap()).unwrap() {
        let bytes = std::fs::read(folder.unwrap().path()).unwrap();
        let found = bytes
            .windows(SECRET.len())
            .any(|part| part == SECRET.as_bytes());
        assert!(!found);
    }
    user.ok(&["secret", "unset", "demo", "from-file"]);
    user.fails(
        &["secret", "unset", "demo", "from-file"],
        2,
        "demo has no secret from-file",
    );
}

#[test]
fn key_of_secrets_is_rotated_by_one_command() {
    let user = User::with_app();
    for name in ["a", "b"] {
        user.set_secret(name, SECRET);
    }
    let before = std::fs::read_to_string(user.key_file()).unwrap();
    let rotated = user.run(&["secret", "rotate-key", "--json"]).json();
    assert_eq!(rotated["resealed"], 2);
    assert_eq!(user.keys(), 1);
    let after = std::fs::read_to_string(user.key_file()).unwrap();
    assert_ne!(before, after);
    user.set_secret("a", "another one");
    assert!(user.ok(&["audit", "--json"]).contains("secrets.key"));

    // The old key alone is of no use.
    std::fs::write(user.key_file(), before).unwrap();
    let (name, why) = (["secret", "rotate-key", "--prepared"], "a, demo/b");
    user.fails(&name, 4, why);
    std::fs::write(user.key_file(), after).unwrap();
    let rotated = user
        .run(&["secret", "rotate-key", "--prepared", "--json"])
        .json();
    assert_eq!(rotated["resealed"], 0);
}

#[test]
fn lost_key_file_is_reported_with_its_path() {
    let user = User::with_app();
    user.set_secret("a", SECRET);
    let aside = user.home.path().join("aside");
    std::fs::rename(user.key_file(), &aside).unwrap();
    let set = user.run_with(&["secret", "set", "demo", "b"], b"x");
    assert_eq!(set.code, 4, "{}", set.stderr);
    assert!(set.stderr.contains("key file"), "{}", set.stderr);
    // The host's log, which is for the operator, has the path.
    assert!(
        set.stderr.contains("kvasm.db.secrets-key"),
        "{}",
        set.stderr
    );
    user.fails(&["secret", "rotate-key"], 4, "kvasm.db.secrets-key");
    assert!(!user.key_file().exists());
    std::fs::rename(aside, user.key_file()).unwrap();
    user.set_secret("b", SECRET);
    let file = user.key_file();
    user.fails(
        &["secret", "new-key", file.to_str().unwrap()],
        4,
        "already exists",
    );
}
