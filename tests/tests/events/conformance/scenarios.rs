//! The calls by which the harness and a host are compared.

use super::StepCall;
use super::plugin::{Expected, Range, Step, Text};

fn of(c: &str, k: &str) -> (String, String) {
    (c.to_owned(), k.to_owned())
}

pub(super) fn text(value: &str) -> Text {
    Text(value.to_owned(), 1)
}

pub(super) fn set(c: &str, k: &str, value: &str) -> Step {
    Step::Set(c.to_owned(), k.to_owned(), text(value))
}

pub(super) fn get(c: &str, k: &str) -> Step {
    Step::Get(c.to_owned(), k.to_owned())
}

pub(super) fn add(c: &str, k: &str, by: i64) -> Step {
    Step::Increment(c.to_owned(), k.to_owned(), by)
}

pub(super) fn list(c: &str, range: Range) -> Step {
    Step::List(c.to_owned(), range)
}

fn limited(limit: usize) -> Range {
    Range {
        limit: Some(limit),
        ..Range::default()
    }
}

/// Names, values and sizes at and over their limits.
fn limits() -> Vec<Step> {
    let long = |bytes: usize| "n".repeat(bytes);
    let mut steps = Vec::new();
    for (c, k) in [
        of("", "k"),
        of("c", ""),
        of("c\0", "k"),
        of("c", "k\0"),
        of(&long(128), "k"),
        of(&long(129), "k"),
        of("c", &long(1024)),
        of("c", &long(1025)),
        of("ü", "🦀\u{10ffff}"),
    ] {
        steps.extend([set(&c, &k, "1"), get(&c, &k), add(&c, &k, 1)]);
        steps.push(Step::Delete(c.clone(), k.clone()));
        steps.push(Step::Has(c, k));
    }
    let mib = 1024 * 1024;
    for bytes in [mib, mib + 1] {
        let value = Text("v".to_owned(), bytes);
        steps.push(Step::SetBytes("c".into(), "big".into(), value.clone()));
        steps.push(Step::GetBytes("c".into(), "big".into()));
    }
    steps.push(set("c", "nul", "a\0b"));
    steps.push(Step::SetTtl("c".into(), "t".into(), 0));
    steps.push(Step::SetTtl("c".into(), "t".into(), u64::MAX));
    steps.push(Step::GetMany(
        "c".into(),
        (0..1001).map(|n| n.to_string()).collect(),
    ));
    steps.push(Step::GetMany("c".into(), vec!["a".into(), String::new()]));
    let many = |count: usize| {
        (0..count)
            .map(|n| set("many", &format!("{n:04}"), "1"))
            .collect()
    };
    steps.push(Step::Batch(Vec::new(), many(1000)));
    steps.push(Step::Batch(Vec::new(), many(1001)));
    let big = |n: usize| Step::SetBytes("c".into(), n.to_string(), Text("v".into(), mib));
    steps.push(Step::Batch(Vec::new(), (0..4).map(big).collect()));
    steps
}

fn integers() -> Vec<Step> {
    let max = i64::MAX.to_string();
    let beyond = Step::SetBytes("c".into(), "bytes".into(), text("1"));
    vec![
        add("c", "new", 5),
        add("c", "new", -7),
        set("c", "max", &max),
        add("c", "max", 1),
        add("c", "max", i64::MIN),
        set("c", "min", &i64::MIN.to_string()),
        add("c", "min", -1),
        set("c", "text", "x"),
        add("c", "text", 1),
        beyond,
        add("c", "bytes", 1),
        get("c", "bytes"),
        get("c", "text"),
        Step::Update("c".into(), "max".into()),
        Step::Update("c".into(), "text".into()),
    ]
}

/// Additions in transactions, whose errors are those of the commit or of a later read.
fn additions() -> Vec<Step> {
    let plus = |k: &str, by: i64| Step::Add("c".to_owned(), k.to_owned(), by);
    let all = || list("c", Range::default());
    let commit = |steps: Vec<Step>| Step::Transaction(steps, false);
    let max = i64::MAX.to_string();
    let impossible = |key: &str| {
        vec![
            commit(vec![set("c", "other", "1"), plus(key, 1)]),
            commit(vec![plus(key, 1), get("c", key)]),
            commit(vec![plus(key, 1), Step::Has("c".into(), key.to_owned())]),
            commit(vec![plus(key, 1), all()]),
            commit(vec![plus(key, 1), add("c", key, 1)]),
            commit(vec![plus(key, 1), Step::Delete("c".into(), key.to_owned())]),
            commit(vec![plus(key, 1), set("c", key, "x")]),
            commit(vec![plus(key, 1), plus(key, -1)]),
            commit(vec![
                Step::Transaction(vec![plus(key, 1)], true),
                get("c", key),
            ]),
            get("c", key),
            get("c", "other"),
        ]
    };
    let mut steps = vec![
        plus("n", 5),
        commit(vec![plus("n", 1), plus("n", 1), set("c", "m", "1")]),
        commit(vec![
            plus("n", 1),
            get("c", "n"),
            plus("n", 1),
            get("c", "n"),
        ]),
        commit(vec![get("c", "n"), plus("n", 1)]),
        commit(vec![plus("new", 3), all(), add("c", "new", 1), all()]),
        commit(vec![
            plus("n", 1),
            Step::Transaction(vec![plus("n", 10), get("c", "n")], true),
            Step::Transaction(vec![plus("n", 100)], true),
            plus("n", 1000),
        ]),
        commit(vec![
            plus("n", 1),
            Step::Delete("c".into(), "n".into()),
            plus("n", 2),
        ]),
        commit(vec![
            plus("n", 1),
            Step::GetMany("c".into(), vec!["n".into(), "absent".into()]),
        ]),
        commit(vec![
            plus("n", 1),
            Step::SetIf("c".into(), "n".into(), text("7"), Expected::Current),
        ]),
        plus("", 1),
        commit(vec![plus("", 1)]),
        commit((0..1001).map(|n| plus(&format!("{n:04}"), 1)).collect()),
        commit(vec![plus("n", i64::MAX), plus("n", 1)]),
        set("c", "text", "x"),
        plus("text", 1),
    ];
    steps.extend(impossible("text"));
    steps.push(Step::SetBytes("c".into(), "max".into(), text(&max)));
    steps.extend(impossible("max"));
    steps.push(all());
    steps
}

fn lists() -> Vec<Step> {
    let keys = [
        "a", "a/", "a/1", "a/2", "a0", "b", "Z", "é", "🦀", "\u{ffff}", "~", "\u{1}",
    ];
    let mut steps: Vec<Step> = keys.iter().map(|key| set("l", key, key)).collect();
    steps.push(Step::Delete("l".into(), "b".into()));
    let some = |text: &str| Some(text.to_owned());
    for range in [
        Range::default(),
        limited(3),
        limited(0),
        limited(1001),
        Range {
            prefix: some("a/"),
            ..limited(2)
        },
        Range {
            start: some("a/1"),
            end: some("a0"),
            ..Range::default()
        },
        Range {
            start: some("b"),
            end: some("a"),
            ..Range::default()
        },
        Range {
            prefix: some(&"p".repeat(1025)),
            ..Range::default()
        },
        Range {
            prefix: some("x\0"),
            ..Range::default()
        },
        Range {
            prefix: some(""),
            start: some(""),
            end: some(""),
            ..Range::default()
        },
    ] {
        let reverse = Range {
            reverse: true,
            ..range.clone()
        };
        steps.extend([list("l", range), list("l", reverse)]);
    }
    // A cursor belongs to its list.
    let other = |range| Step::OtherList("l".into(), limited(2), "l".into(), range);
    steps.push(other(limited(3)));
    steps.push(other(Range {
        reverse: true,
        ..Range::default()
    }));
    steps.push(other(Range {
        prefix: some("a"),
        ..Range::default()
    }));
    steps.push(Step::OtherList(
        "l".into(),
        limited(2),
        "m".into(),
        limited(2),
    ));
    steps.push(Step::OtherList(
        "m".into(),
        limited(2),
        "l".into(),
        limited(2),
    ));
    // A page ends with the entry that reaches 1 MiB.
    for n in 0..4 {
        let value = Text("v".to_owned(), 400_000);
        steps.push(Step::SetBytes("pages".into(), n.to_string(), value));
    }
    steps.push(list("pages", Range::default()));
    steps
}

fn versions() -> Vec<Step> {
    let mut steps = vec![
        set("c", "k", "1"),
        get("c", "k"),
        set("c", "k", "2"),
        get("c", "k"),
    ];
    for expected in [Expected::Absent, Expected::Current, Expected::Wrong] {
        for key in ["k", "new"] {
            steps.push(Step::SetIf("c".into(), key.into(), text("x"), expected));
            steps.push(get("c", key));
            steps.push(Step::DeleteIf("c".into(), key.into(), expected));
            steps.push(get("c", key));
        }
        let checks = vec![
            ("c".to_owned(), "k".to_owned(), expected),
            ("c".to_owned(), "none".to_owned(), Expected::Wrong),
        ];
        steps.push(Step::Batch(checks.clone(), vec![set("c", "b", "1")]));
        steps.push(Step::Batch(
            checks[..1].to_vec(),
            vec![set("c", "b", "1"), add("c", "b", 1)],
        ));
    }
    let ops = vec![
        add("c", "n", 1),
        add("c", "n", 1),
        Step::Delete("c".into(), "k".into()),
    ];
    steps.push(Step::Batch(Vec::new(), ops));
    steps.push(get("c", "n"));
    steps
}

fn transactions() -> Vec<StepCall> {
    let inner = || {
        vec![
            set("t", "a", "1"),
            get("t", "a"),
            add("t", "n", 1),
            Step::Delete("t".into(), "a".into()),
            Step::SetIf("t".into(), "b".into(), text("x"), Expected::Absent),
            Step::SetIf("t".into(), "b".into(), text("x"), Expected::Wrong),
            list("t", Range::default()),
        ]
    };
    let nested =
        |depth: usize| (0..depth).fold(inner(), |steps, n| vec![Step::Transaction(steps, n == 1)]);
    let writes = |count: usize| (0..count).map(|n| set("w", &n.to_string(), "1")).collect();
    let reads = |count: usize| {
        (0..count)
            .map(|n| Step::Has("r".into(), n.to_string()))
            .collect()
    };
    let mib = |n: usize| Step::SetBytes("big".into(), n.to_string(), Text("v".into(), 1 << 20));
    let whole: Vec<Step> = inner();
    vec![
        ("steps", vec![Step::Transaction(inner(), false)]),
        (
            "steps",
            vec![
                Step::Transaction(inner(), true),
                list("t", Range::default()),
            ],
        ),
        ("steps", nested(3)),
        ("steps", nested(5)),
        ("transaction", nested(2)),
        ("transaction", whole.clone()),
        ("failing", whole),
        (
            "transaction",
            vec![set("t", "b", "1"), Step::Add("t".into(), "z".into(), 1)],
        ),
        // A text, so that the next commit fails.
        ("steps", vec![set("t", "z", "x")]),
        (
            "transaction",
            vec![set("t", "b", "2"), Step::Add("t".into(), "z".into(), 1)],
        ),
        (
            "steps",
            vec![
                get("t", "b"),
                get("t", "z"),
                Step::Delete("t".into(), "z".into()),
            ],
        ),
        ("panicking", inner()),
        (
            "steps",
            vec![
                Step::Transaction(writes(1001), false),
                Step::Has("w".into(), "0".into()),
            ],
        ),
        ("steps", vec![Step::Transaction(reads(1001), false)]),
        (
            "steps",
            vec![Step::Transaction((0..5).map(mib).collect(), false)],
        ),
        (
            "steps",
            vec![list("t", Range::default()), list("w", limited(5))],
        ),
        (
            "steps",
            ["1", "2", "3", "4"].map(|k| set("cut", k, k)).to_vec(),
        ),
        (
            "steps",
            vec![Step::Transaction(
                vec![
                    Step::Delete("cut".into(), "1".into()),
                    Step::Delete("cut".into(), "3".into()),
                    list("cut", limited(1)),
                    list("cut", limited(2)),
                ],
                false,
            )],
        ),
    ]
}

fn others() -> Vec<Step> {
    vec![
        Step::Config("greeting".into()),
        Step::Config("other".into()),
        Step::Config(String::new()),
        Step::Config("A b".into()),
        Step::Letters(0),
        Step::Letters(1001),
        Step::Letters(10),
        Step::Timer(String::new(), 0),
        Step::Timer("t".repeat(257), 0),
        Step::Timer("t\0".into(), 0),
        Step::Timer("late".into(), i64::MAX),
        Step::TimerAfter("late".into(), u64::MAX),
        Step::TimerAfter("late".into(), 3_600_000),
        Step::CancelTimer("late".into()),
        Step::CancelTimer("late".into()),
    ]
}

pub(super) fn scenarios() -> Vec<StepCall> {
    let mut all: Vec<StepCall> = [
        limits(),
        integers(),
        additions(),
        lists(),
        versions(),
        others(),
    ]
    .into_iter()
    .map(|steps| ("steps", steps))
    .collect();
    all.extend(transactions());
    all
}

/// What handlers leave: their log, the timers, and the dead letters.
pub(super) fn left() -> StepCall {
    let steps = ["log", "cycle", "timers"].map(|c| list(c, Range::default()));
    ("steps", steps.to_vec())
}

/// Replays of the dead letters that the events leave.
pub(super) fn replays() -> Vec<StepCall> {
    let all = || Step::ReplayAll(100);
    let nil = "00000000-0000-0000-0000-000000000000";
    vec![
        ("failing", vec![all()]),
        ("panicking", vec![Step::Transaction(vec![all()], true)]),
        (
            "transaction",
            vec![
                Step::Replay("nope".into()),
                Step::Replay(String::new()),
                Step::Replay(nil.into()),
                Step::Transaction(vec![all()], true),
                all(),
                all(),
                Step::Letters(100),
            ],
        ),
        ("steps", vec![all()]),
    ]
}

/// Writes that call handlers.
pub(super) fn events() -> Vec<StepCall> {
    let watched = |k: &str, v: &str| set("watched", k, v);
    let delete = |k: &str| Step::Delete("watched".into(), k.into());
    let batch = vec![
        watched("w-batch", "1"),
        watched("w-batch", "2"),
        delete("w-batch"),
    ];
    let transaction = vec![
        watched("w-tx", "1"),
        watched("w-tx", "2"),
        watched("w-gone", "1"),
        delete("w-gone"),
        Step::Transaction(vec![watched("w-dropped", "1")], true),
    ];
    vec![
        (
            "steps",
            vec![
                watched("w1", "1"),
                watched("w1", "2"),
                watched("other", "1"),
                delete("w1"),
                delete("w1"),
                watched("w2", "once"),
                watched("w2", "after"),
                watched("w3", "permanent"),
                watched("w3", "after"),
                watched("w4", "panic"),
                Step::SetTtl("watched".into(), "w5".into(), 3_600_000),
                Step::Batch(Vec::new(), batch),
                Step::Timer("now".into(), 0),
                Step::Timer("permanent".into(), 0),
                Step::TimerAfter("never".into(), 3_600_000),
                Step::CancelTimer("never".into()),
            ],
        ),
        ("transaction", transaction),
        ("failing", vec![watched("w-failed", "1")]),
        ("steps", vec![set("cycle", "k", "0")]),
        (
            "steps",
            vec![
                set("brief", "k", "1"),
                set("brief", "other", "1"),
                set("old", "k", "1"),
            ],
        ),
    ]
}
