//! The figures that a store reports about an app for gauges.

use super::Kit;
use super::event_kit::{trigger, watch};
use super::kit::{NOW, Tenant, json};
use kvasm_core::store::AppSurvey;
use kvasm_core::{DeadReason, NewTrigger, Policy, Verdict};

async fn survey(app: &Tenant) -> AppSurvey {
    app.store.survey(app.id).await.expect("a survey")
}

pub async fn survey_reports_deliveries_and_dead_letters(kit: Kit) {
    let (app, other) = (kit.app().await, kit.app().await);
    assert_eq!(survey(&app).await, AppSurvey::default());
    app.watch("t", "c").await;
    app.watch("u", "d").await;
    for key in ["a", "b", "c"] {
        app.set("c", key, json("1")).await;
    }
    let later = app.later(5_000);
    later.set("d", "k", json("1")).await;
    let expected = AppSurvey {
        usage: app.quota_usage().await,
        oldest_due: Some(NOW),
        ..AppSurvey::default()
    };
    assert_eq!(expected.usage.deliveries, 4);
    assert_eq!(survey(&app).await, expected);
    // A leased delivery is not late before its lease has expired.
    let claimed = app.claim("t", 10).await;
    assert_eq!(claimed.len(), 3);
    assert!(survey(&app).await.oldest_due >= Some(NOW.plus_ms(1_000)));
    for (_, receipt) in &claimed {
        let verdict = Verdict::DeadLetter(DeadReason::Attempts);
        assert!(app.fail(receipt, verdict, false).await);
    }
    let found = survey(&app).await;
    assert_eq!((found.dead_letters, found.paused_triggers), (3, 0));
    assert_eq!(found.oldest_due, Some(NOW.plus_ms(5_000)));
    // Deliveries of a paused trigger are pending but not late.
    app.pause("u", true).await;
    let found = survey(&app).await;
    assert_eq!((found.usage.deliveries, found.paused_triggers), (1, 1));
    assert_eq!(found.oldest_due, None);
    assert_eq!(survey(&other).await, AppSurvey::default());
    assert!(app.delete_app().await.expect("a deletion"));
    assert_eq!(survey(&app).await, AppSurvey::default());
}

/// Deliveries outlive their trigger, and wait like others.
pub async fn survey_includes_queues_of_deleted_triggers(kit: Kit) {
    let app = kit.app().await;
    let new = NewTrigger {
        policy: Policy::default(),
        ..trigger("t", watch("c"))
    };
    app.set_trigger(new).await;
    app.set("c", "k", json("1")).await;
    assert!(app.delete_trigger("t").await);
    assert_eq!(survey(&app).await.oldest_due, Some(NOW));
}

pub async fn store_reports_its_size(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "k", json("1")).await;
    let size = app.store.size().await.expect("a size");
    assert!(size.database.is_none_or(|bytes| bytes > 4_096), "{size:?}");
    if let Some(log) = size.log {
        assert!(log.checkpoint_blocked.is_zero(), "{log:?}");
    }
}
