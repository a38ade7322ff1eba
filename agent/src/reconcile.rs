//! Makes the agent-owned maps equal to what was compiled, and keeps them so.
