//! Is Segue itself well, and what does it cost.

use super::{Dashboard, Mark, Panel, Row, Unit, View, column, query};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "agent",
    title: "Segue / Agent health",
    says: "Whether Segue does its work on every node, what it could not see, and what it costs.",
    choices: &[],
    rows: &[
        Row {
            title: "Does it work",
            panels: &[
                Panel {
                    title: "Test connection",
                    says: "Whether the agent's own test connection reaches its backend: proof that programs are not only attached.",
                    view: View::States,
                    unit: Unit::YesNo,
                    width: 12,
                    queries: &[query("segue_canary_reached{@node}", "{{instance}}")],
                    marks: &[(1.0, Mark::Good)],
                },
                Panel {
                    title: "Programs attached",
                    says: "Whether every program is attached on the node.",
                    view: View::States,
                    unit: Unit::YesNo,
                    width: 12,
                    queries: &[query(
                        "min by (instance) (segue_bpf_program_attached{@node})",
                        "{{instance}}",
                    )],
                    marks: &[(1.0, Mark::Good)],
                },
                Panel {
                    title: "Configuration not in force",
                    says: "1 where the newest configuration, or a part of it, is not in force and the one before still is.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 8,
                    queries: &[query("segue_config_rejected{@node}", "{{instance}}")],
                    marks: &[(1.0, Mark::Bad)],
                },
                Panel {
                    title: "Deletions held back",
                    says: "Mass deletions that stay until somebody accepts them, by source and by what would be lost.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 8,
                    queries: &[query(
                        "sum by (instance, source, loss) (segue_deletions_held{@node})",
                        "{{instance}} {{source}} {{loss}}",
                    )],
                    marks: &[(1.0, Mark::Warning)],
                },
                Panel {
                    title: "Changes applied and failed",
                    says: "Changes of services that were applied, and those a stage refused.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 8,
                    queries: &[
                        query("sum(increase(segue_config_generation{@node}[$__rate_interval]))", "applied"),
                        query(
                            "sum by (stage) (increase(segue_config_apply_failures_total{@node}[$__rate_interval]))",
                            "refused at {{stage}}",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Nodes",
                    says: "Versions in use, and how much each node knows.",
                    view: View::Table,
                    unit: Unit::Count,
                    width: 24,
                    queries: &[
                        column(
                            "sum by (instance, version, abi) (segue_build_info{@node})",
                            "Runs",
                            Unit::YesNo,
                        ),
                        column("sum by (instance) (segue_lb_services{@node})", "Services", Unit::Count),
                        column("sum by (instance) (segue_lb_backends{@node})", "Backends", Unit::Count),
                        column(
                            "sum by (instance) (process_resident_memory_bytes{@node})",
                            "Memory",
                            Unit::Bytes,
                        ),
                    ],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "What it could not see",
            panels: &[
                Panel {
                    title: "Events",
                    says: "Events the kernel wrote, and what could not be recorded or delivered.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[
                        query("sum(rate(segue_events_written_total{@node}[$__rate_interval]))", "written"),
                        query(
                            "sum by (source) (rate(segue_events_lost_total{@node}[$__rate_interval]))",
                            "lost: {{source}}",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Clients without a name",
                    says: "Cgroups that were gone before they could be named, per second; pods that run here and that the API \
                           server has not told, and pods that are left alone.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 8,
                    queries: &[
                        query(
                            "sum by (instance) (rate(segue_identity_unresolved_total{@node}[$__rate_interval]))",
                            "{{instance}} gone unnamed",
                        ),
                        query(
                            "sum by (instance) (segue_identity_pods_unnamed{@node})",
                            "{{instance}} pods unnamed",
                        ),
                        query(
                            "sum by (instance) (segue_identity_pods_left_alone{@node})",
                            "{{instance}} pods left alone",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Beyond the limit on series, and scrape errors",
                    says: "Edges that were summed because there are too many, and scrapes that had to leave a subject out.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[
                        query(
                            "sum by (instance) (rate(segue_series_limit_overflow_total{@node}[$__rate_interval]))",
                            "{{instance}} edges",
                        ),
                        query(
                            "sum by (subject) (rate(segue_scrape_errors_total{@node}[$__rate_interval]))",
                            "not read: {{subject}}",
                        ),
                    ],
                    marks: &[],
                },
                Panel {
                    title: "Not counted as requests",
                    says: "Connections on which something was not counted as a request, by reason; see docs/requests.md.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (reason) (rate(segue_l7_unparsed_total{@node}[$__rate_interval]))",
                        "{{reason}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Put right",
                    says: "Differences between the maps and what should be in them that were found and put right. Steady: somebody else \
                           writes to the maps.",
                    view: View::Lines,
                    unit: Unit::Count,
                    width: 8,
                    queries: &[query(
                        "sum by (target) (increase(segue_repairs_total{@node}[$__rate_interval])) or vector(0)",
                        "{{target}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Resets that failed",
                    says: "Connections that were to be reset because their backend is out, and could not be. Tried again every second.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (cause) (rate(segue_connection_resets_failed_total{@node}[$__rate_interval])) or vector(0)",
                        "{{cause}}",
                    )],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "Kernel side",
            panels: &[
                Panel {
                    title: "CPUs the programs use",
                    says: "From the second in each minute in which runs are timed.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 8,
                    queries: &[query(
                        "sum by (instance) (rate(segue_bpf_program_run_seconds_total{@node}[10m])) / \
                         sum by (instance) (rate(segue_bpf_program_timed_seconds_total{@node}[10m]))",
                        "{{instance}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Time of a run",
                    says: "What one run of a program takes, in the second of each minute in which runs are timed.",
                    view: View::Lines,
                    unit: Unit::Seconds,
                    width: 8,
                    queries: &[query(
                        "sum by (program) (rate(segue_bpf_program_run_seconds_total{@node}[10m])) / \
                         sum by (program) (rate(segue_bpf_program_runs_total{@node}[10m]))",
                        "{{program}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Runs by how they ended",
                    says: "Every run of a program ends in exactly one outcome.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (program, outcome) (rate(segue_outcomes_total{@node}[$__rate_interval])) > 0",
                        "{{program}} {{outcome}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Maps, how full",
                    says: "The fullest node. What does not fit is refused as a whole, and the last good state stays.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 8,
                    queries: &[query(
                        "max by (map) (segue_bpf_map_entries{@node} / (segue_bpf_map_max_entries{@node} > 0))",
                        "{{map}}",
                    )],
                    marks: &[(0.8, Mark::Warning), (1.0, Mark::Bad)],
                },
                Panel {
                    title: "Memory of maps",
                    says: "Kernel memory by map, on the node with most.",
                    view: View::Stack,
                    unit: Unit::Bytes,
                    width: 8,
                    queries: &[query("max by (map) (segue_bpf_map_memory_bytes{@node})", "{{map}}")],
                    marks: &[],
                },
                Panel {
                    title: "Map updates refused",
                    says: "Updates the kernel refused, by map and error.",
                    view: View::Lines,
                    unit: Unit::PerSecond,
                    width: 8,
                    queries: &[query(
                        "sum by (map, errno) (rate(segue_bpf_map_update_errors_total{@node}[$__rate_interval])) or vector(0)",
                        "{{map}} {{errno}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "What the kernels can do",
                    says: "The part of the nodes whose kernel has a feature. What a feature is good for: `segue status`.",
                    view: View::Table,
                    unit: Unit::Ratio,
                    width: 24,
                    queries: &[column(
                        "avg by (feature) (segue_kernel_feature{@node})",
                        "Nodes",
                        Unit::Ratio,
                    )],
                    marks: &[],
                },
            ],
        },
        Row {
            title: "The agent's process",
            panels: &[
                Panel {
                    title: "CPUs",
                    says: "User and system time of the agent's process.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 8,
                    queries: &[query(
                        "rate(process_cpu_seconds_total{@node}[$__rate_interval]) and on (instance) segue_build_info",
                        "{{instance}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "Memory",
                    says: "Memory of the agent in RAM.",
                    view: View::Lines,
                    unit: Unit::Bytes,
                    width: 8,
                    queries: &[query(
                        "process_resident_memory_bytes{@node} and on (instance) segue_build_info",
                        "{{instance}}",
                    )],
                    marks: &[],
                },
                Panel {
                    title: "File descriptors",
                    says: "The part of the descriptors it may hold that it holds.",
                    view: View::Lines,
                    unit: Unit::Ratio,
                    width: 8,
                    queries: &[query(
                        "process_open_fds{@node} / process_max_fds{@node} and on (instance) segue_build_info",
                        "{{instance}}",
                    )],
                    marks: &[(0.8, Mark::Warning)],
                },
            ],
        },
    ],
};
