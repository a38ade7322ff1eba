//! Leaving without touching the data plane.
