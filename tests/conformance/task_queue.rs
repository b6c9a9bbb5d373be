//! The conformance suite of the queue port: every case is listed once and runs on both back ends.

mod broker;
mod delivery;
mod embedded;
mod expiry;
mod lacking;
mod life;
mod publish;
mod servers;
mod silent;
mod unreadable;
mod vanishing;

/// The list of cases. In memory the clock is paused: waiting costs nothing, and every run is the same.
macro_rules! cases {
    ($($module:ident: $($case:ident),+ $(,)?;)+) => {
        mod memory {
            $($(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    super::$module::$case(&super::broker::Broker::memory()).await;
                }
            )+)+
        }

        mod rabbitmq {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$module::$case(&super::broker::Broker::rabbitmq().await).await;
                }
            )+)+
        }
    };
}

cases! {
    delivery:
        higher_priorities_come_first_and_equal_ones_in_order,
        a_priority_above_the_highest_counts_as_the_highest,
        no_more_than_the_prefetch_is_in_hand,
        an_ack_makes_room_for_the_next_delivery,
        consumers_with_room_take_turns,
        what_is_given_back_comes_again_at_its_place,
        what_a_dropped_consumer_held_comes_again,
        what_a_closed_connection_held_comes_again,
        a_stopped_consumer_gives_back_what_was_not_taken_and_can_settle_what_was,
        every_property_of_the_envelope_arrives,
        what_is_found_by_reading_a_message_does_not_travel,
        a_body_of_a_mebibyte_and_an_empty_one_arrive,
        a_frame_arrives_to_the_last_byte_and_as_a_frame,
        consuming_a_queue_that_does_not_exist_is_refused;
    publish:
        a_publish_to_a_missing_queue_is_unroutable,
        a_publish_to_a_full_pool_is_refused_as_full,
        an_own_queue_of_a_gpu_has_no_bound,
        more_dead_letters_than_are_kept_push_the_oldest_out,
        more_bytes_of_dead_letters_than_are_kept_push_the_oldest_out,
        a_message_that_cannot_be_sent_is_refused_and_hurts_no_other,
        a_reply_reaches_the_queue_that_reply_to_names,
        a_direct_reply_to_nobody_is_taken_and_lost,
        concurrent_publishes_are_each_settled_right,
        copies_of_one_message_are_each_settled,
        a_foreign_user_id_is_left_behind,
        the_queues_in_which_replies_wait_are_bounded_in_number_and_in_bytes,
        every_queue_of_delayed_tasks_is_bounded_in_number;
    expiry:
        what_expires_in_a_pool_goes_to_the_expired_queue_without_its_expiration,
        nothing_stays_in_the_queue_of_a_gpu_that_nobody_consumes,
        what_expires_in_the_queue_of_a_gpu_goes_to_the_expired_queue,
        what_expires_before_a_worker_has_led_it_to_a_pool_goes_to_the_expired_queue,
        what_expired_says_where_and_why_until_it_is_published_again,
        what_expires_before_anybody_else_has_declared_a_queue_is_kept,
        what_waits_stays_where_it_is_whatever_its_expiration,
        a_reply_that_waits_keeps_its_address,
        a_dead_letter_is_kept_for_so_long;
    life:
        declaring_twice_changes_nothing,
        one_message_can_be_taken_without_a_consumer,
        the_depth_counts_ready_messages_and_consumers,
        a_queue_is_deleted_only_when_empty_and_unused,
        a_reply_queue_belongs_to_one_connection_and_ends_with_it,
        a_closed_queue_says_so,
        a_link_that_is_up_says_so;
    vanishing:
        a_publish_to_a_queue_that_was_deleted_declares_it_again_where_it_was_declared,
        publishes_at_one_moment_to_a_queue_that_was_deleted_all_arrive,
        what_takes_what_expires_in_a_queue_comes_back_with_it,
        a_consumer_whose_queue_was_deleted_goes_on,
        what_the_exchange_leads_to_no_pool_arrives_with_its_routing_key;
}
