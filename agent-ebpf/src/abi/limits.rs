//! Every capacity and loop bound of the data plane, each with its reason.

use super::other::MORE_ENTRIES;

/// Services a node can know by default. A Kubernetes cluster of 10 000 services leaves room for 60 % more.
/// Memory: 8 B in `SERVICES` and 256 B in `SERVICE_STATE` each.
pub const MAX_SERVICES: u32 = 16_384;

/// Frontends (address, port, protocol). Room for dual stack at 10 000 services.
pub const MAX_FRONTENDS: u32 = 20_480;

/// Policy records. An update writes a new record while readers may still hold the old one, so there are more than
/// services: as many updates as this may wait for readers to leave.
pub const MAX_POLICIES: u32 = MAX_SERVICES + 1_024 + MORE_ENTRIES;

/// Backends, each with its own cell of state. 10 000 services of 10 backends leave room for 12 % more. 192 B
/// each in `BACKENDS` and `BACKEND_STATE`, the largest part of all memory.
pub const MAX_BACKENDS: u32 = 112_640;

/// Slots: what `random` and `round_robin` need per backend, plus the tables of `maglev` services, plus the new
/// windows of services that are being replaced. 16 B each.
pub const MAX_SLOTS: u32 = 262_144;

/// Versions a split can name. Four covers stable, canary and two that are being retired, and keeps a policy
/// within two cache lines.
pub const MAX_SUBSETS: usize = 4;

/// Slots one subset may take in a sequence of `round_robin` with unequal weights.
pub const MAX_SEQUENCE: u32 = 1_024;

/// The largest `maglev` table: prime, at least 100 slots for each of 655 backends.
pub const MAX_MAGLEV_TABLE: u32 = 65_521;

/// Edges (source cgroup, service, version) counted at a time. One takes about 700 B per CPU, allocated when it
/// is first seen.
pub const MAX_EDGES: u32 = 8_192;

/// Remembered (client, service) pairs. The map is an LRU: the pair used longest ago gives way.
pub const MAX_AFFINITIES: u32 = 16_384 + MORE_ENTRIES;

/// Remembered clients that failed on a backend lately. An LRU too: a client that is forgotten may be given that
/// backend again, as without a memory.
pub const MAX_AVOIDANCES: u32 = 8_192;

/// Pairs of a client and a service that limits its clients, counted at a time: 256 workloads on a node, each with 64
/// such services. One takes about 100 B, allocated when it is first seen.
pub const MAX_CLIENTS: u32 = 16_384;

/// Workload cgroups known to the agent (pods, units). Only services that need a client's identity look here, and every
/// one where some workload is to be left alone.
pub const MAX_WORKLOADS: u32 = 8_192;

/// cgroup levels searched for the client's workload. Pods sit at level 2 or 3 under both cgroup drivers, units
/// at 2 (4 in a user slice); level 0 is the root.
pub const MAX_CGROUP_LEVELS: u32 = 6;

/// Services one unconnected UDP socket can talk to at a time before answers of the oldest keep their own
/// address. Resolvers use two or three servers.
pub const MAX_TRANSLATIONS: usize = 4;

/// Bytes of the event ring: 4 096 events of 128 B in flight.
pub const EVENT_RING_BYTES: u32 = 512 * 1024;

/// Bytes of the ring of requests: 8 000 requests in flight while somebody follows, or 500 whose beginnings are told as well.
pub const REQUEST_RING_BYTES: u32 = 1024 * 1024;

/// Buckets of a breaker's window: what the window forgets at a time is an eighth of it, and a backend's state fills two
/// cache lines.
pub const WINDOW_BUCKETS: usize = 8;

/// Probes one half-open period may admit: what a five-bit field of the cell counts.
pub const MAX_PROBES: u8 = 31;

/// Backends asked, one after the other, where the chosen one may not be used. More would only matter to a service
/// of more backends of which so many in a row are ejected.
pub const MAX_CANDIDATES: u32 = 32;

/// Backends counted to know how many are healthy. Of a service with more, so many from a random one on are counted,
/// which is a sample.
pub const MAX_CENSUS: u32 = 128;

/// Services tried in a chain of fallbacks, the first included.
pub const MAX_FALLBACKS: u32 = 4;

/// Tries of a compare-and-swap before the change is given up. Each lost try is another CPU's success.
pub const MAX_SWAP_TRIES: u32 = 8;

/// Rows of counts of requests: who asked whom, how, and with what status. One takes about 200 B per CPU, allocated when it
/// is first seen. As many as there are edges, each with two methods or statuses.
pub const MAX_REQUESTS: u32 = 16_384;

/// Threads that are inside a call of OpenSSL at a time, where TLS is read. The one of which nothing was heard for longest is
/// forgotten: with what its call says. Kernels keep up to 128 entries of such a map in reserve for each CPU, so that there are more than
/// threads.
pub const MAX_TLS_CALLS: u32 = 16_384;

/// Connections whose TLS is read. One takes some 200 B. The one of which nothing was heard for longest is forgotten, and joined
/// again when something is received on it.
pub const MAX_TLS_SESSIONS: u32 = 16_384;
