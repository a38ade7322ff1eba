//! The agent-owned maps in memory, for unit and scenario tests.
