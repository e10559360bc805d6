//! Hosts that are killed while changes are written and delivered: each acknowledged change
//! takes effect in its handlers once, in the order of its key.

use kvasm::dispatch::Dispatcher;
use kvasm_store_testing::conformance::rng::{Rng, seed};
use kvasm_tests::crash_app::{CrashApp, open, options};
use kvasm_tests::postgres::fresh_database;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const KILLS: usize = 20;
/// The timeout of a wait.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that writes and dispatches.
struct EventWriter {
    child: Child,
    lines: Receiver<String>,
}

/// The greatest acknowledged number of each key.
type Acknowledged = BTreeMap<String, u64>;

impl EventWriter {
    fn start(place: &str, letter: &str) -> EventWriter {
        let mut command = Command::new(env!("CARGO_BIN_EXE_teller"));
        command.args([place, letter]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        EventWriter { child, lines }
    }

    /// Receives `count` changes.
    fn receive(&self, count: usize, acknowledged: &mut Acknowledged) {
        for _ in 0..count {
            let line = self.lines.recv_timeout(PATIENCE);
            note(&line.expect("a change"), acknowledged);
        }
    }

    fn kill(mut self, acknowledged: &mut Acknowledged) {
        // On Unix this is SIGKILL.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // What it printed before it was killed.
        self.lines.iter().for_each(|line| note(&line, acknowledged));
    }
}

/// The last line of a killed process may be truncated.
fn note(line: &str, acknowledged: &mut Acknowledged) {
    let whole = line.split_once(' ').filter(|(key, _)| key.len() == 3);
    if let Some((key, Ok(number))) = whole.map(|(key, number)| (key, number.parse::<u64>())) {
        let last = acknowledged.entry(key.to_owned()).or_default();
        *last = number.max(*last);
    }
}

/// After a kill, asserts that no batch is half written and that all acknowledged changes are
/// there. Returns how many deliveries are leased, some of them to a killed process.
async fn assert_whole(tally: &CrashApp, acknowledged: &Acknowledged) -> usize {
    for (key, number) in acknowledged {
        let [(left, _), (right, _)] = tally.last(key).await;
        assert_eq!(left, right, "half a batch of {key}");
        assert!(
            left >= *number,
            "{key}: {number} was acknowledged, but {left} is stored"
        );
    }
    let leased = |delivery: &kvasm::model::Delivery| delivery.leased;
    tally.outstanding().await.into_iter().filter(leased).count()
}

/// Once all writers have ended, waits until everything is delivered and checks it.
async fn assert_all_delivered(tally: &CrashApp, acknowledged: &Acknowledged) {
    let dispatcher = Dispatcher::new(tally.host.clone(), options());
    let (stop, stopped) = oneshot::channel::<()>();
    let dispatcher = tokio::spawn(dispatcher.run(async { drop(stopped.await) }));
    let start = Instant::now();
    loop {
        let left = tally.outstanding().await;
        let Some(first) = left.first() else { break };
        let count = left.len();
        assert!(
            start.elapsed() < PATIENCE,
            "{count} are stuck, such as {first:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(stop);
    dispatcher.await.unwrap();
    assert_eq!(
        tally.dead_letters().await,
        0,
        "a delivery was dead-lettered"
    );
    assert_eq!(
        tally.keys("odd").await,
        [""; 0],
        "out of order: side, key, number"
    );
    assert_whole(tally, acknowledged).await;
    let mut changes = 0;
    for key in tally.keys("left").await {
        let [(last, _), _] = tally.last(&key).await;
        assert_eq!(
            tally.of_handlers("seen", &key).await,
            [last; 2],
            "the last of {key}"
        );
        assert_eq!(
            tally.of_handlers("count", &key).await,
            [last; 2],
            "the effects of {key}"
        );
        changes += last;
    }
    let heard: u64 = acknowledged.values().sum();
    println!("{changes} changes, of which {heard} were acknowledged");
    assert!(heard > 0 && changes >= heard);
}

fn random() -> Rng {
    Rng::new(seed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_delivered_after_the_host_is_killed() {
    let mut rng = random();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("crash.db");
    let place = place.to_str().unwrap();
    drop(CrashApp::over(open(place).await).await);
    let (mut acknowledged, mut leased) = (Acknowledged::new(), 0);
    for _ in 0..KILLS {
        let teller = EventWriter::start(place, "a");
        teller.receive(1 + rng.below(80), &mut acknowledged);
        // Kills the host at a random moment of what follows.
        std::thread::sleep(Duration::from_micros(rng.below(20_000) as u64));
        teller.kill(&mut acknowledged);
        let tally = CrashApp::over(open(place).await).await;
        leased += assert_whole(&tally, &acknowledged).await;
    }
    assert!(
        leased > 0,
        "no handler was running when the host was killed"
    );
    println!("{leased} deliveries were leased when the host was killed");
    let tally = CrashApp::over(open(place).await).await;
    assert_all_delivered(&tally, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_delivered_after_one_of_two_hosts_is_killed() {
    let mut rng = random();
    let place = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    let tally = CrashApp::over(open(&place).await).await;
    let (mut acknowledged, mut leased) = (Acknowledged::new(), 0);
    let start = |letter: &str| EventWriter::start(&place, letter);
    let mut tellers = vec![("a", start("a")), ("b", start("b"))];
    for _ in 0..KILLS {
        let (letter, teller) = tellers.swap_remove(rng.below(2));
        teller.receive(1 + rng.below(60), &mut acknowledged);
        std::thread::sleep(Duration::from_micros(rng.below(20_000) as u64));
        teller.kill(&mut acknowledged);
        leased += assert_whole(&tally, &acknowledged).await;
        tellers.push((letter, start(letter)));
    }
    for (_, teller) in tellers {
        teller.receive(1, &mut acknowledged);
        teller.kill(&mut acknowledged);
    }
    assert!(leased > 0, "no handler was running when a host was killed");
    assert_all_delivered(&tally, &acknowledged).await;
}
