//! Logs in memory.

use super::*;
use kvasm_core::TraceId;

fn line(message: &str) -> LogRecord {
    LogRecord {
        seq: 0,
        at: Timestamp(0),
        level: Level::Info,
        source: LogSource::Plugin,
        function: "f".into(),
        request_id: Uuid::nil(),
        trace_id: None,
        message: message.to_owned(),
        discarded: false,
        cost: None,
    }
}

#[test]
fn log_followers_are_bounded() {
    let logs = Arc::new(Logs::default());
    let app = AppId::generate();
    let mut following: Vec<_> = (0..FOLLOWERS_OF_APP_MAX)
        .map(|_| logs.follow(app).unwrap())
        .collect();
    assert!(logs.follow(app).is_none());
    assert!(logs.follow(AppId::generate()).is_some());
    following.pop();
    assert!(logs.follow(app).is_some());
    drop(following);
    assert!(logs.followers.lock().is_empty());
}

#[test]
fn follower_creates_no_log_and_is_notified_of_deletion() {
    let logs = Arc::new(Logs::default());
    let app = AppId::generate();
    let following = logs.follow(app).unwrap();
    let hears = |act: &dyn Fn()| {
        let grown = following.grown();
        let mut grown = std::pin::pin!(grown.notified());
        assert!(!grown.as_mut().enable());
        act();
        grown.enable()
    };
    assert!(hears(&|| logs.push(app, [line("one")])));
    assert!(!hears(&|| logs.push(AppId::generate(), [line("another's")])));
    assert!(hears(&|| logs.remove(app)));
    assert!(hears(&|| logs.remove(app)));
    assert!(!logs.apps().contains(&app));
}

#[test]
fn log_keeps_newest_lines_of_each_app() {
    let (logs, app, other) = (Logs::default(), AppId::generate(), AppId::generate());
    logs.push(other, [line("quiet")]);
    for n in 0..LINES_MAX + 10 {
        logs.push(app, [line(&n.to_string())]);
    }
    let lines = logs.read(app, 0, usize::MAX);
    assert_eq!(lines.len(), LINES_MAX);
    assert_eq!(lines[0].message, "10");
    let last = lines[LINES_MAX - 1].seq;
    let third = lines[LINES_MAX - 3].seq;
    assert_eq!(logs.read(app, third, 10).len(), 2);
    assert_eq!(logs.read(app, 0, 3)[0].seq, third);
    assert!(third < last);
    assert_eq!(logs.read(other, 0, 10).len(), 1);
    logs.remove(app);
    assert!(logs.read(app, 0, 10).is_empty());
}

#[test]
fn log_filter_combines_conditions() {
    let (logs, app) = (Logs::default(), AppId::generate());
    let request = Uuid::from_u128(7);
    let trace = TraceId::of_uuid(Uuid::from_u128(8));
    let lines = [
        (1, Level::Error, Uuid::nil()),
        (2, Level::Info, request),
        (3, Level::Warn, request),
        (4, Level::Debug, Uuid::nil()),
    ];
    logs.push(
        app,
        lines.map(|(at, level, request_id)| LogRecord {
            at: Timestamp(at),
            level,
            request_id,
            trace_id: trace.filter(|_| at > 2),
            ..line(&at.to_string())
        }),
    );
    let found = |filter: LogFilter| {
        let found = logs.find(app, 0, 10, &filter);
        let found = found.iter().map(|line| line.message.as_str());
        found.collect::<Vec<_>>().join(" ")
    };
    let all = LogFilter::default();
    let request = Some(request);
    assert_eq!(found(all.clone()), "1 2 3 4");
    assert_eq!(
        found(LogFilter {
            request,
            ..all.clone()
        }),
        "2 3"
    );
    let level = Some(Level::Warn);
    assert_eq!(
        found(LogFilter {
            level,
            ..all.clone()
        }),
        "1 3"
    );
    let since = Some(Timestamp(3));
    assert_eq!(
        found(LogFilter {
            since,
            ..all.clone()
        }),
        "3 4"
    );
    assert_eq!(
        found(LogFilter {
            trace,
            ..all.clone()
        }),
        "3 4"
    );
    let both = LogFilter {
        request,
        trace,
        level,
        ..all.clone()
    };
    assert_eq!(found(both), "3");
    let text = Some("4".to_owned());
    assert_eq!(
        found(LogFilter {
            text,
            ..all.clone()
        }),
        "4"
    );
    let function = Some("g".to_owned());
    assert_eq!(found(LogFilter { function, ..all }), "");
}

#[test]
fn long_log_line_is_truncated() {
    let (logs, app) = (Logs::default(), AppId::generate());
    logs.push(
        app,
        [line("first"), line(&"x".repeat(8 << 20)), line("last")],
    );
    let lines = logs.read(app, 0, 10);
    let lengths: Vec<_> = lines.iter().map(|line| line.message.len()).collect();
    assert_eq!(lengths, [5, LINE_BYTES_MAX + 3, 4]);
}

#[test]
fn function_names_count_toward_log_size() {
    let (logs, app) = (Logs::default(), AppId::generate());
    for _ in 0..100 {
        let function = "f".repeat(APP_BYTES_MAX / 4).into();
        logs.push(
            app,
            [LogRecord {
                function,
                ..line("short")
            }],
        );
    }
    assert_eq!(logs.read(app, 0, 100).len(), 3);
}

#[test]
fn log_bytes_are_bounded_per_app_and_in_total() {
    let logs = Logs::default();
    let quiet = AppId::generate();
    logs.push(quiet, [line("quiet")]);
    let text = "x".repeat(APP_BYTES_MAX / 4);
    let mut loud = Vec::new();
    for _ in 0..BYTES_MAX / APP_BYTES_MAX + 100 {
        let app = AppId::generate();
        logs.push(app, (0..40).map(|_| line(&text)));
        loud.push(app);
    }
    let state = logs.state.lock();
    assert!(state.bytes <= BYTES_MAX);
    let sum: usize = state.rings.values().map(|ring| ring.bytes).sum();
    assert_eq!(sum, state.bytes);
    assert!(state.rings.values().all(|ring| ring.bytes <= APP_BYTES_MAX));
    drop(state);
    assert_eq!(logs.read(quiet, 0, 10).len(), 1);
}

/// The lines of a note count as lost again if the note itself is.
#[test]
fn lines_that_are_stored_and_those_that_notes_count_are_all_lines() {
    let (logs, app) = (Logs::default(), AppId::generate());
    logs.open_queue();
    let text = "x".repeat(1_000);
    let (mut stored, mut counted) = (0, 0);
    let mut write = |segments: usize, is_lost: bool| {
        for _ in 0..segments {
            let lines = logs.take(app, 64 * 1024);
            logs.with_queue(|all| all.written(app, is_lost));
            for line in lines.iter().filter(|_| !is_lost) {
                let note = line.message.split(' ').next().unwrap();
                match line.source {
                    LogSource::Plugin => stored += 1,
                    LogSource::Host => counted += note.parse::<u64>().unwrap(),
                }
            }
        }
    };
    // The notes of one round are dropped before the next, or are in a segment that is lost.
    for (calls, segments, is_lost) in [(5, 4, false), (5, 4, false), (5, 4, true), (0, 200, true)] {
        for _ in 0..calls {
            logs.push(app, (0..1_000).map(|_| line(&text)));
        }
        write(segments, is_lost);
    }
    write(200, false);
    assert_eq!(stored + counted, 15_000, "{stored} {counted}");
    assert!(logs.due(Duration::ZERO, 0).is_empty());
}
