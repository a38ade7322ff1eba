//! The harness of the scenario and kernel tiers.
