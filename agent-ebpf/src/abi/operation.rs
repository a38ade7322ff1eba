//! What is asked for and what is answered, as the numbers in the counts mean it: each protocol has operations and statuses of
//! its own. Knows names, and not how they are read off a connection.

use core::fmt;

use super::kafka::KafkaApi;
use super::lookup::{LookupStatus, RecordType};
use super::named_enum;
use super::redis::{RedisCommand, RedisStatus};
use super::request::AppProtocol;
use super::sql::SqlOperation;
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
        AppProtocol::Dns => match RecordType::from_raw(operation) {
            Some(record_type) => record_type.name(),
            None => OTHER,
        },
        AppProtocol::Redis => match RedisCommand::from_raw(operation) {
            Some(command) => command.name(),
            None => OTHER,
        },
        AppProtocol::Postgresql | AppProtocol::Mysql => match SqlOperation::from_raw(operation) {
            Some(operation) => operation.name(),
            None => OTHER,
        },
        AppProtocol::Kafka => match KafkaApi::from_raw(operation) {
            Some(api) => api.name(),
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
        match self.protocol {
            AppProtocol::Http2 | AppProtocol::Grpc if self.status == UNSEEN => f.pad("unseen"),
            AppProtocol::Grpc if !grpc::name(self.status).is_empty() => f.pad(grpc::name(self.status)),
            AppProtocol::Dns => {
                let status = u8::try_from(self.status).ok().and_then(LookupStatus::from_raw);
                f.pad(status.map_or(OTHER, LookupStatus::name))
            }
            AppProtocol::Redis => match u8::try_from(self.status).ok().and_then(RedisStatus::from_raw) {
                Some(status) => f.pad(status.name()),
                None => f.pad(OTHER),
            },
            AppProtocol::Postgresql => fmt_sqlstate_class(self.status, f),
            _ => fmt::Display::fmt(&self.status, f),
        }
    }
}

/// The class of a SQLSTATE (PostgreSQL's manual, appendix A), with the zeros that stand for all of it: `23000` for what
/// violates any constraint, `00000` for no error.
fn fmt_sqlstate_class(status: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match status.to_be_bytes() {
        [0, 0] => f.pad("00000"),
        [first, second] if first.is_ascii_alphanumeric() && second.is_ascii_alphanumeric() => {
            let mut class = *b"00000";
            [class[0], class[1]] = [first, second];
            f.pad(str::from_utf8(&class).unwrap_or(OTHER))
        }
        _ => f.pad(OTHER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(protocol: AppProtocol, status: u16) -> String {
        StatusName { protocol, status }.to_string()
    }

    #[test]
    fn statuses_read_as_users_of_the_protocol_write_them() {
        assert_eq!(status(AppProtocol::Http1, 404), "404");
        assert_eq!(status(AppProtocol::Redis, RedisStatus::Wrongtype as u16), "WRONGTYPE");
        assert_eq!(status(AppProtocol::Redis, 999), OTHER);
        assert_eq!(status(AppProtocol::Postgresql, 0), "00000");
        assert_eq!(status(AppProtocol::Postgresql, u16::from_be_bytes(*b"23")), "23000");
        assert_eq!(status(AppProtocol::Postgresql, u16::MAX), OTHER);
        assert_eq!(status(AppProtocol::Mysql, 1062), "1062");
        assert_eq!(status(AppProtocol::Kafka, 0), "0");
        let calls = [0, 14, 16, 99, UNSEEN].map(|code| status(AppProtocol::Grpc, code));
        assert_eq!(calls, ["OK", "UNAVAILABLE", "UNAUTHENTICATED", "99", "unseen"]);
        assert_eq!(status(AppProtocol::Http2, UNSEEN), "unseen");
    }

    #[test]
    fn an_operation_without_a_name_is_one_of_the_others() {
        for &protocol in AppProtocol::ALL {
            // 255 is the number of DNS's ANY.
            assert_eq!(operation_name(protocol, u8::MAX - 1), OTHER);
        }
        assert_eq!(operation_name(AppProtocol::Kafka, KafkaApi::Fetch as u8), "Fetch");
    }
}
