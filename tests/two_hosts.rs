//! Two hosts on one store: neither loses what the other writes, and each sees what the other does.
//!
//! `CELLAR_TEST_STORES=DIR:DIR` runs this on a network file system; see `hosts/mod.rs`.

mod common;
mod hosts;

macro_rules! promises {
    ($($part:ident: $($promise:ident)*;)*) => {
        $($(
            #[test]
            fn $promise() {
                hosts::$part::$promise(&mut hosts::Hosts::start(stringify!($promise)));
            }
        )*)*
    };
}

promises! {
    appends:
        a_look_at_a_session_while_it_is_written_takes_nothing_from_it
        appends_from_both_hosts_to_different_sessions_lose_nothing
        appends_from_both_hosts_to_one_session_lose_nothing
        both_hosts_creating_one_session_at_once_lose_no_line
        kill_9_of_one_host_holds_up_the_other_for_no_time_and_loses_nothing
        sealing_on_both_hosts_while_both_append_loses_nothing
        sealing_on_one_host_while_the_other_appends_loses_nothing;
    changes:
        a_random_mixture_of_changes_by_turns_matches_a_model
        a_raw_session_overwritten_during_the_other_hosts_seal_keeps_the_new_bytes
        a_session_truncated_to_nothing_is_what_is_written_after
        an_atomic_save_keeps_its_bytes_and_the_other_hosts_later_lines
        an_older_form_beside_a_raw_session_is_kept_aside
        each_host_sees_the_others_changes_within_the_attribute_timeout
        frames_cached_by_one_host_are_not_shown_for_the_others;
    races:
        a_name_that_is_always_there_is_never_missing
        a_new_session_is_not_touched_by_who_holds_the_one_that_was_moved_away
        a_rename_or_unlink_holds_against_the_other_hosts_change_of_form
        a_rename_or_unlink_holds_against_the_other_hosts_seal;
}
