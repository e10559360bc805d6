//! docs/tutorial.md: its files are written, its commands run in order, with the real cargo and a real
//! server, and their outputs compared with what the page shows. The page says how, in a comment.

use super::User;
use super::blocks::{self, Block, checkout};
use kvasm_tests::program::process::program;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PAGE: &str = "docs/tutorial.md";
/// The addresses in the page, of plugins and of administration; the server of the test has free
/// ports instead.
const ADDRESSES: [&str; 2] = ["127.0.0.1:7180", "127.0.0.1:7181"];
/// What the server prints before them.
const PRINTED: [&str; 2] = ["Listening on http://", "Administration on http://"];
/// For outputs that come after a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal: the folder in which it is, and what it has started.
struct Reader {
    user: User,
    folder: PathBuf,
    server: Option<Server>,
}

/// A command that runs until the end of the test.
struct Server {
    child: Child,
    /// As in [`ADDRESSES`].
    addresses: [String; 2],
}

impl Server {
    /// What a reader types, with the addresses of this server.
    fn real(&self, page: &str) -> String {
        let pairs = ADDRESSES.iter().zip(&self.addresses);
        pairs.fold(page.to_owned(), |text, (page, real)| {
            text.replace(page, real)
        })
    }

    /// What a reader sees, with the addresses of the page.
    fn as_in_page(&self, printed: &str) -> String {
        let pairs = ADDRESSES.iter().zip(&self.addresses);
        pairs.fold(printed.to_owned(), |text, (page, real)| {
            text.replace(real, page)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Reader {
    /// A home with a checkout of Kvasm and the program.
    fn new() -> Reader {
        let user = User::new();
        let folder = user.home.path().to_owned();
        std::fs::create_dir(folder.join("bin")).unwrap();
        std::os::unix::fs::symlink(program(), folder.join("bin/kvasm")).unwrap();
        std::os::unix::fs::symlink(checkout(), folder.join("kvasm")).unwrap();
        Reader {
            user,
            folder,
            server: None,
        }
    }

    fn shell(&self, script: &str) -> Command {
        let cargo = self.user.command_with_cargo(&[]);
        let mut command = Command::new("bash");
        command.args(["-c", &format!("exec 2>&1\nset -e\n{script}")]);
        let variables = cargo.get_envs();
        let variables = variables.filter_map(|(name, value)| Some((name, value?)));
        command.env_clear().envs(variables);
        // The page names the plugin's own target folder.
        command.env_remove("CARGO_TARGET_DIR");
        let path = std::env::var("PATH").unwrap();
        let bin = self.user.home.path().join("bin");
        command.env("PATH", format!("{}:{path}", bin.display()));
        command.env("CARGO_TERM_COLOR", "never");
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.stdout(Stdio::piped());
        command
    }

    /// Runs a block to its end, and returns its output. The next block starts in its folder.
    fn run(&mut self, block: &Block) -> String {
        let mut script = block.text.clone();
        if let Some(server) = &self.server {
            script = server.real(&script);
        }
        let at = self.user.home.path().join("pwd");
        let at = at.to_str().unwrap();
        let script = format!("trap 'pwd > {at}' EXIT\n{script}");
        let output = self.shell(&script).output().unwrap();
        self.folder = std::fs::read_to_string(at).unwrap().trim_end().into();
        self.share_target();
        let mut printed = String::from_utf8(output.stdout).unwrap();
        if let Some(server) = &self.server {
            printed = server.as_in_page(&printed);
        }
        let fails = block.comment("fails").is_some();
        assert_eq!(
            !output.status.success(),
            fails,
            "{}: {printed}",
            block.place
        );
        printed
    }

    /// Runs a block until its output is as expected.
    fn run_until(&mut self, block: &Block, expected: &Block) {
        let start = Instant::now();
        loop {
            let printed = self.run(block);
            if matches(expected, &printed) || start.elapsed() > PATIENCE {
                return compare(expected, &printed);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a block, and waits until it has printed the last line that the page shows.
    fn start(&mut self, block: &Block, expected: &Block) {
        let mut command = self.shell(&format!("exec {}", block.text));
        command.env("KVASM_LISTEN", "127.0.0.1:0");
        command.env("KVASM_ADMIN_LISTEN", "127.0.0.1:0");
        command.env("KVASM_ENGINE_INSTANCES", "16");
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut server = Server {
            child,
            addresses: Default::default(),
        };
        let mut printed = String::new();
        while server.addresses.iter().any(String::is_empty) {
            let line = lines.next().unwrap_or_else(|| panic!("{printed}"));
            let line = line.unwrap();
            for (address, prefix) in server.addresses.iter_mut().zip(PRINTED) {
                if let Some(found) = line.strip_prefix(prefix) {
                    *address = found.to_owned();
                }
            }
            printed.push_str(&line);
            printed.push('\n');
        }
        compare(expected, &server.as_in_page(&printed));
        // It must not wait for a reader of its log.
        std::thread::spawn(move || lines.for_each(drop));
        self.server = Some(server);
    }

    /// Makes the target folder of a new plugin that of all plugins of these tests.
    fn share_target(&self) {
        let target = self.folder.join("target");
        if self.folder.join("Cargo.toml").exists() && !target.exists() {
            let shared = checkout().join("target/new-plugins");
            std::fs::create_dir_all(&shared).unwrap();
            std::os::unix::fs::symlink(shared, target).unwrap();
        }
    }

    fn write(&self, path: &str, text: &str, is_appended: bool) {
        let path = self.folder.join(path);
        let before = if is_appended {
            std::fs::read_to_string(&path).unwrap() + "\n"
        } else {
            String::new()
        };
        std::fs::write(&path, before + text).unwrap();
    }
}

/// Whether an output is what a block of the page shows.
fn matches(expected: &Block, printed: &str) -> bool {
    let any: Vec<&str> = expected
        .comment("any")
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let expected: Vec<&str> = expected.text.lines().collect();
    let printed: Vec<&str> = printed.lines().collect();
    lines_match(&expected, &printed, &any)
}

/// A line `...` is any number of lines.
fn lines_match(expected: &[&str], printed: &[&str], any: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), None) => lines_match(rest, printed, any),
        (Some((&"...", rest)), Some((_, later))) => {
            lines_match(rest, printed, any) || lines_match(expected, later, any)
        }
        (Some((line, rest)), Some((shown, later))) => {
            line_matches(line, shown, any) && lines_match(rest, later, any)
        }
        _ => false,
    }
}

/// A word of `any` is any other word in its place, between the same characters.
fn line_matches(line: &str, printed: &str, any: &[&str]) -> bool {
    let (line, printed) = (line.split(' '), printed.split(' '));
    let (line, printed): (Vec<_>, Vec<_>) = (line.collect(), printed.collect());
    let same = |(word, shown): (&&str, &&str)| {
        let parts = any.iter().find_map(|any| word.split_once(any));
        match parts {
            Some((before, after)) => shown
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|middle| !middle.is_empty()),
            None => word == shown,
        }
    };
    line.len() == printed.len() && line.iter().zip(&printed).all(same)
}

#[track_caller]
fn compare(expected: &Block, printed: &str) {
    let place = &expected.place;
    let shown = &expected.text;
    assert!(
        matches(expected, printed),
        "{place} shows\n{shown}\nbut the command printed\n{printed}"
    );
}

#[test]
fn every_block_of_the_tutorial_works() {
    let blocks = blocks::read(PAGE);
    let mut reader = Reader::new();
    let mut blocks = blocks.iter().peekable();
    while let Some(block) = blocks.next() {
        let place = &block.place;
        block.allow(&["file", "append", "skip", "until", "background", "fails"]);
        if let Some(path) = block.comment("file") {
            reader.write(path, &block.text, false);
            continue;
        }
        if let Some(path) = block.comment("append") {
            reader.write(path, &block.text, true);
            continue;
        }
        assert_eq!(block.language, "sh", "{place}: is it a file, or an output?");
        let expected = blocks.next_if(|next| next.language.is_empty());
        if let Some(expected) = expected {
            expected.allow(&["any"]);
        }
        match expected {
            _ if block.comment("skip").is_some() => {}
            Some(expected) if block.comment("background").is_some() => {
                reader.start(block, expected);
            }
            Some(expected) if block.comment("until").is_some() => {
                reader.run_until(block, expected);
            }
            Some(expected) => compare(expected, &reader.run(block)),
            None => drop(reader.run(block)),
        }
    }
    assert!(reader.server.is_some(), "no server was started");
    assert!(Path::new(&reader.folder).join("Cargo.toml").exists());
}

#[test]
fn outputs_match_only_where_the_page_allows_it() {
    let is = |expected: &str, printed: &str| {
        let (expected, printed): (Vec<_>, Vec<_>) =
            (expected.lines().collect(), printed.lines().collect());
        lines_match(&expected, &printed, &["17", "0.5s"])
    };
    assert!(is("a\n...\nb 17 c", "a\nx\ny\nb 9 c"));
    assert!(is("...\n[17]: in 0.5s;", "[8]: in 12.25s;"));
    for (expected, printed) in [
        ("a", "b"),
        ("a", "a\nb"),
        ("a\nb", "a"),
        ("a  b", "a b"),
        ("a 17", "a 1 2"),
        ("[17]", "[]"),
        ("a\n...\nb", "a\nx"),
    ] {
        assert!(!is(expected, printed), "{expected:?} {printed:?}");
    }
}
