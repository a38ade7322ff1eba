//! The composition root: builds every part and runs the one control loop.
