//! What gRPC's statuses are, and what becomes of a call that ends without one.

/// The highest status (UNAUTHENTICATED).
pub const MAX_STATUS: u16 = 16;

/// The call was called off.
pub const CANCELLED: u16 = 1;
/// Nobody knows.
pub const UNKNOWN: u16 = 2;
/// The time it had is over.
pub const DEADLINE_EXCEEDED: u16 = 4;
/// A bound was reached.
pub const RESOURCE_EXHAUSTED: u16 = 8;
/// Something is broken.
pub const INTERNAL: u16 = 13;
/// Nobody is there to answer.
pub const UNAVAILABLE: u16 = 14;
/// Data is gone.
pub const DATA_LOSS: u16 = 15;

/// Whether a status blames the server, as field practice has it: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL,
/// UNAVAILABLE, DATA_LOSS.
#[inline(always)]
pub const fn is_server_error(status: u16) -> bool {
    const ERRORS: u32 = 1 << UNKNOWN
        | 1 << DEADLINE_EXCEEDED
        | 1 << RESOURCE_EXHAUSTED
        | 1 << INTERNAL
        | 1 << UNAVAILABLE
        | 1 << DATA_LOSS;
    status <= MAX_STATUS && ERRORS >> status & 1 != 0
}

/// The name of a status, as OpenTelemetry has it in `rpc.response.status_code`; empty for a number that is none.
pub const fn name(status: u16) -> &'static str {
    match status {
        0 => "OK",
        CANCELLED => "CANCELLED",
        UNKNOWN => "UNKNOWN",
        3 => "INVALID_ARGUMENT",
        DEADLINE_EXCEEDED => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        RESOURCE_EXHAUSTED => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        INTERNAL => "INTERNAL",
        UNAVAILABLE => "UNAVAILABLE",
        DATA_LOSS => "DATA_LOSS",
        MAX_STATUS => "UNAUTHENTICATED",
        _ => "",
    }
}

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
