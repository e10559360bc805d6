//! The methods of a store's traits, and their delegation with faults.

use super::FaultyStore;
use async_trait::async_trait;
use bytes::Bytes;
use kvasm_core::store::{
    AppSurvey, ChangeLog, ChangePage, ChangeRange, ChangeRetention, ChangesHead, HostBeat,
    HostMinute, HostRecord, HostStore, KeptMinutes, LogSegment, LogStore, MinuteRange, Outbox,
    Registry, SegmentKind, SegmentQuery, SettingsStore, Store, StoreClock, StoreError, StoreSize,
    Survey, Upkeep,
};
use kvasm_core::{
    AnswerId, App, AppId, AppLimits, AppName, Audit, Claim, Collection, Commit, Committed,
    DeadLetter, DeadLetterFilter, Delivery, DeliveryFilter, DeliveryKey, Digest, DueSchedule,
    Entry, FailOutcome, FailedAttempt, Generation, Grant, KeptAnswer, Key, KeyId, LeaseToken,
    LimitsPatch, ListPage, ListQuery, NewPlugin, NewTrigger, PluginRecord, PluginVersion, Queue,
    Resealed, SchedulePosition, ScheduleTick, SettingKind, SettingName, SettingValue, Settings,
    TimerName, Timestamp, Token, TokenId, Trigger, TriggerDeletion, TriggerName, Usage,
};
use uuid::Uuid;

/// Generates [`Operation`], and the traits' implementations for [`FaultyStore`]. Each method has
/// its variant, its signature without `async`, `self` and the error, and the app that a call is
/// for, if the arguments tell.
macro_rules! operations {
    ($($trait:ident {
        $($variant:ident: $method:ident($($arg:ident: $type:ty),*) -> $result:ty, of $app:expr;)*
    })*) => {
        /// A method of one of a store's traits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $($(
                #[doc = concat!("[`", stringify!($trait), "::", stringify!($method), "`].")]
                $variant,
            )*)*
        }

        impl Operation {
            /// All operations, by trait.
            pub const ALL: &[Operation] = &[$($(Operation::$variant,)*)*];

            /// Returns the name of the trait.
            pub fn of_trait(self) -> &'static str {
                match self {
                    $($(Operation::$variant => stringify!($trait),)*)*
                }
            }

            /// Returns the name of the method.
            pub fn method(self) -> &'static str {
                match self {
                    $($(Operation::$variant => stringify!($method),)*)*
                }
            }
        }

        $(
            #[async_trait]
            impl $trait for FaultyStore {
                $(
                    async fn $method(&self, $($arg: $type),*) -> Result<$result, StoreError> {
                        let app: Option<AppId> = $app;
                        let call = self.inner.$method($($arg),*);
                        self.make(Operation::$variant, app, call).await
                    }
                )*
            }
        )*
    };
}

operations! {
    Store {
        App: app(name: &AppName) -> Option<App>, of None;
        AppById: app_by_id(app: AppId) -> Option<App>, of Some(app);
        Apps: apps(after: Option<&AppName>, limit: u32) -> Vec<App>, of None;
        Get: get(app: AppId, collection: &Collection, key: &Key, now: Timestamp)
            -> Option<Entry>, of Some(app);
        Has: has(app: AppId, collection: &Collection, key: &Key, now: Timestamp)
            -> bool, of Some(app);
        GetMany: get_many(
            app: AppId, keys: &[(Collection, Key)], now: Timestamp, bytes_max: usize
        ) -> Vec<Option<Entry>>, of Some(app);
        List: list(app: AppId, query: &ListQuery, now: Timestamp) -> ListPage, of Some(app);
        Collections: collections(app: AppId, after: Option<&Collection>, limit: u32)
            -> Vec<Collection>, of Some(app);
        Answer: answer(app: AppId, id: AnswerId, now: Timestamp)
            -> Option<KeptAnswer>, of Some(app);
        Commit: commit(commit: Commit) -> Committed, of Some(commit.app_id);
        Ping: ping() -> (), of None;
    }

    Registry {
        CreateApp: create_app(app: App, audit: Audit) -> (), of Some(app.id);
        SetPublic: set_public(app: AppId, public: bool, audit: Audit) -> App, of Some(app);
        SetLimits: set_limits(
            app: AppId, patch: LimitsPatch, expected: Option<AppLimits>, audit: Audit
        ) -> App, of Some(app);
        DeleteApp: delete_app(app: AppId, audit: Audit) -> bool, of Some(app);
        AddPlugin: add_plugin(plugin: NewPlugin, audit: Audit) -> PluginVersion, of Some(plugin.app);
        ActivatePlugin: activate_plugin(app: AppId, version: PluginVersion, audit: Audit)
            -> (), of Some(app);
        RollBackPlugin: roll_back_plugin(app: AppId, audit: Audit) -> PluginVersion, of Some(app);
        DeletePlugin: delete_plugin(app: AppId, version: PluginVersion, audit: Audit)
            -> bool, of Some(app);
        CreateToken: create_token(token: Token, audit: Audit) -> bool, of token.app;
        RevokeToken: revoke_token(app: Option<AppId>, token: TokenId, audit: Audit) -> bool, of app;
        SetTrigger: set_trigger(app: AppId, trigger: NewTrigger, audit: Audit)
            -> Trigger, of Some(app);
        DeleteTrigger: delete_trigger(
            app: AppId, trigger: TriggerName, must_be_idle: bool, audit: Audit
        ) -> TriggerDeletion, of Some(app);
        DiscardDeliveries: discard_deliveries(
            app: AppId, which: DeliveryFilter, limit: u32, audit: Audit
        ) -> u64, of Some(app);
        PauseTrigger: pause_trigger(app: AppId, trigger: TriggerName, paused: bool, audit: Audit)
            -> bool, of Some(app);
        RunTimer: run_timer(app: AppId, name: TimerName, audit: Audit) -> bool, of Some(app);
        Replay: replay(app: AppId, letters: DeadLetterFilter, limit: u32, audit: Audit)
            -> u64, of Some(app);
        Discard: discard(app: AppId, letters: DeadLetterFilter, limit: u32, audit: Audit)
            -> u64, of Some(app);
        Generation: generation() -> Generation, of None;
        Usage: usage(app: AppId) -> Usage, of Some(app);
        Plugins: plugins(app: AppId, before: Option<PluginVersion>, limit: u32)
            -> Vec<PluginRecord>, of Some(app);
        Plugin: plugin(app: AppId, version: PluginVersion) -> Option<PluginRecord>, of Some(app);
        Module: module(digest: Digest) -> Option<Bytes>, of None;
        Token: token(id: TokenId) -> Option<Token>, of None;
        Tokens: tokens(app: Option<AppId>, after: Option<TokenId>, limit: u32)
            -> Vec<Token>, of app;
        Audit: audit(app: Option<AppId>, before: Option<Uuid>, limit: u32) -> Vec<Audit>, of app;
    }

    SettingsStore {
        Settings: settings(app: AppId) -> Settings, of Some(app);
        SetSetting: set_setting(app: AppId, name: SettingName, value: SettingValue, audit: Audit)
            -> (), of Some(app);
        UnsetSetting: unset_setting(
            app: AppId, kind: SettingKind, name: SettingName, audit: Audit
        ) -> bool, of Some(app);
        AddGrants: add_grants(app: AppId, grants: Vec<Grant>, audit: Audit) -> u64, of Some(app);
        RemoveGrants: remove_grants(app: AppId, grants: Vec<Grant>, audit: Audit)
            -> u64, of Some(app);
        ResealSecrets: reseal_secrets(app: AppId, secrets: Vec<Resealed>, audit: Audit)
            -> u64, of Some(app);
        SetSecretsKey: set_secrets_key(key: KeyId, audit: Audit) -> bool, of None;
        SecretsKey: secrets_key() -> Option<KeyId>, of None;
    }

    Outbox {
        Triggers: triggers(app: AppId) -> Vec<Trigger>, of Some(app);
        Due: due(after: Option<&Queue>, now: Timestamp, limit: u32) -> Vec<Queue>, of None;
        Claim: claim(claim: &Claim) -> Vec<Delivery>, of Some(claim.queue.app);
        Renew: renew(receipt: &LeaseToken, until: Timestamp) -> bool, of Some(receipt.app);
        Fail: fail(failed: &FailedAttempt) -> FailOutcome, of Some(failed.receipt.app);
        Release: release(receipt: &LeaseToken, at: Timestamp) -> bool, of Some(receipt.app);
        Defer: defer(receipt: &LeaseToken, wait_ms: u64, now: Timestamp)
            -> bool, of Some(receipt.app);
        Rescue: rescue(queue: &Queue, beyond: Timestamp, now: Timestamp, limit: u32)
            -> u64, of Some(queue.app);
        Outstanding: outstanding(
            app: AppId, which: &DeliveryFilter, after: Option<&DeliveryKey>, limit: u32
        ) -> Vec<Delivery>, of Some(app);
        Deliveries: deliveries(app: AppId, trigger: Option<&TriggerName>, limit: u32)
            -> Vec<Delivery>, of Some(app);
        CountDeliveries: count_deliveries(app: AppId, which: &DeliveryFilter, limit: u32)
            -> u64, of Some(app);
        Timer: timer(app: AppId, name: &TimerName) -> Option<Delivery>, of Some(app);
        Timers: timers(app: AppId, after: Option<&TimerName>, limit: u32)
            -> Vec<Delivery>, of Some(app);
        NextTimer: next_timer(now: Timestamp) -> Option<Timestamp>, of None;
        Schedules: schedules(after: Option<&SchedulePosition>, now: Timestamp, limit: u32)
            -> Vec<DueSchedule>, of None;
        Tick: tick(tick: &ScheduleTick) -> bool, of Some(tick.queue.app);
        DeadLetters: dead_letters(
            app: AppId, letters: &DeadLetterFilter, before: Option<Uuid>, limit: u32
        ) -> Vec<DeadLetter>, of Some(app);
        CountDeadLetters: count_dead_letters(app: AppId, letters: &DeadLetterFilter, limit: u32)
            -> u64, of Some(app);
        Prune: prune(app: AppId, before: Timestamp, keep: u32, limit: u32) -> u64, of Some(app);
        Sweep: sweep(app: AppId, now: Timestamp, limit: u32) -> u64, of Some(app);
    }

    LogStore {
        AppendLog: append_log(segment: &LogSegment) -> (), of Some(segment.app);
        LogSegments: log_segments(app: AppId, query: &SegmentQuery)
            -> Vec<LogSegment>, of Some(app);
        PruneLog: prune_log(
            app: AppId, kind: SegmentKind, before: u64, bytes_max: u64, limit: u32
        ) -> u64, of Some(app);
        AppsWithLog: apps_with_log(kind: SegmentKind, after: Option<AppId>, limit: u32)
            -> Vec<AppId>, of None;
    }

    ChangeLog {
        KeepChanges: keep_changes(app: AppId, until: Timestamp) -> u64, of Some(app);
        ChangesHead: changes_head(after: u64) -> ChangesHead, of None;
        Changes: changes(app: AppId, range: ChangeRange) -> ChangePage, of Some(app);
        PruneChanges: prune_changes(app: AppId, now: Timestamp, retain: ChangeRetention,
            limit: u32) -> u64, of Some(app);
        AppsWithChanges: apps_with_changes(after: Option<AppId>, limit: u32)
            -> Vec<AppId>, of None;
    }

    HostStore {
        Beat: beat(host: &HostBeat, minutes: &[HostMinute], now: Timestamp) -> Timestamp, of None;
        Hosts: hosts(limit: u32) -> Vec<HostRecord>, of None;
        History: history(range: MinuteRange) -> Vec<HostMinute>, of None;
        PruneHistory: prune_history(kept: KeptMinutes, limit: u32) -> u64, of None;
        PruneHosts: prune_hosts(before: Timestamp, after: Timestamp, keep: u32) -> u64, of None;
    }

    Upkeep {
        PruneAudit: prune_audit(before: Timestamp, limit: u32) -> u64, of None;
        PruneAuditOf: prune_audit_of(app: AppId, keep: u32, limit: u32) -> u64, of Some(app);
        ReclaimSpace: reclaim_space() -> bool, of None;
        Tombstones: tombstones(after: Option<AppId>, limit: u32) -> Vec<AppId>, of None;
        Reap: reap(app: AppId, limit: u32) -> u64, of Some(app);
        RecordTime: record_time(now: Timestamp) -> (), of None;
    }

    Survey {
        Survey: survey(app: AppId) -> AppSurvey, of Some(app);
        Size: size() -> StoreSize, of None;
        Clock: clock() -> StoreClock, of None;
    }
}

#[cfg(test)]
mod tests {
    use super::Operation;
    use std::collections::BTreeSet;

    /// The sources of the traits.
    const TRAITS: [&str; 9] = [
        include_str!("../../../core/src/store/mod.rs"),
        include_str!("../../../core/src/store/change_log.rs"),
        include_str!("../../../core/src/store/host_store.rs"),
        include_str!("../../../core/src/store/log_store.rs"),
        include_str!("../../../core/src/store/outbox.rs"),
        include_str!("../../../core/src/store/registry.rs"),
        include_str!("../../../core/src/store/settings_store.rs"),
        include_str!("../../../core/src/store/survey.rs"),
        include_str!("../../../core/src/store/upkeep.rs"),
    ];

    /// A method with a default would compile without a delegation, and never meet a fault.
    #[test]
    fn every_method_of_a_store_is_an_operation() {
        let mut declared = BTreeSet::new();
        for source in TRAITS {
            let mut in_trait = "";
            for line in source.lines() {
                if let Some(rest) = line.strip_prefix("pub trait ") {
                    in_trait = rest.split([':', ' ']).next().unwrap();
                } else if let Some((before, rest)) = line.split_once("fn ")
                    && matches!(before.trim(), "" | "async")
                    && before.starts_with("    ")
                    && rest.contains("(")
                    && in_trait != "Effect"
                    && !in_trait.is_empty()
                {
                    declared.insert((in_trait, rest.split(['(', '<']).next().unwrap()));
                } else if line == "}" {
                    in_trait = "";
                }
            }
        }
        assert!(declared.len() > 50, "only {declared:?} were found");
        let operations = Operation::ALL.iter();
        let delegated: BTreeSet<_> = operations.map(|of| (of.of_trait(), of.method())).collect();
        assert_eq!(declared, delegated);
    }

    #[test]
    fn operations_are_named_like_their_methods() {
        for operation in Operation::ALL {
            let mut snake = String::new();
            for letter in format!("{operation:?}").chars() {
                if letter.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.extend(letter.to_lowercase());
            }
            assert_eq!(snake, operation.method());
        }
    }
}
