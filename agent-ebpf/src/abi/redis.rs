//! What commands of Redis and their answers are counted as: numbers and names.

use super::named_enum;

named_enum! {
    /// A command of Redis. A closed list, so that a client cannot make rows: what it does not name is one row.
    pub enum RedisCommand {
        /// Any other.
        Other = 0 => "_OTHER",
        /// `GET`.
        Get = 1 => "GET",
        /// `SET`.
        Set = 2 => "SET",
        /// `DEL`.
        Del = 3 => "DEL",
        /// `MGET`.
        Mget = 4 => "MGET",
        /// `MSET`.
        Mset = 5 => "MSET",
        /// `INCR`.
        Incr = 6 => "INCR",
        /// `DECR`.
        Decr = 7 => "DECR",
        /// `EXISTS`.
        Exists = 8 => "EXISTS",
        /// `EXPIRE`.
        Expire = 9 => "EXPIRE",
        /// `TTL`.
        Ttl = 10 => "TTL",
        /// `SETEX`.
        Setex = 11 => "SETEX",
        /// `HGET`.
        Hget = 12 => "HGET",
        /// `HSET`.
        Hset = 13 => "HSET",
        /// `HDEL`.
        Hdel = 14 => "HDEL",
        /// `HMGET`.
        Hmget = 15 => "HMGET",
        /// `HGETALL`.
        Hgetall = 16 => "HGETALL",
        /// `LPUSH`.
        Lpush = 17 => "LPUSH",
        /// `RPUSH`.
        Rpush = 18 => "RPUSH",
        /// `LPOP`.
        Lpop = 19 => "LPOP",
        /// `RPOP`.
        Rpop = 20 => "RPOP",
        /// `LRANGE`.
        Lrange = 21 => "LRANGE",
        /// `SADD`.
        Sadd = 22 => "SADD",
        /// `SREM`.
        Srem = 23 => "SREM",
        /// `SPOP`.
        Spop = 24 => "SPOP",
        /// `SMEMBERS`.
        Smembers = 25 => "SMEMBERS",
        /// `ZADD`.
        Zadd = 26 => "ZADD",
        /// `ZREM`.
        Zrem = 27 => "ZREM",
        /// `ZRANGE`.
        Zrange = 28 => "ZRANGE",
        /// `ZPOPMIN`.
        Zpopmin = 29 => "ZPOPMIN",
        /// `EVAL`.
        Eval = 30 => "EVAL",
        /// `EVALSHA`.
        Evalsha = 31 => "EVALSHA",
        /// `PUBLISH`.
        Publish = 32 => "PUBLISH",
        /// `MULTI`.
        Multi = 33 => "MULTI",
        /// `EXEC`.
        Exec = 34 => "EXEC",
        /// `PING`.
        Ping = 35 => "PING",
        /// `SCAN`.
        Scan = 36 => "SCAN",
        /// `XADD`.
        Xadd = 37 => "XADD",
        /// `BLPOP`, which waits by design.
        Blpop = 38 => "BLPOP",
        /// `BRPOP`, likewise.
        Brpop = 39 => "BRPOP",
        /// `XREAD`, which may.
        Xread = 40 => "XREAD",
    }
}

named_enum! {
    /// What came of a command: the first word of an error, as `db.response.status_code` of OpenTelemetry has it.
    pub enum RedisStatus {
        /// No error.
        Ok = 0 => "OK",
        /// An error with any other word.
        Other = 1 => "_OTHER",
        /// The general one.
        Err = 2 => "ERR",
        /// The key holds another type.
        Wrongtype = 3 => "WRONGTYPE",
        /// Another node of the cluster has it: no error.
        Moved = 4 => "MOVED",
        /// Another node has it for now: no error.
        Ask = 5 => "ASK",
        /// The server is reading its data.
        Loading = 6 => "LOADING",
        /// A replica that takes no writes.
        Readonly = 7 => "READONLY",
        /// A script is running.
        Busy = 8 => "BUSY",
        /// The client is not authenticated.
        Noauth = 9 => "NOAUTH",
        /// The client may not.
        Noperm = 10 => "NOPERM",
        /// Out of memory.
        Oom = 11 => "OOM",
        /// Too few replicas, or the snapshot failed.
        Misconf = 12 => "MISCONF",
        /// The cluster is down (`CLUSTERDOWN`).
        Clusterdown = 13 => "CLUSTERDOWN",
        /// The replica has lost its master (`MASTERDOWN`).
        Masterdown = 14 => "MASTERDOWN",
        /// To be tried again (`TRYAGAIN`).
        Tryagain = 15 => "TRYAGAIN",
        /// The script is not known: clients send it then.
        Noscript = 16 => "NOSCRIPT",
        /// A transaction that had an error before.
        Execabort = 17 => "EXECABORT",
        /// The wrong password.
        Wrongpass = 18 => "WRONGPASS",
    }
}
