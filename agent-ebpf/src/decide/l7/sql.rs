//! The first word of a statement, which tells what it does.
//!
//! Nothing else of it is read: a statement that begins with a comment or a bracket is one of the others.

use super::conversation::{letters, word};
use crate::abi::conversation::Room;
use crate::abi::sql::SqlOperation;

/// The operation that a statement at `at` begins with.
#[inline(always)]
pub(super) const fn operation(room: &Room, at: usize, length: usize) -> SqlOperation {
    let said = letters(room, at, length);
    // Written out and not a loop over a table: no access that could miss the table.
    macro_rules! known {
        ($($text:literal => $operation:ident),+ $(,)?) => {
            $(
                if said == const { word($text) } {
                    return SqlOperation::$operation;
                }
            )+
        };
    }
    known!(
        b"SELECT" => Select,
        b"INSERT" => Insert,
        b"UPDATE" => Update,
        b"DELETE" => Delete,
        b"BEGIN" => Begin,
        b"COMMIT" => Commit,
        b"ROLLBACK" => Rollback,
        b"START" => Begin,
        b"END" => Commit,
        b"WITH" => With,
        b"SET" => Set,
        b"SHOW" => Show,
        b"CALL" => Call,
        b"COPY" => Copy,
        b"REPLACE" => Replace,
        b"MERGE" => Merge,
        b"EXECUTE" => Execute,
        b"PREPARE" => Prepare,
        b"USE" => Use,
        b"EXPLAIN" => Explain,
        b"CREATE" => Create,
        b"ALTER" => Alter,
        b"DROP" => Drop,
        b"TRUNCATE" => Truncate,
        b"LOCK" => Lock,
        b"FETCH" => Fetch,
        b"VACUUM" => Vacuum,
        b"ANALYZE" => Analyze,
    );
    SqlOperation::Other
}
