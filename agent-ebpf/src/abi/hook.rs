//! The programs of the data plane, by the hook they sit on.

use super::named_enum;

named_enum! {
    /// One program. The name is the hook's, as in metrics, pins and `segue status`.
    pub enum Hook {
        /// `connect()` of an IPv4 socket. Kernel 4.17.
        Connect4 = 0 => "connect4",
        /// `connect()` of an IPv6 socket. Kernel 4.17.
        Connect6 = 1 => "connect6",
        /// `sendto()` and `sendmsg()` of an unconnected IPv4 datagram. Kernel 4.18.
        Sendmsg4 = 2 => "sendmsg4",
        /// `sendto()` and `sendmsg()` of an unconnected IPv6 datagram. Kernel 4.18.
        Sendmsg6 = 3 => "sendmsg6",
        /// `recvfrom()` and `recvmsg()` on an IPv4 datagram socket. Kernel 5.2.
        Recvmsg4 = 4 => "recvmsg4",
        /// `recvfrom()` and `recvmsg()` on an IPv6 datagram socket. Kernel 5.2.
        Recvmsg6 = 5 => "recvmsg6",
        /// `getpeername()` of an IPv4 socket. Kernel 5.8.
        Getpeername4 = 6 => "getpeername4",
        /// `getpeername()` of an IPv6 socket. Kernel 5.8.
        Getpeername6 = 7 => "getpeername6",
        /// The last close of a socket. Kernel 5.9.
        SockRelease = 8 => "sock_release",
        /// Events in the life of a TCP connection. Kernel 4.13.
        SockOps = 9 => "sock_ops",
        /// A walk over all sockets that talk to a service. Kernel 5.10.
        Sample = 10 => "sample",
        /// A walk over the sockets whose connections are due to be reset. Kernel 5.10.
        Drain = 11 => "drain",
        /// A packet arrives at a socket. Kernel 4.10.
        Ingress = 12 => "ingress",
        /// A packet leaves a socket. Kernel 4.10.
        Egress = 13 => "egress",
        /// A call of OpenSSL, where what is said inside TLS is read. Kernel 6.1.
        TlsCall = 14 => "tls_call",
        /// A process takes what its TCP socket received, likewise.
        TlsReceive = 15 => "tls_receive",
    }
}
