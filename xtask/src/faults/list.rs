//! What can go wrong on a node, what becomes of it, and the test of the kernel tier that holds Segue to that. The table "On
//! the node" in docs/faults.md says the same.

/// One fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// What to ask for.
    pub(super) name: &'static str,
    /// What happens.
    pub(super) happens: &'static str,
    /// What Segue does.
    pub(super) outcome: &'static str,
    /// What clients see.
    pub(super) clients: &'static str,
    /// The test, with its module.
    pub(super) test: &'static str,
}

const fn fault(
    name: &'static str,
    happens: &'static str,
    outcome: &'static str,
    clients: &'static str,
    test: &'static str,
) -> Fault {
    Fault { name, happens, outcome, clients, test }
}

/// All of them, in the order of the table.
pub(super) const FAULTS: &[Fault] = &[
    fault(
        "agent-stopped",
        "The agent is stopped (SIGSTOP)",
        "Nothing is lost: breakers open and close, and it goes on when it may",
        "Nothing",
        "node_faults::while_the_agent_is_stopped_breakers_open_and_connections_go_on",
    ),
    fault(
        "agent-killed",
        "The agent is killed or ended, again and again",
        "The next one takes over: open breakers stay open, counts are exact",
        "Nothing",
        "soak::no_connection_fails_and_nothing_is_forgotten_over_many_restarts",
    ),
    fault(
        "agent-killed-at-start",
        "It is killed between two calls of bpf(2) of its first start",
        "The next one starts",
        "Nothing",
        "crash::killed_at_any_call_of_its_first_start_it_starts_again",
    ),
    fault(
        "agent-killed-taking-over",
        "It is killed between two calls of bpf(2) of a start that takes over",
        "The next one completes what was begun",
        "Nothing",
        "crash::killed_at_any_call_of_a_start_that_takes_over_nobody_notices",
    ),
    fault(
        "agent-killed-changing",
        "It is killed between two calls of bpf(2) of a change",
        "The next one completes the change",
        "Nothing",
        "crash::killed_at_any_call_of_a_change_nobody_notices_and_the_next_agent_completes_it",
    ),
    fault(
        "out-of-memory",
        "The kernel kills it for want of memory",
        "The next one takes over, with the change that took the memory",
        "Nothing",
        "node_resources::an_agent_that_is_killed_for_want_of_memory_costs_nothing_and_the_next_takes_over",
    ),
    fault(
        "no-descriptors",
        "It has no file descriptors left",
        "Does without until it has some",
        "Nothing",
        "node_faults::an_agent_without_file_descriptors_goes_on_and_answers_again_when_it_has_some",
    ),
    fault(
        "disk-full",
        "The disks of its log and of its state are full",
        "Goes on without a log; says that rollouts do not outlive it; keeps both again once there is room",
        "Nothing",
        "node_resources::full_disks_cost_the_log_and_what_canaries_remember_and_nothing_else",
    ),
    fault(
        "two-agents",
        "A second agent is started",
        "It refuses to start",
        "Nothing",
        "restart::a_second_agent_refuses_to_start_and_disturbs_nothing",
    ),
    fault(
        "wall-clock",
        "The wall clock jumps a day forth or back",
        "Orders, breakers and time-outs go by the monotonic clock; only what is shown differs",
        "Nothing",
        "node_resources::a_wall_clock_that_jumps_a_day_forth_and_back_changes_only_what_is_shown",
    ),
    fault(
        "mass-deletion",
        "A source suddenly names hardly any of its services",
        "Keeps what would go, says so, and lets it go when somebody accepts (`segue accept`); the rest of the change is in force",
        "Nothing",
        "mass_deletion::a_file_that_suddenly_names_hardly_anything_takes_nothing_away_until_somebody_accepts",
    ),
    fault(
        "mass-deletion-at-start",
        "An agent starts on a source that names hardly any of what it finds in the maps",
        "Keeps what it finds, says so, and lets it go when somebody accepts",
        "Nothing",
        "mass_deletion::an_agent_that_starts_on_a_file_that_lost_its_services_keeps_what_it_finds_until_somebody_accepts",
    ),
    fault(
        "mass-deletion-of-backends",
        "A file suddenly names hardly any backend of a service",
        "Keeps the backends, says so, and lets them go when somebody accepts",
        "Nothing",
        "mass_deletion::a_service_whose_file_loses_most_of_its_backends_keeps_them_until_they_are_accepted",
    ),
    fault(
        "link-detached",
        "Somebody detaches a program",
        "Notices within ten seconds and attaches it anew",
        "Services cannot be reached until then",
        "node_faults::a_link_that_somebody_detaches_is_made_anew",
    ),
    fault(
        "link-pin-replaced",
        "Somebody puts another pin in the place of a link's",
        "Notices within ten seconds and attaches its own anew",
        "Services cannot be reached until then",
        "node_faults::a_pin_that_somebody_replaced_is_put_right",
    ),
    fault(
        "map-pin-replaced",
        "Somebody puts something else in the place of a map's pin",
        "Puts its own back within ten seconds; an agent that starts on it refuses and says what to do",
        "Nothing",
        "node_faults::a_map_pin_that_somebody_replaced_is_put_right_and_an_agent_that_starts_on_it_refuses",
    ),
    fault(
        "bpffs-wiped",
        "Somebody removes all pins",
        "Pins and attaches all anew within ten seconds, with all counts",
        "Services cannot be reached until then",
        "node_faults::pins_that_somebody_wiped_come_back",
    ),
    fault(
        "cgroup-remade",
        "The managed cgroup is removed and made anew under its name",
        "Attaches to the new one within ten seconds",
        "Services cannot be reached until then",
        "node_faults::a_managed_cgroup_that_was_removed_and_made_anew_is_served_again",
    ),
    fault(
        "namespace-deleted",
        "A network namespace goes with its sockets open",
        "Gives every count back",
        "Nothing",
        "addresses::a_network_namespace_that_goes_with_its_sockets_open_gives_every_count_back",
    ),
    fault(
        "ring-full",
        "The ring of events is full, since nobody reads it",
        "Loses events, counts how many; every other count is exact",
        "Nothing",
        "node_resources::a_reader_of_events_that_pauses_loses_them_and_no_count",
    ),
    fault(
        "maps-too-small",
        "A configuration asks for more frontends, services, backends or slots than there is room for",
        "Refuses it as a whole and says why; the one before stays",
        "Nothing",
        "full_maps::a_configuration_that_does_not_fit_a_map_changes_nothing_and_is_told",
    ),
    fault(
        "frontends-full",
        "`FRONTENDS` is full of somebody else's entries",
        "Removes them within ten seconds, then writes what found no room",
        "Nothing",
        "full_maps::frontends_full_of_somebody_elses_entries_are_cleared_and_what_was_waiting_is_written",
    ),
    fault(
        "affinity-full",
        "`AFFINITY` and `AVOIDANCES` are full of other clients",
        "Forget the clients seen longest ago",
        "Nothing",
        "full_maps::affinity_and_avoidance_full_of_others_forget_the_others",
    ),
    fault(
        "clients-full",
        "`CLIENTS` is full of other clients",
        "Lets connections through without counting them towards their client's limit, counts that, and tidies up",
        "Nothing",
        "full_maps::clients_full_of_others_are_let_through_uncounted_until_the_agent_has_tidied_up",
    ),
    fault(
        "workloads-full",
        "`WORKLOADS` is full of somebody else's entries",
        "Removes them within a second",
        "Nothing",
        "full_maps::workloads_full_of_others_are_put_right_within_a_tick",
    ),
    fault(
        "edges-full",
        "`EDGES` is full",
        "Counts nothing for new clients, counts that; services and clients that are known are counted exactly",
        "Nothing",
        "full_maps::edges_full_of_others_cost_what_is_counted_of_new_clients_and_no_connection",
    ),
    fault(
        "neighbours",
        "Others attach programs to the same hooks, before and after Segue",
        "Each does its own work; `segue status` names them; `segue unload` leaves theirs",
        "Nothing",
        "neighbours::neighbours_that_were_there_before_and_that_come_after_go_on_beside_the_agent",
    ),
    fault(
        "neighbour-sets-flags",
        "A neighbour sets what programs are told of a socket, after Segue did",
        "Sets it again, beside the neighbour's: failures are seen all the same",
        "Nothing",
        "neighbours::a_failure_is_seen_also_where_a_neighbour_sets_the_flags_of_the_socket_after_us",
    ),
    fault(
        "address-reused",
        "An address moves from one service to another",
        "Begins there anew, without the breaker; open connections count for the old service",
        "Nothing",
        "addresses::an_address_that_moves_to_another_service_begins_there_anew_and_old_connections_stay_with_the_old",
    ),
    fault(
        "hairpin",
        "A backend is a client of its own service",
        "Sends it to itself",
        "Nothing",
        "addresses::a_backend_that_is_its_own_client_reaches_itself",
    ),
    fault(
        "overlapping-addresses",
        "Two network namespaces have the same address",
        "Each client reaches the one in its own; to Segue they are one backend with one breaker",
        "Nothing",
        "addresses::the_same_address_in_two_network_namespaces_is_two_servers_and_one_breaker",
    ),
    fault(
        "other-layouts",
        "An agent with other layouts takes over, or the one before again",
        "Breakers, affinity and counts go on: maps that did not change are shared, of the others what both have is copied",
        "Nothing",
        "soak::what_two_builds_have_in_common_survives_upgrades_and_downgrades",
    ),
];
