//! What can wake the control loop.
