//! Records of calls in memory, and their format.

use super::*;
use crate::logs::segment_record::SegmentRecord;
use kvasm_core::{Cost, PluginVersion, Timestamp, TraceId};

fn record(outcome: &'static str) -> CallRecord {
    CallRecord {
        seq: 0,
        at: Timestamp(1),
        request_id: Uuid::from_u128(2),
        trace_id: None,
        function: "f".into(),
        version: Some(PluginVersion(3)),
        cause: "call".into(),
        delivery: None,
        outcome: outcome.into(),
        blame: None,
        error: None,
        duration: Duration::from_micros(4),
        waited: Duration::ZERO,
        cost: None,
        replayed: false,
    }
}

fn read_again(entry: &CallEntry) -> CallEntry {
    let mut line = Vec::new();
    entry.write(&mut line);
    assert!(!line.contains(&b'\n'));
    CallEntry::read(&line).unwrap()
}

#[test]
fn stored_call_is_read_as_it_was_written() {
    let full = CallRecord {
        seq: u64::MAX / 2,
        trace_id: TraceId::of_uuid(Uuid::from_u128(8)),
        function: "</script>\n\u{202e}\0".into(),
        delivery: Some(Box::new(DeliveredCall {
            trigger: "t".into(),
            event_id: Uuid::from_u128(9),
            attempt: 3,
            webhook: true,
        })),
        blame: Some("plugin".into()),
        error: Some("\"}\n{\u{1b}[2J".into()),
        waited: Duration::from_micros(2),
        cost: Some(Box::new(Cost {
            runs: 2,
            cpu: Duration::from_micros(7),
            memory_bytes: 1,
            entries_read: 2,
            entries_written: 3,
            bytes_read: 4,
            bytes_written: 5,
            host_calls: 6,
            fetches: 7,
        })),
        replayed: true,
        ..record("trap")
    };
    for call in [full, record("ok")] {
        let entry = CallEntry::Call(call);
        assert_eq!(read_again(&entry), entry);
    }
    let gap = CallEntry::Gap { seq: 1, calls: 2 };
    assert_eq!(read_again(&gap), gap);
    for unreadable in ["", "{}", "null", "[1]", "{\"seq\":1}"] {
        assert_eq!(CallEntry::read(unreadable.as_bytes()), None);
    }
}

#[test]
fn small_call_takes_little_space() {
    let mut line = Vec::new();
    CallEntry::Call(record("ok")).write(&mut line);
    assert!(line.len() < 160, "{}", String::from_utf8_lossy(&line));
}

#[test]
fn call_filter_combines_conditions() {
    let call = CallEntry::Call(CallRecord {
        delivery: Some(Box::new(DeliveredCall {
            trigger: "t".into(),
            event_id: Uuid::nil(),
            attempt: 1,
            webhook: false,
        })),
        ..record("trap")
    });
    let all = CallFilter::default();
    let yes = [
        all.clone(),
        CallFilter {
            since: Some(Timestamp(1)),
            until: Some(Timestamp(2)),
            request: Some(Uuid::from_u128(2)),
            function: Some("f".into()),
            trigger: Some("t".into()),
            outcome: Some("trap".into()),
            failed: true,
            slower: Duration::from_micros(4),
        },
    ];
    let no = [
        CallFilter {
            since: Some(Timestamp(2)),
            ..all.clone()
        },
        CallFilter {
            until: Some(Timestamp(1)),
            ..all.clone()
        },
        CallFilter {
            request: Some(Uuid::nil()),
            ..all.clone()
        },
        CallFilter {
            function: Some("g".into()),
            ..all.clone()
        },
        CallFilter {
            trigger: Some("f".into()),
            ..all.clone()
        },
        CallFilter {
            outcome: Some("ok".into()),
            ..all.clone()
        },
        CallFilter {
            slower: Duration::from_micros(5),
            ..all.clone()
        },
    ];
    assert!(yes.iter().all(|filter| call.meets(filter)));
    assert!(no.iter().all(|filter| !call.meets(filter)));
    let failed = CallFilter {
        failed: true,
        ..all
    };
    for outcome in ["ok", "deferred"] {
        assert!(!CallEntry::Call(record(outcome)).meets(&failed));
    }
}

#[test]
fn nothing_is_recorded_without_a_keeper() {
    let calls = CallRecords::new(Arc::default());
    let app = AppId::generate();
    calls.push(app, record("ok"));
    assert!(!calls.is_open() && calls.in_memory(app).is_empty());
    calls.open_queue();
    calls.push(app, record("ok"));
    calls.push(app, record("ok"));
    let seqs: Vec<_> = calls.in_memory(app).iter().map(|e| e.seq()).collect();
    assert!(calls.is_open() && seqs.len() == 2 && seqs[0] < seqs[1]);
    calls.remove(app);
    assert!(calls.in_memory(app).is_empty());
}

#[test]
fn flood_of_calls_leaves_a_gap_and_a_line_in_the_log() {
    let logs = Arc::<Logs>::default();
    let calls = CallRecords::new(Arc::clone(&logs));
    let app = AppId::generate();
    calls.open_queue();
    let flood = || {
        for _ in 0..12_000 {
            calls.push(app, record("ok"));
        }
        let entries = calls.take(app, usize::MAX);
        calls.with_queue(|all| all.written(app, false));
        calls.due(Duration::from_secs(1), usize::MAX);
        let left_out: u64 = entries.iter().map(|entry| entry.left_out()).sum();
        let kept = entries.iter().filter(|entry| entry.left_out() == 0);
        assert_eq!(kept.count() as u64 + left_out, 12_000);
        left_out
    };
    let first = flood();
    assert!(first > 1_000, "{first}");
    let lines = || logs.read(app, 0, 100);
    assert_eq!(lines().len(), 1);
    let text = format!("{first} calls were not recorded");
    assert!(lines()[0].message.starts_with(&text), "{:?}", lines());
    // A flood that lasts is reported once a minute, and at the end.
    let rest = flood() + flood();
    assert_eq!(lines().len(), 1);
    calls.due(Duration::ZERO, 0);
    let text = format!("{rest} calls were not recorded");
    assert!(lines()[1].message.starts_with(&text), "{:?}", lines());
    calls.due(Duration::ZERO, 0);
    assert_eq!(lines().len(), 2);
}

#[test]
fn gap_that_is_lost_is_recorded_again_but_not_logged_twice() {
    let logs = Arc::<Logs>::default();
    let calls = CallRecords::new(Arc::clone(&logs));
    let app = AppId::generate();
    calls.open_queue();
    for _ in 0..12_000 {
        calls.push(app, record("ok"));
    }
    assert!(calls.take(app, usize::MAX).len() > 10_000);
    calls.with_queue(|all| all.written(app, true));
    let again = calls.take(app, usize::MAX);
    assert_eq!((again.len(), again[0].left_out()), (1, 12_000));
    calls.with_queue(|all| all.written(app, false));
    calls.due(Duration::ZERO, 0);
    let lines = logs.read(app, 0, 100);
    let numbers = lines.iter().map(|line| line.message.split(' ').next());
    let logged: u64 = numbers.map(|n| n.unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(logged, 12_000, "{lines:?}");
    assert!(calls.take(app, usize::MAX).is_empty());
}
