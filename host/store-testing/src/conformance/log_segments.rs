//! Segments of logs and calls: ordered by position, each stored once, pruned from the oldest on. The
//! kinds do not know of each other.

use super::Kit;
use bytes::Bytes;
use kvasm_core::AppId;
use kvasm_core::store::{LogSegment, SegmentKind, SegmentQuery};
use uuid::Uuid;

/// All segments of a kind.
fn all(kind: SegmentKind) -> SegmentQuery {
    SegmentQuery {
        kind,
        from: 0,
        to: u64::MAX,
        before: None,
        not_of: None,
        limit: 100,
    }
}

fn segment(kind: SegmentKind, app: AppId, host: u128, first: u64, last: u64) -> LogSegment {
    LogSegment {
        id: Uuid::now_v7(),
        kind,
        app,
        host: Uuid::from_u128(host),
        first,
        last,
        records: 2,
        // Bytes of every kind.
        body: (0..=255).cycle().take(1_000).collect(),
    }
}

async fn append(kit: &Kit, segments: &[LogSegment]) {
    for segment in segments {
        kit.store.append_log(segment).await.expect("an append");
    }
}

async fn lasts(kit: &Kit, app: AppId, query: SegmentQuery) -> Vec<u64> {
    let found = kit.store.log_segments(app, &query).await;
    let found = found.expect("a page").into_iter();
    found.map(|segment| segment.last).collect()
}

/// In any order of their arrival.
pub async fn log_segments_are_read_by_position(kit: Kit) {
    for kind in SegmentKind::ALL {
        read_by_position(&kit, kind).await;
    }
}

async fn read_by_position(kit: &Kit, kind: SegmentKind) {
    let (app, all) = (kit.app().await.id, all(kind));
    let mut segments = [
        segment(kind, app, 1, 10, 30),
        segment(kind, app, 2, 20, 40),
        segment(kind, app, 1, 31, 50),
        segment(kind, app, 2, 41, 50),
        segment(kind, app, 1, 60, 1 << 53),
    ];
    let mut rng = kit.rng();
    segments.sort_by_cached_key(|_| rng.next());
    append(kit, &segments).await;
    segments.sort_by_key(|segment| std::cmp::Reverse((segment.last, segment.id)));
    let found = kit.store.log_segments(app, &all).await;
    assert_eq!(found.expect("all"), segments);
    // By pages.
    let (mut paged, mut query) = (Vec::new(), SegmentQuery { limit: 2, ..all });
    loop {
        let page = kit.store.log_segments(app, &query).await.expect("a page");
        let Some(last) = page.last() else { break };
        query.before = Some((last.last, last.id));
        paged.extend(page);
    }
    assert_eq!(paged, segments);
    let query = |from, to| SegmentQuery { from, to, ..all };
    assert_eq!(
        lasts(kit, app, query(41, u64::MAX)).await,
        [1 << 53, 50, 50]
    );
    assert_eq!(lasts(kit, app, query(0, 20)).await, [40, 30]);
    assert_eq!(lasts(kit, app, query(31, 31)).await, [50, 40]);
    let not_of = Some(Uuid::from_u128(1));
    assert_eq!(
        lasts(kit, app, SegmentQuery { not_of, ..all }).await,
        [50, 40]
    );
    let found = kit.store.log_segments(AppId::generate(), &all).await;
    assert_eq!(found.expect("nothing"), []);
}

/// So an append without an answer can be repeated.
pub async fn log_segment_is_stored_once(kit: Kit) {
    for kind in SegmentKind::ALL {
        let app = kit.app().await.id;
        let segment = segment(kind, app, 1, 1, 2);
        append(&kit, &[segment.clone(), segment.clone()]).await;
        let empty = LogSegment {
            id: Uuid::now_v7(),
            body: Bytes::new(),
            records: 0,
            last: 1,
            ..segment.clone()
        };
        append(&kit, std::slice::from_ref(&empty)).await;
        let found = kit.store.log_segments(app, &all(kind)).await;
        assert_eq!(found.expect("two"), [segment, empty]);
    }
}

pub async fn log_is_pruned_by_age_and_size(kit: Kit) {
    for kind in SegmentKind::ALL {
        pruned_by_age_and_size(&kit, kind).await;
    }
}

async fn pruned_by_age_and_size(kit: &Kit, kind: SegmentKind) {
    let (app, other) = (kit.app().await.id, kit.app().await.id);
    for last in 1..=10 {
        let each = [app, other].map(|app| segment(kind, app, 1, last, last));
        append(kit, &each).await;
    }
    let prune = async |before, bytes, limit| {
        let pruned = kit.store.prune_log(app, kind, before, bytes, limit).await;
        pruned.expect("a removal")
    };
    let all = all(kind);
    assert_eq!(prune(0, u64::MAX, 100).await, 0);
    assert_eq!(prune(3, u64::MAX, 1).await, 1);
    assert_eq!(lasts(kit, app, all).await, [10, 9, 8, 7, 6, 5, 4, 3, 2]);
    assert_eq!(prune(3, u64::MAX, 100).await, 1);
    // Segments of 1,000 bytes.
    assert_eq!(prune(0, 5_999, 2).await, 2);
    assert_eq!(lasts(kit, app, all).await, [10, 9, 8, 7, 6, 5]);
    assert_eq!(prune(6, 4_000, 100).await, 2);
    assert_eq!(lasts(kit, app, all).await, [10, 9, 8, 7]);
    assert_eq!(prune(u64::MAX, u64::MAX, 100).await, 4);
    assert_eq!(lasts(kit, app, all).await, [0_u64; 0]);
    assert_eq!(lasts(kit, other, all).await.len(), 10);
}

/// Also those that do not exist: a host may write the last lines of a deleted app.
pub async fn apps_with_a_log_are_listed_in_pages(kit: Kit) {
    for kind in SegmentKind::ALL {
        listed_in_pages(&kit, kind).await;
    }
}

async fn listed_in_pages(kit: &Kit, kind: SegmentKind) {
    let mut apps: Vec<_> = (0..5).map(|_| AppId::generate()).collect();
    apps.sort();
    let list = async |after, limit| {
        let page = kit.store.apps_with_log(kind, after, limit).await;
        page.expect("a page")
    };
    assert_eq!(list(None, 9).await, []);
    for app in &apps {
        let two = [segment(kind, *app, 1, 1, 1), segment(kind, *app, 2, 1, 2)];
        append(kit, &two).await;
    }
    assert_eq!(list(None, 3).await, apps[..3]);
    assert_eq!(list(Some(apps[2]), 3).await, apps[3..]);
    let prune = kit
        .store
        .prune_log(apps[0], kind, u64::MAX, u64::MAX, 9)
        .await;
    assert_eq!(prune.expect("a removal"), 2);
    assert_eq!(list(None, 9).await, apps[1..]);
}

/// A removal of lines leaves calls, which have the same positions, and the other way round.
pub async fn kinds_of_segments_are_separate(kit: Kit) {
    let (app, [lines, calls]) = (kit.app().await.id, SegmentKind::ALL);
    let line = segment(lines, app, 1, 1, 2);
    let call = LogSegment {
        kind: calls,
        body: Bytes::from_static(b"call"),
        ..line.clone()
    };
    append(&kit, &[line.clone(), call.clone()]).await;
    for one in [&line, &call] {
        let found = kit.store.log_segments(app, &all(one.kind)).await;
        assert_eq!(found.expect("one"), std::slice::from_ref(one));
    }
    let pruned = kit.store.prune_log(app, lines, u64::MAX, 0, 9).await;
    assert_eq!(pruned.expect("a removal"), 1);
    let found = kit.store.log_segments(app, &all(calls)).await;
    assert_eq!(found.expect("the call"), [call]);
    let apps = kit.store.apps_with_log(lines, None, 9).await;
    assert_eq!(apps.expect("none"), []);
    let apps = kit.store.apps_with_log(calls, None, 9).await;
    assert_eq!(apps.expect("one"), [app]);
}
