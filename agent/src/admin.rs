//! The admin API: HTTP and JSON on a unix socket.
