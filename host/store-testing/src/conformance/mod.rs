//! The conformance suite: properties that every store backend must have.
//!
//! Each public function of the modules below is a property. It gets a [`Kit`] with an empty
//! store and panics on failure. [`conformance!`](crate::conformance!) generates a test of each
//! property for one backend.
//!
//! Random choices come from the kit's seed. A failing test prints its seed;
//! `KVASM_TEST_SEED=<seed>` repeats the choices.

pub mod apps;
pub mod audit;
pub mod batches;
pub mod bounds;
pub mod checks;
pub mod dead_letters;
pub mod deliveries;
pub mod dispatchers;
pub mod entries;
pub mod event_kit;
pub mod expiry;
pub mod generations;
pub mod graves;
pub mod increments;
pub mod json;
pub mod kit;
pub mod linearizable;
pub mod lists;
pub mod many;
pub mod model;
pub mod outstanding;
pub mod pauses;
pub mod plugin_races;
pub mod plugins;
pub mod quotas;
pub mod races;
pub mod rescues;
pub mod rng;
pub mod rounds;
pub mod scale;
pub mod schedules;
pub mod settings;
pub mod states;
pub mod surveys;
pub mod sweeping;
pub mod tokens;
pub mod triggers;
pub mod usage;
pub mod versions;

pub use kit::Kit;

use kvasm_core::store::Store;
use std::any::Any;
use std::sync::Arc;

/// The environment variable that sets the seed of a run.
pub const SEED_VARIABLE: &str = "KVASM_TEST_SEED";

/// An empty store, and what must live as long as it.
pub struct Fixture {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Dropped after the store: a temporary folder, for example.
    pub keep: Box<dyn Any + Send>,
}

/// Runs one property on an empty store.
pub fn run<F: Future<Output = Fixture>, P: Future<Output = ()>>(
    open: impl FnOnce() -> F,
    property: impl FnOnce(Kit) -> P,
) {
    let seed = rng::seed();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let fixture = open().await;
        property(Kit::new(Arc::clone(&fixture.store), seed)).await;
        drop(fixture.store);
        drop(fixture.keep);
    });
}

/// Generates a test of each property for the backend opened by a function `async fn() ->
/// Fixture`, given by its path from the crate root.
#[macro_export]
macro_rules! conformance {
    ($open:path) => {
        $crate::conformance_tests! { $open;
            apps {
                a_created_app_is_found,
                names_are_unique,
                apps_are_listed_by_name_in_pages,
                deleting_an_app_deletes_all_it_owns,
                an_app_that_is_not_there,
                a_name_can_be_used_again,
                deletion_spares_other_apps,
            }
            entries {
                what_is_set_is_read,
                absent_empty_and_null_are_different,
                an_overwrite_replaces_value_and_kind,
                times_of_creation_and_update,
                collections_are_separate,
                delete_tells_whether_there_was_one,
                odd_keys_are_kept_apart,
                the_largest_entry,
                large_values_of_both_kinds,
                all_bytes_come_back,
                ping_answers,
            }
            json {
                extreme_values_are_equal_after_a_round_trip,
                random_values_are_equal_after_a_round_trip,
                what_is_read_is_no_larger_than_allowed,
                values_survive_in_lists_and_batches,
            }
            expiry {
                an_expired_entry_is_absent_to_every_read,
                setting_over_an_expired_entry_creates_it_anew,
                an_expired_entry_passes_as_absent,
                deleting_an_expired_entry_finds_nothing,
                a_set_replaces_the_expiry,
                a_set_in_the_past_is_absent_at_once,
                expired_entries_fill_no_page,
            }
            checks {
                absent_or_version_guard_a_set,
                a_version_guards_a_delete,
                absence_guards_a_delete,
                all_failed_checks_are_named,
                nothing_is_written_after_a_failed_check,
                checks_look_at_the_state_before_the_batch,
                a_check_on_a_key_that_is_not_written,
                checks_without_operations,
                a_recreated_entry_is_not_the_one_that_was_checked,
            }
            batches {
                operations_are_answered_in_their_order,
                an_empty_batch_does_nothing,
                the_same_key_twice,
                delete_set_and_delete_of_one_key,
                a_deletion_in_a_batch_makes_the_next_set_a_creation,
                a_set_that_expires_at_once_in_a_batch,
                a_thousand_operations,
                a_batch_for_a_missing_app_leaves_nothing,
                sequences_on_one_key_mean_what_single_writes_mean,
            }
            lists {
                keys_come_in_bytewise_order,
                the_greatest_key_is_listed,
                prefixes,
                ranges_and_their_bounds,
                crossed_bounds_are_an_empty_page,
                reverse_is_the_mirror,
                more_is_exact,
                a_page_ends_with_the_entry_that_reaches_its_bytes,
                a_page_has_at_least_one_entry,
                values_come_only_when_asked_for,
                pages_put_together_are_the_list,
                collections_are_listed_in_pages,
                random_lists_match_the_model,
            }
            versions {
                versions_grow_with_each_write,
                versions_do_not_come_back_after_delete,
                concurrent_writers_deletes_and_recreations,
                concurrent_batches,
            }
            model {
                random_operations_match_the_model,
                two_apps_never_see_each_other,
            }
            races {
                one_of_many_wins_each_version,
                one_of_many_creates_an_entry,
                one_of_many_recreates_an_expired_entry,
                one_of_many_deletes_a_version,
                transfers_keep_the_sum,
                crossing_batches_all_succeed,
                cross_checks_of_absence_exclude_each_other,
                a_batch_is_seen_whole,
                a_deletion_sees_the_entry_that_replaces_another,
                deleting_an_app_while_it_is_written,
            }
            scale {
                a_long_list_stays_true_under_writes,
            }
            settings {
                an_app_is_created_with_its_settings,
                a_taken_name_is_not_created,
                an_operation_changes_what_it_is_about,
                limits_that_are_not_as_expected_stay,
                changes_of_different_settings_never_undo_each_other,
                one_of_many_changes_the_limits_that_all_have_read,
                zero_is_a_limit,
                settings_of_an_unknown_app,
                the_largest_limits_are_as_good_as_none,
                an_app_is_deleted_once,
            }
            usage {
                entries_and_bytes_are_counted,
                bytes_count_as_they_were_written,
                one_key_several_times_in_a_batch,
                expired_entries_count_until_they_are_written_over,
                guarded_writes_count_if_they_take_place,
                the_usage_of_no_app_is_zero,
                random_histories_are_counted,
                concurrent_writes_are_counted,
                changing_the_quota_while_it_is_written,
            }
            quotas {
                a_quota_of_entries_refuses_one_more,
                a_refused_batch_leaves_nothing,
                the_last_byte_fits,
                a_quota_of_nothing,
                a_quota_from_the_beginning,
                over_a_quota_of_entries_what_adds_none_is_taken,
                over_a_quota_of_bytes_what_adds_none_is_taken,
                a_batch_counts_as_a_whole,
                expired_entries_take_room,
                deleting_makes_room,
                raising_the_quota_makes_room,
                a_quota_is_of_one_app,
                concurrent_writers_fill_a_quota_of_bytes,
                concurrent_writers_fill_a_quota_of_entries,
            }
            plugins {
                versions_are_numbered_from_one,
                numbers_do_not_come_back,
                a_version_is_read_back,
                the_app_shows_its_active_version,
                roll_backs_go_back_step_by_step,
                activating_the_active_version_keeps_what_it_replaced,
                a_deleted_version_is_not_rolled_back_to,
                the_active_version_is_not_deleted,
                a_version_that_is_not_there,
                plugins_of_an_unknown_app,
                a_module_is_there_while_a_version_has_it,
                a_shared_module_survives_the_deletion_of_an_app,
                versions_are_listed_newest_first_in_pages,
                versions_and_their_bytes_are_bounded,
            }
            plugin_races {
                concurrent_versions_have_numbers_of_their_own,
                concurrent_roll_backs_are_a_step_each,
                a_module_is_not_lost_to_a_deletion,
                the_last_of_two_deletions_takes_the_module,
                what_is_active_is_there,
                what_is_rolled_back_to_is_there,
                deleting_an_app_while_versions_are_added,
            }
            tokens {
                a_created_token_is_read_back,
                a_taken_identity_stays_with_the_first,
                one_of_many_makes_the_first_token,
                one_of_many_revokes_a_token,
                a_token_is_revoked_once,
                the_last_administrator_stays,
                of_administrators_who_revoke_each_other_one_stays,
                what_is_not_there_is_not_revoked,
                a_token_of_an_unknown_app,
                tokens_are_listed_in_pages,
                an_app_takes_its_tokens_along,
                deleting_an_app_while_tokens_are_made,
                tokens_of_an_app_are_bounded,
                creators_share_the_last_places,
            }
            audit {
                each_change_leaves_its_row,
                rows_name_what_need_not_be_there,
                what_changes_nothing_leaves_no_row,
                what_fails_leaves_no_row,
                what_cannot_be_written_down_is_not_done,
                what_is_done_without_a_row_leaves_none,
                rows_outlive_their_app,
                rows_are_listed_newest_first_in_pages,
                a_batch_leaves_its_row,
                a_batch_that_fails_leaves_no_row,
                concurrent_changes_leave_a_row_each,
            }
            generations {
                each_change_is_the_generation,
                what_changes_nothing_leaves_the_generation,
                a_row_is_of_the_generation_before_and_after_it,
                changes_at_once_all_take_effect,
            }
            increments {
                an_absent_entry_counts_as_zero,
                integers_are_the_same_everywhere,
                a_sum_beyond_64_bits_is_refused,
                the_expiry_is_kept_and_the_expired_counts_as_zero,
                increments_in_a_batch_see_what_is_before_them,
                a_refused_increment_leaves_nothing_of_its_batch,
                increments_count_against_the_quota,
                concurrent_increments_are_exact,
                a_value_that_was_set_is_not_lost_to_increments,
            }
            many {
                each_key_has_its_place,
                values_are_bounded_together,
                an_answer_is_of_one_moment,
            }
            triggers {
                each_kind_of_change_is_told,
                what_changes_nothing_is_not_told,
                a_trigger_sees_its_prefix_and_kinds,
                each_operation_of_a_batch_is_told_in_order,
                a_write_that_fails_makes_no_delivery,
                deliveries_count_against_the_quota,
                triggers_are_set_replaced_paused_and_deleted,
                a_set_keeps_what_it_is_not_about,
                no_number_of_callers_passes_the_limit_of_triggers,
                declared_triggers_count_against_the_limit,
                a_trigger_holds_at_once,
                triggers_of_an_unknown_app,
                declared_triggers_come_and_go_with_their_version,
                an_operators_trigger_takes_the_place_of_a_declared_one,
                an_activation_resumes_what_failures_have_paused,
                an_audited_write_is_told_too,
            }
            deliveries {
                what_is_claimed_is_lent,
                a_lease_that_has_run_out_is_lost,
                a_renewed_lease_holds_on,
                a_failed_check_keeps_the_delivery,
                deliveries_of_a_key_come_one_after_another,
                a_retry_holds_its_key_up_and_no_other,
                what_is_given_up_lets_the_next_go_on,
                those_that_are_due_for_longest_come_first,
                a_paused_trigger_is_not_due,
                queues_are_found_in_pages,
                a_claim_brings_the_policy,
                acknowledged_deliveries_give_their_room_back,
                an_app_takes_its_deliveries_along,
                a_clock_that_steps_back_holds_up_nothing_new,
                racing_writes_are_told_in_their_order,
            }
            states {
                the_diagram_has_the_arrows_of_the_store,
            }
            pauses {
                each_delivery_counts_once_in_a_row,
                ten_deliveries_in_a_row_pause_and_a_probe_ends_it,
                a_probe_that_fails_doubles_the_wait,
                a_passing_failure_of_a_probe_does_not_double_the_wait,
                a_probe_whose_host_dies_is_followed_by_another,
                a_probe_that_is_renewed_is_the_only_one,
                of_many_claims_one_gets_the_probe,
                a_success_of_another_delivery_ends_a_pause,
                a_pause_of_an_operator_is_never_probed,
                a_paused_schedule_runs_for_its_probe,
                what_is_released_has_not_been_tried,
            }
            outstanding {
                deliveries_are_listed_in_pages,
                deliveries_are_chosen_by_each_part,
                what_is_discarded_lets_the_next_go_on,
                a_discarded_delivery_cannot_be_acknowledged,
                discards_are_bounded_and_give_room_back,
                a_trigger_with_deliveries_is_deleted_if_they_may_stay,
            }
            dispatchers {
                many_dispatchers_deliver_in_order_and_once,
            }
            surveys {
                a_survey_says_what_there_is,
                a_survey_sees_queues_without_a_trigger,
                a_store_says_how_big_it_is,
            }
            dead_letters {
                a_letter_keeps_all_of_its_delivery,
                letters_are_listed_newest_first_in_pages,
                letters_are_chosen_by_each_part,
                a_replay_sends_the_same_event_again,
                replays_keep_the_order_of_their_key,
                replays_and_discards_are_bounded_and_take_the_oldest,
                letters_count_against_the_quota_until_they_are_gone,
                old_letters_and_those_over_the_cap_are_pruned,
                letters_of_an_app_that_is_gone,
                the_largest_payload_survives,
            }
            rescues {
                a_retry_that_is_too_far_ahead_is_due,
                a_lease_that_ends_too_far_ahead_ends,
                a_probe_that_waits_too_long_is_let_through,
                what_is_put_off_in_a_long_queue_is_rescued_in_steps,
            }
            schedules {
                schedules_that_are_planned_too_far_ahead_are_found,
                a_schedule_is_planned_then_run,
                schedules_come_in_pages,
                a_tick_of_another_plan_does_nothing,
                no_run_is_made_while_one_is_outstanding,
                one_of_many_makes_the_run,
                a_paused_schedule_is_not_due,
            }
            linearizable {
                what_clients_see_of_a_key_has_one_order,
                what_clients_see_of_several_keys_has_one_order,
            }
            graves {
                a_deleted_app_is_gone_at_once_and_its_rows_in_steps,
                what_a_deleted_trigger_left_is_not_due_in_a_deleted_app,
                a_module_is_gone_with_the_last_app_that_has_it,
                large_values_are_reaped,
                audit_rows_that_are_old_or_too_many_go,
            }
            bounds {
                a_write_makes_so_many_deliveries_and_no_more,
                the_deliveries_of_a_change_share_what_may_follow,
                outstanding_deliveries_are_bounded,
                deliveries_and_letters_count_what_their_rows_take,
                letters_use_up_the_quota,
                a_discard_that_fails_counts_nothing,
                a_delivery_keeps_a_short_text_of_its_failure,
            }
            sweeping {
                expired_entries_are_swept_in_steps,
                what_was_written_again_is_not_swept,
                sweeping_while_entries_are_written,
            }
        }
    };
}

/// The body of [`conformance!`](crate::conformance!).
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($open:path; $($module:ident { $($property:ident),* $(,)? })*) => {
        $(mod $module {
            $(#[test]
            fn $property() {
                $crate::conformance::run($open, $crate::conformance::$module::$property);
            })*
        })*
    };
}

#[cfg(test)]
mod tests {
    /// A property missing from the macro would never run.
    #[test]
    fn every_property_is_in_the_macro() {
        let this = include_str!("mod.rs");
        let sources = [
            include_str!("apps.rs"),
            include_str!("increments.rs"),
            include_str!("linearizable.rs"),
            include_str!("many.rs"),
            include_str!("triggers.rs"),
            include_str!("deliveries.rs"),
            include_str!("dispatchers.rs"),
            include_str!("dead_letters.rs"),
            include_str!("schedules.rs"),
            include_str!("bounds.rs"),
            include_str!("graves.rs"),
            include_str!("surveys.rs"),
            include_str!("sweeping.rs"),
            include_str!("audit.rs"),
            include_str!("generations.rs"),
            include_str!("batches.rs"),
            include_str!("checks.rs"),
            include_str!("entries.rs"),
            include_str!("expiry.rs"),
            include_str!("json.rs"),
            include_str!("lists.rs"),
            include_str!("model.rs"),
            include_str!("plugin_races.rs"),
            include_str!("plugins.rs"),
            include_str!("quotas.rs"),
            include_str!("races.rs"),
            include_str!("scale.rs"),
            include_str!("settings.rs"),
            include_str!("tokens.rs"),
            include_str!("usage.rs"),
            include_str!("versions.rs"),
        ];
        let mut properties = 0;
        for line in sources.iter().flat_map(|source| source.lines()) {
            let Some(rest) = line.strip_prefix("pub async fn ") else {
                continue;
            };
            let name = rest.split('(').next().unwrap();
            assert!(
                this.contains(&format!(" {name},")),
                "{name} is not in `conformance!`"
            );
            properties += 1;
        }
        assert!(properties > 120, "only {properties} properties were found");
    }
}
