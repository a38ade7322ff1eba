//! The tests of the kernel tier that say something about a *kernel*: what hooks report, in which order, what helpers, maps,
//! links and capabilities do there. What is left out tests Segue's own code, which is the same on every kernel; those
//! run on the host's. `--every-test` runs them all the same.

/// Tests by what a kernel could do differently.
pub(super) const ABOUT_THE_KERNEL: [(&str, &[&str]); 10] = [
    (
        "which sockets, address families and flags the address hooks see, and what they may write",
        &[
            "connect::a_tcp_connection_to_a_service_address_reaches_its_backend",
            "connect::an_ipv4_service_is_reached_from_an_ipv6_socket_by_its_mapped_address",
            "connect::a_nonblocking_connect_reaches_the_backend",
            "connect::tcp_fast_open_reaches_the_backend_with_and_without_a_cookie",
            "connect::a_service_without_backends_is_refused_at_once_with_the_errno_of_its_policy",
            "connect::a_udp_socket_may_connect_again_to_another_service_to_none_and_to_nothing",
            "getpeername::the_peer_is_the_same_through_a_duplicate_in_a_child_and_in_another_process",
            "recvmsg::answers_of_two_services_come_from_the_address_each_was_asked_at",
            "recvmsg::a_socket_that_was_connected_gets_answers_from_the_service_address_when_it_no_longer_is",
            "sendmsg::one_socket_talks_to_two_services",
            "sendmsg::a_datagram_to_a_service_without_backends_is_refused_with_the_errno_of_its_policy",
        ],
    ),
    (
        "when sock_ops runs in the life of a connection, and what the socket says then",
        &[
            "sock_ops::a_connection_the_client_dissolves_is_closed_once",
            "sock_ops::a_connection_the_server_resets_is_closed_by_a_remote_reset",
            "sock_ops::a_closed_port_is_a_failure_by_refusal",
            "sock_ops::a_host_that_is_not_there_is_a_failure_by_unreachability",
            "sock_ops::a_client_that_gives_up_is_a_local_failure",
            "sock_ops::bytes_of_a_connection_that_stays_open_are_counted_while_it_is_open",
            "sock_ops::every_handshake_is_in_the_histogram_of_its_duration",
        ],
    ),
    (
        "when sock_release runs, and that socket storage lives until then",
        &[
            "sock_release::a_connection_counts_until_its_last_holder_lets_go",
            "sock_release::a_connection_without_a_route_is_given_back_with_its_socket",
            "sock_release::a_connection_abandoned_while_connecting_is_given_back",
            "sock_release::a_thousand_connections_of_every_fate_leave_nothing_counted",
        ],
    ),
    (
        "atomic changes of one word by several CPUs, and what is done where there are none",
        &[
            "breaker::of_64_at_once_a_half_open_breaker_admits_exactly_its_probes",
            "limits::of_64_at_once_a_service_takes_exactly_its_limit",
        ],
    ),
    (
        "options that programs set on sockets, and timers that follow from them",
        &["faults::a_black_hole_costs_one_connect_timeout"],
    ),
    (
        "walks over sockets, and resetting them in another network namespace",
        &[
            "draining::the_connections_of_a_removed_backend_are_reset_and_all_others_live_on",
            "draining::a_connection_in_another_network_namespace_is_found_there",
        ],
    ),
    (
        "programs on packets, their access to the bytes, and the stack they may use",
        &[
            "requests::methods_and_statuses_are_what_the_client_got",
            "requests::messages_in_single_bytes_long_heads_and_interim_answers_are_counted_once",
        ],
    ),
    (
        "probes in processes, and what traced programs may reach",
        &[
            "tls::methods_and_statuses_inside_tls_are_what_the_client_got",
            "tls_libraries::who_talks_inside_tls_does_not_notice_agents_that_are_killed_and_come_again",
        ],
    ),
    (
        "links, pins and memory maps, and that programs of others keep their places",
        &[
            "restart::a_new_agent_adopts_connections_and_counts",
            "restart::unload_leaves_nothing",
            "soak::what_two_builds_have_in_common_survives_upgrades_and_downgrades",
            "neighbours::of_two_that_translate_the_same_address_the_first_wins_and_status_says_who_that_is",
            "node_faults::a_link_that_somebody_detaches_is_made_anew",
            "memory::what_was_written_is_there_after_its_memory_was_given_back",
            "memory::all_frontends_are_listed_however_many_there_are",
        ],
    ),
    (
        "which capabilities loading, attaching and looking take",
        &[
            "security::a_running_agent_has_three_capabilities_on_one_thread_and_those_switched_off",
            "security::three_capabilities_and_a_read_only_root_are_enough_for_everything_but_timing",
        ],
    ),
];

/// Their names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ABOUT_THE_KERNEL.into_iter().flat_map(|(_, tests)| tests).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_of_the_selection_is_there() {
        let tier = crate::workspace().join("tests/tests/kernel");
        for name in names() {
            let (module, test) = name.split_once("::").unwrap();
            let text = std::fs::read_to_string(tier.join(module).with_extension("rs")).unwrap();
            assert!(text.contains(&format!("fn {test}()")), "{name}");
        }
    }

    #[test]
    fn no_test_is_chosen_by_the_name_of_another() {
        for name in names() {
            assert_eq!(names().filter(|other| other.contains(name)).count(), 1, "{name}");
        }
    }
}
