//! What gRPC's statuses are, and what becomes of a call that ends without one.

/// The highest status (UNAUTHENTICATED).
pub const MAX_STATUS: u16 = 16;

/// The call was called off.
pub const CANCELLED: u16 = 1;
/// Nobody knows.
pub const UNKNOWN: u16 = 2;
/// A bound was reached.
pub const RESOURCE_EXHAUSTED: u16 = 8;
/// Something is broken.
pub const INTERNAL: u16 = 13;
/// Nobody is there to answer.
pub const UNAVAILABLE: u16 = 14;

/// The status of a call whose server sent none, by the HTTP status of its answer (gRPC's `http-grpc-status-mapping.md`).
#[inline(always)]
pub const fn status_of_http(status: u16) -> u16 {
    match status {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// The status of a call whose stream was reset, by the code of the reset (gRPC's `PROTOCOL-HTTP2.md`, "Errors").
#[inline(always)]
pub const fn status_of_reset(code: u32) -> u16 {
    match code {
        // REFUSED_STREAM.
        7 => UNAVAILABLE,
        // CANCEL.
        8 => CANCELLED,
        // ENHANCE_YOUR_CALM.
        11 => RESOURCE_EXHAUSTED,
        // INADEQUATE_SECURITY.
        12 => 7,
        _ => INTERNAL,
    }
}
