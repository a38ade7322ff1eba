//! From desired services to map contents. Pure: no maps, no IO, no clock.
