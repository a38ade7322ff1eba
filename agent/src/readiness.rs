//! Whether the agent may be called ready, and what it still waits for.
