//! The list of all properties.

/// Generates a test of each property for the backend opened by a function `async fn() ->
/// Fixture`, given by its path from the crate root.
#[macro_export]
macro_rules! conformance {
    ($open:path) => {
        $crate::conformance_tests! { $open;
            apps {
                created_app_is_found_by_name,
                app_names_are_unique,
                apps_are_listed_by_name_in_pages,
                deleting_an_app_deletes_its_data,
                operations_on_an_unknown_app_fail,
                name_of_a_deleted_app_can_be_reused,
                deleting_an_app_does_not_affect_other_apps,
            }
            entries {
                get_returns_the_value_that_was_set,
                absent_empty_and_null_are_distinct,
                overwrite_replaces_value_and_format,
                created_and_updated_times_are_kept,
                same_key_in_two_collections_is_two_entries,
                delete_reports_whether_the_entry_existed,
                similar_keys_are_distinct,
                entry_of_maximum_size_round_trips,
                large_json_and_binary_values_round_trip,
                all_byte_values_round_trip,
                ping_succeeds,
            }
            json {
                extreme_json_values_round_trip,
                random_json_values_round_trip,
                json_read_back_never_exceeds_the_value_limit,
                json_values_round_trip_through_lists_and_batches,
            }
            expiry {
                every_read_treats_an_expired_entry_as_absent,
                set_over_an_expired_entry_creates_a_new_entry,
                absence_check_passes_for_an_expired_entry,
                delete_of_an_expired_entry_reports_absent,
                set_replaces_the_expiry,
                entry_set_with_a_past_expiry_is_absent,
                expired_entries_do_not_count_in_pages,
            }
            checks {
                set_can_require_absence_or_a_version,
                delete_can_require_a_version,
                delete_can_require_absence,
                all_failed_checks_are_reported,
                failed_check_aborts_the_whole_batch,
                checks_see_the_state_before_the_batch,
                check_may_cover_a_key_that_is_not_written,
                batch_may_contain_only_checks,
                recreated_entry_fails_an_old_version_check,
            }
            batches {
                batch_results_are_in_operation_order,
                empty_batch_is_a_no_op,
                batch_may_write_the_same_key_twice,
                batch_may_delete_and_recreate_a_key,
                set_after_delete_in_a_batch_creates_the_entry,
                batch_may_set_an_already_expired_entry,
                batch_of_1000_operations_commits,
                batch_for_an_unknown_app_writes_nothing,
                batched_operations_on_a_key_equal_single_writes,
            }
            lists {
                keys_are_listed_in_bytewise_order,
                list_includes_the_greatest_possible_key,
                list_by_prefix,
                list_by_range_respects_its_bounds,
                crossed_bounds_give_an_empty_page,
                reverse_list_is_the_exact_reverse,
                more_flag_is_exact,
                page_ends_with_the_entry_that_reaches_its_byte_limit,
                page_has_at_least_one_entry,
                list_returns_values_only_on_request,
                concatenated_pages_equal_the_full_list,
                collections_are_listed_in_pages,
                random_lists_match_the_model,
            }
            versions {
                versions_increase_with_each_write,
                versions_are_not_reused_after_delete,
                versions_increase_under_concurrent_writes_and_deletes,
                versions_increase_under_concurrent_batches,
            }
            model {
                random_operations_match_the_model,
                apps_are_isolated_from_each_other,
            }
            races {
                one_concurrent_update_of_a_version_wins,
                one_concurrent_create_wins,
                one_concurrent_recreate_of_an_expired_entry_wins,
                one_concurrent_delete_of_a_version_wins,
                concurrent_transfers_preserve_the_sum,
                batches_in_opposite_key_orders_do_not_deadlock,
                crossed_absence_checks_prevent_write_skew,
                readers_never_see_half_a_batch,
                delete_finds_an_entry_replaced_concurrently,
                app_deletion_during_concurrent_writes,
            }
            long_lists {
                long_list_is_complete_under_concurrent_writes,
            }
            settings {
                app_is_created_with_the_given_settings,
                creating_an_app_with_a_taken_name_fails,
                settings_update_changes_only_the_named_fields,
                conditional_limit_update_requires_the_expected_limits,
                concurrent_changes_of_different_settings_all_persist,
                one_concurrent_conditional_limit_update_wins,
                zero_is_a_valid_limit,
                settings_update_of_an_unknown_app_fails,
                largest_limits_behave_as_unlimited,
                app_is_deleted_once,
            }
            app_settings {
                settings_are_set_replaced_and_unset,
                app_row_names_the_last_change_of_its_settings,
                settings_are_bounded_in_number_and_bytes,
                largest_settings_round_trip,
                secret_of_another_key_is_refused,
                no_secret_is_added_under_the_old_key_after_a_key_change,
                reseal_replaces_only_unchanged_secrets,
                settings_of_apps_are_separate_and_end_with_the_app,
                settings_of_an_unknown_app_cannot_be_changed,
            }
            usage {
                entries_and_bytes_are_counted,
                usage_counts_bytes_as_written,
                usage_of_repeated_writes_of_a_key_in_a_batch,
                expired_entries_count_until_replaced_or_deleted,
                usage_counts_only_guarded_writes_that_succeed,
                usage_of_an_unknown_app_is_zero,
                usage_matches_the_model_for_random_histories,
                usage_is_exact_under_concurrent_writes,
                quota_changes_during_concurrent_writes,
            }
            quotas {
                entry_quota_rejects_one_more_entry,
                batch_over_the_quota_writes_nothing,
                byte_quota_can_be_filled_exactly,
                zero_quota_rejects_every_new_entry,
                quota_given_at_creation_is_enforced,
                over_the_entry_quota_writes_without_new_entries_succeed,
                over_the_byte_quota_writes_that_do_not_grow_succeed,
                quota_applies_to_the_net_size_of_a_batch,
                expired_entries_count_against_the_quota,
                deleting_an_entry_frees_quota,
                raising_the_quota_takes_effect_at_once,
                quota_of_one_app_does_not_affect_another,
                concurrent_writers_never_exceed_the_byte_quota,
                concurrent_writers_never_exceed_the_entry_quota,
            }
            plugins {
                plugin_versions_are_numbered_from_one,
                plugin_version_numbers_are_never_reused,
                plugin_version_is_read_back_unchanged,
                app_row_includes_its_active_version,
                rollback_goes_back_one_version_at_a_time,
                reactivating_the_active_version_keeps_its_rollback_target,
                rollback_never_targets_a_deleted_version,
                active_version_cannot_be_deleted,
                operations_on_an_unknown_version_fail,
                plugin_operations_on_an_unknown_app_fail,
                module_is_kept_while_a_version_uses_it,
                shared_module_survives_app_deletion,
                plugin_versions_are_paged_newest_first,
                plugin_versions_and_bytes_per_app_are_limited,
            }
            plugin_races {
                concurrent_deploys_get_distinct_version_numbers,
                concurrent_rollbacks_go_back_one_step_each,
                concurrent_deletion_does_not_remove_a_module_being_added,
                concurrent_deletions_remove_an_unused_module,
                concurrent_deletion_never_removes_the_active_version,
                rollback_target_exists_despite_concurrent_deletion,
                app_deletion_during_concurrent_deploys,
            }
            tokens {
                created_token_is_read_back_unchanged,
                token_with_a_taken_id_is_not_created,
                one_concurrent_bootstrap_creates_the_first_token,
                one_concurrent_revocation_takes_effect,
                token_is_revoked_once,
                last_administrator_token_cannot_be_revoked,
                administrators_revoking_each_other_leave_one,
                revoking_an_unknown_token_is_a_no_op,
                token_for_an_unknown_app_is_rejected,
                tokens_are_listed_in_pages,
                deleting_an_app_deletes_its_tokens,
                app_deletion_during_concurrent_token_creation,
                tokens_per_app_are_limited,
                concurrent_token_creation_respects_the_limit,
            }
            audit {
                each_change_writes_one_audit_row,
                audit_rows_may_reference_missing_apps_and_tokens,
                no_op_writes_no_audit_row,
                failed_operation_writes_no_audit_row,
                operation_is_rolled_back_if_its_audit_row_fails,
                unaudited_operation_writes_no_audit_row,
                audit_rows_survive_app_deletion,
                audit_rows_are_paged_newest_first,
                audited_batch_writes_one_audit_row,
                failed_batch_writes_no_audit_row,
                concurrent_changes_write_one_audit_row_each,
            }
            generations {
                each_registry_change_advances_the_generation,
                no_op_does_not_advance_the_generation,
                rows_read_within_one_generation_are_current,
                concurrent_registry_changes_all_take_effect,
            }
            increments {
                increment_of_an_absent_entry_starts_at_zero,
                increment_accepts_the_same_integers_on_every_store,
                increment_overflow_is_rejected,
                increment_keeps_the_expiry_and_restarts_after_it,
                increments_see_earlier_operations_of_their_batch,
                rejected_increment_aborts_its_batch,
                increments_count_against_the_quota,
                concurrent_increments_lose_no_update,
                concurrent_increments_do_not_lose_a_set,
            }
            get_many {
                get_many_returns_results_in_request_order,
                get_many_limits_the_total_value_bytes,
                get_many_reads_a_consistent_snapshot,
            }
            triggers {
                each_kind_of_change_creates_a_delivery,
                no_op_write_creates_no_delivery,
                trigger_matches_its_prefix_and_event_kinds,
                batch_operations_are_delivered_in_order,
                failed_write_creates_no_delivery,
                deliveries_count_against_the_quota,
                triggers_can_be_set_replaced_paused_and_deleted,
                replacing_a_trigger_keeps_its_creation_time_and_plan,
                concurrent_callers_cannot_exceed_the_trigger_limit,
                declared_triggers_count_against_the_limit,
                trigger_takes_effect_once_acknowledged,
                trigger_operations_on_an_unknown_app_fail,
                declared_triggers_follow_the_active_version,
                operator_trigger_overrides_a_declared_one,
                activation_resumes_triggers_paused_by_failures,
                audited_write_creates_deliveries,
            }
            declared_retries {
                declared_retries_follow_the_active_version,
            }
            webhooks {
                webhook_is_stored_with_its_url_and_secret,
                delivery_of_a_webhook_names_no_function,
                scheduled_webhook_names_no_function,
            }
            deliveries {
                claimed_delivery_is_leased,
                expired_lease_is_lost,
                renewed_lease_stays_valid,
                failed_check_does_not_acknowledge_the_delivery,
                deliveries_of_a_key_are_sequential,
                retry_blocks_only_its_own_key,
                dead_lettering_unblocks_the_next_delivery,
                longest_due_deliveries_are_claimed_first,
                paused_trigger_is_not_due,
                due_queues_are_listed_in_pages,
                claim_returns_the_retry_policy,
                acknowledging_a_delivery_frees_its_usage,
                deleting_an_app_deletes_its_deliveries,
                clock_stepping_back_does_not_delay_new_deliveries,
                racing_writes_are_delivered_in_commit_order,
            }
            delivery_states {
                documented_delivery_states_match_the_store,
            }
            pauses {
                consecutive_failures_count_each_delivery_once,
                ten_failed_deliveries_pause_a_trigger_and_a_probe_resumes_it,
                failed_probe_doubles_the_wait,
                transient_probe_failure_does_not_double_the_wait,
                probe_of_a_crashed_host_is_replaced,
                renewed_probe_stays_the_only_probe,
                only_one_concurrent_claim_gets_the_probe,
                success_of_an_earlier_claim_resumes_the_trigger,
                operator_pause_is_never_probed,
                paused_schedule_runs_to_probe,
                released_delivery_does_not_count_as_an_attempt,
            }
            outstanding_deliveries {
                outstanding_deliveries_are_listed_in_pages,
                outstanding_deliveries_can_be_filtered_by_each_field,
                discarding_a_delivery_unblocks_the_next,
                discarded_delivery_cannot_be_acknowledged,
                discards_are_limited_and_free_usage,
                trigger_with_outstanding_deliveries_is_deleted_only_on_request,
            }
            dispatchers {
                concurrent_dispatchers_deliver_in_order_exactly_once,
            }
            surveys {
                survey_reports_deliveries_and_dead_letters,
                survey_includes_queues_of_deleted_triggers,
                store_reports_its_size,
            }
            dead_letters {
                dead_letter_keeps_all_delivery_fields,
                dead_letters_are_paged_newest_first,
                dead_letters_can_be_filtered_by_each_field,
                replay_redelivers_the_same_event,
                replays_keep_their_order_per_key,
                replay_and_discard_take_the_oldest_up_to_the_limit,
                replays_of_a_batch_are_part_of_it,
                replays_of_a_handler_use_up_its_budget,
                dead_letters_count_toward_usage_until_removed,
                old_and_excess_dead_letters_are_pruned,
                dead_letter_operations_on_a_deleted_app,
                largest_payload_survives_dead_lettering_and_replay,
            }
            clock_repair {
                retry_scheduled_too_far_ahead_becomes_due,
                lease_expiring_too_far_ahead_is_ended,
                probe_scheduled_too_far_ahead_becomes_due,
                long_queue_is_rescued_in_steps,
            }
            schedules {
                schedules_planned_too_far_ahead_are_found,
                schedule_is_planned_then_run,
                due_schedules_are_listed_in_pages,
                tick_for_an_outdated_plan_is_a_no_op,
                schedule_does_not_overlap_its_own_runs,
                one_concurrent_tick_creates_the_run,
                paused_schedule_is_not_due,
            }
            timer_runs {
                next_timer_is_the_first_one_after_a_time,
                timer_can_be_run_now_unless_it_is_leased,
                replayed_timer_is_no_longer_found_by_its_name,
                deferred_delivery_waits_without_counting_an_attempt,
                only_waits_longer_than_asked_for_are_repaired,
                timer_keeps_the_trace_of_what_set_it,
                concurrent_settings_of_a_name_leave_one_timer,
            }
            timers {
                timer_is_claimed_at_its_time_and_not_before,
                setting_a_name_again_replaces_its_timer,
                replacing_or_cancelling_a_leased_timer_makes_its_commit_fail,
                cancel_reports_whether_the_timer_was_set,
                timers_are_all_or_nothing_with_the_writes_of_their_batch,
                handler_of_a_timer_may_set_it_again,
                timers_are_independent_of_each_other,
                timers_of_other_apps_are_out_of_reach,
                timers_are_listed_by_name_in_pages,
                timers_count_as_deliveries_against_the_quota,
            }
            traces {
                every_write_stores_its_trace_with_its_deliveries,
                stored_traces_count_against_the_quota,
                trace_is_kept_through_retries_dead_letters_and_replays,
                trace_without_a_delivery_is_not_stored,
            }
            linearizable {
                single_key_histories_are_linearizable,
                multi_key_histories_are_linearizable,
            }
            app_deletion {
                deleted_app_disappears_at_once_and_is_reaped_in_steps,
                orphaned_deliveries_of_a_deleted_app_are_not_due,
                module_is_removed_with_the_last_app_that_uses_it,
                large_values_are_reaped_in_small_steps,
                old_and_excess_audit_rows_are_pruned,
            }
            grants {
                grants_are_added_listed_and_removed,
                grants_are_bounded_in_number,
                change_of_grants_is_a_change_of_settings,
                grants_of_apps_are_separate_and_end_with_the_app,
                version_is_activated_only_with_all_of_its_needs,
                refused_deploy_adds_no_version,
                grant_of_another_app_meets_no_need,
                wildcard_grant_meets_the_needs_that_it_covers,
                activation_raced_with_a_revocation_comes_first_or_is_refused,
            }
            event_limits {
                deliveries_per_write_are_limited,
                fan_out_budget_is_shared_by_the_deliveries_of_a_change,
                outstanding_deliveries_are_bounded,
                deliveries_and_dead_letters_count_toward_usage,
                dead_letters_count_against_the_quota,
                failed_discard_does_not_change_usage,
                delivery_error_text_is_truncated,
            }
            answers {
                answer_is_kept_with_its_commit,
                second_commit_of_an_answer_writes_nothing,
                failed_commit_keeps_no_answer,
                one_concurrent_commit_of_an_answer_wins,
                expired_answer_is_absent_and_replaced,
                expired_answers_are_swept_in_steps,
                answers_count_against_the_quota,
                number_of_answers_is_bounded,
                answers_of_a_deleted_app_are_absent_and_reaped,
            }
            change_log {
                changes_are_logged_while_they_are_kept,
                concurrent_changes_are_read_once_and_in_order,
                pruned_changes_raise_the_start_of_the_log,
                log_of_a_deleted_app_is_removed,
                pages_of_changes_are_bounded,
            }
            hosts {
                host_is_seen_by_the_clock_of_the_store,
                minutes_of_hosts_add_up,
                history_is_pruned_by_age_and_number,
                hosts_are_pruned_by_age_and_number,
            }
            log_segments {
                log_segments_are_read_by_position,
                log_segment_is_stored_once,
                log_is_pruned_by_age_and_size,
                apps_with_a_log_are_listed_in_pages,
                kinds_of_segments_are_separate,
            }
            expiry_sweep {
                expired_entries_are_swept_in_steps,
                rewritten_entry_is_not_swept,
                sweeping_during_concurrent_writes_loses_nothing,
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
