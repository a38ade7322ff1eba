//! Edges and connections as people read them: counters folded by workload, service and version.
