//! Triggers with a URL.

use super::Kit;
use super::event_kit::{trigger, trigger_name, watch};
use super::kit::{NOW, json};
use kvasm_core::{
    DeadLetterFilter, DeadReason, DeliveryTarget, HttpUrl, NewTrigger, Queue, Schedule,
    ScheduleTick, SettingName, Target, Verdict, Watch, Webhook,
};

/// A URL with all that a URL can have.
const URL: &str = "https://xn--bcher-kva.example:8443/a%20b/%F0%9F%A6%80?c=%27d%27&e=\"";

fn webhook(watch: Watch) -> NewTrigger {
    NewTrigger {
        target: Target::Webhook(Webhook {
            url: HttpUrl::parse(URL).expect("a URL"),
            secret: SettingName::parse("hook-key.1").expect("a name"),
        }),
        ..trigger("t", watch)
    }
}

pub async fn webhook_is_stored_with_its_url_and_secret(kit: Kit) {
    let app = kit.app().await;
    let new = webhook(watch("c"));
    let made = app.set_trigger(new.clone()).await;
    assert_eq!(made.target, new.target);
    assert_eq!(app.triggers().await, std::slice::from_ref(&made));
    // A paused one is the same but for its health.
    app.pause("t", true).await;
    assert_eq!(app.triggers().await[0].target, made.target);
    // An activation leaves it alone.
    app.add("module", true).await;
    assert_eq!(app.triggers().await[0].target, made.target);
    // It can become one that calls a function, and back.
    let plain = app.set_trigger(trigger("t", watch("c"))).await;
    assert_eq!(plain.target, Target::function("t"));
    assert_eq!(app.triggers().await, [plain]);
    let schedule = Watch::Schedule(Schedule::parse("* * * * *").expect("a schedule"));
    let scheduled = app.set_trigger(webhook(schedule)).await;
    assert_eq!(app.triggers().await, [scheduled]);
    let other = kit.app().await;
    assert_eq!(other.triggers().await, []);
}

pub async fn delivery_of_a_webhook_names_no_function(kit: Kit) {
    let app = kit.app().await;
    app.set_trigger(webhook(watch("c"))).await;
    app.set("c", "k", json("1")).await;
    let [waiting] = app.outstanding().await.try_into().expect("one delivery");
    assert_eq!(waiting.target, DeliveryTarget::Webhook);
    let [(claimed, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    assert_eq!(claimed.target, DeliveryTarget::Webhook);
    let dead = Verdict::DeadLetter(DeadReason::Attempts);
    assert!(app.fail(&receipt, dead, false).await);
    let [letter] = app.dead_letters().await.try_into().expect("one");
    assert_eq!(letter.target, DeliveryTarget::Webhook);
    // The replay goes to the URL too, whatever the trigger calls by now.
    app.set_trigger(trigger("t", watch("c"))).await;
    let row = app.audit_row("test");
    let all = DeadLetterFilter::default();
    let replayed = app.store.replay(app.id, all, 10, row).await;
    assert_eq!(replayed.expect("a replay"), 1);
    let [(again, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    assert_eq!(
        (again.target, again.place.trigger),
        (DeliveryTarget::Webhook, trigger_name("t"))
    );
    app.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(app.outstanding().await, []);
}

pub async fn scheduled_webhook_names_no_function(kit: Kit) {
    let app = kit.app().await;
    let schedule = Watch::Schedule(Schedule::parse("* * * * *").expect("a schedule"));
    app.set_trigger(webhook(schedule)).await;
    let tick = ScheduleTick {
        queue: Queue {
            app: app.id,
            trigger: trigger_name("t"),
        },
        planned: None,
        next: Some(NOW.plus_ms(60_000)),
        run: Some(NOW),
        now: NOW,
    };
    assert!(app.store.tick(&tick).await.expect("a run"));
    let [run] = app.outstanding().await.try_into().expect("one run");
    assert_eq!(run.target, DeliveryTarget::Webhook);
}
