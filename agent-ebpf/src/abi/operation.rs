//! What is asked for and what is answered, as the numbers in the counts mean it: each protocol has operations and statuses of
//! its own. Knows names, and not how they are read off a connection.

use core::fmt;

use super::named_enum;
use super::request::AppProtocol;
use crate::decide::l7::http2::grpc;
use crate::decide::l7::http2::streams::UNSEEN;

/// The operation of every protocol that is none of those with a name.
pub const OTHER: &str = "_OTHER";

named_enum! {
    /// What a request asks for, as far as it is told apart. Names as in `http.request.method` of OpenTelemetry.
    pub enum Method {
        /// Any other.
        Other = 0 => "_OTHER",
        /// RFC 9110, section 9.3.1.
        Get = 1 => "GET",
        /// Section 9.3.2.
        Head = 2 => "HEAD",
        /// Section 9.3.3.
        Post = 3 => "POST",
        /// Section 9.3.4.
        Put = 4 => "PUT",
        /// Section 9.3.5.
        Delete = 5 => "DELETE",
        /// Section 9.3.6.
        Connect = 6 => "CONNECT",
        /// Section 9.3.7.
        Options = 7 => "OPTIONS",
        /// Section 9.3.8.
        Trace = 8 => "TRACE",
        /// RFC 5789.
        Patch = 9 => "PATCH",
    }
}

/// The name of what a request asks for, as metrics and tables have it.
pub const fn operation_name(protocol: AppProtocol, operation: u8) -> &'static str {
    match protocol {
        AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => match Method::from_raw(operation) {
            Some(method) => method.name(),
            None => OTHER,
        },
        _ => OTHER,
    }
}

/// The status of an answer, written as its protocol's users know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusName {
    /// Whose answer it is.
    pub protocol: AppProtocol,
    /// The status by number.
    pub status: u16,
}

impl fmt::Display for StatusName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.protocol, AppProtocol::Http2 | AppProtocol::Grpc) && self.status == UNSEEN {
            return f.pad("unseen");
        }
        if self.protocol == AppProtocol::Grpc && !grpc::name(self.status).is_empty() {
            return f.pad(grpc::name(self.status));
        }
        fmt::Display::fmt(&self.status, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_read_as_their_users_know_them() {
        let read = |protocol, status| StatusName { protocol, status }.to_string();
        assert_eq!(read(AppProtocol::Http2, 404), "404");
        assert_eq!(
            [0, 14, 16, 99].map(|status| read(AppProtocol::Grpc, status)),
            ["OK", "UNAVAILABLE", "UNAUTHENTICATED", "99"]
        );
        assert_eq!(
            [AppProtocol::Http2, AppProtocol::Grpc].map(|protocol| read(protocol, UNSEEN)),
            ["unseen"; 2]
        );
    }
}
