//! What statements and commands of SQL databases are counted as: numbers and names.

use super::named_enum;

named_enum! {
    /// What a request to PostgreSQL or MySQL does: the first word of its statement, or what its message asks for.
    pub enum SqlOperation {
        /// Any other.
        Other = 0 => "_OTHER",
        /// Reads.
        Select = 1 => "SELECT",
        /// Adds rows.
        Insert = 2 => "INSERT",
        /// Changes rows.
        Update = 3 => "UPDATE",
        /// Removes rows.
        Delete = 4 => "DELETE",
        /// Begins a transaction (also `START TRANSACTION`).
        Begin = 5 => "BEGIN",
        /// Ends one (also `END`).
        Commit = 6 => "COMMIT",
        /// Gives one up.
        Rollback = 7 => "ROLLBACK",
        /// A statement with common table expressions; what it does stands behind them.
        With = 8 => "WITH",
        /// Sets a variable.
        Set = 9 => "SET",
        /// Shows one.
        Show = 10 => "SHOW",
        /// Calls a procedure.
        Call = 11 => "CALL",
        /// Copies in bulk (PostgreSQL).
        Copy = 12 => "COPY",
        /// Replaces rows (MySQL).
        Replace = 13 => "REPLACE",
        /// Inserts or updates.
        Merge = 14 => "MERGE",
        /// Runs what was prepared before; what that was is not remembered.
        Execute = 15 => "EXECUTE",
        /// Prepares, where the statement itself is not read (MySQL's `COM_STMT_PREPARE`), or `PREPARE` in SQL.
        Prepare = 16 => "PREPARE",
        /// Chooses a database.
        Use = 17 => "USE",
        /// Explains a plan.
        Explain = 18 => "EXPLAIN",
        /// Makes an object.
        Create = 19 => "CREATE",
        /// Changes one.
        Alter = 20 => "ALTER",
        /// Removes one.
        Drop = 21 => "DROP",
        /// Empties a table.
        Truncate = 22 => "TRUNCATE",
        /// Locks one.
        Lock = 23 => "LOCK",
        /// Reads on from a cursor.
        Fetch = 24 => "FETCH",
        /// Tidies up (PostgreSQL).
        Vacuum = 25 => "VACUUM",
        /// Counts for the planner.
        Analyze = 26 => "ANALYZE",
        /// Asks whether the server is there (MySQL's `COM_PING`).
        Ping = 27 => "PING",
    }
}
