//! How the source stands with the API server, for those who ask: the log, `segue status`, metrics. Written by the source
//! only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use kube::runtime::watcher;

use super::objects::Kind;
use super::state::Counts;

/// Why the API server could not be asked, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// Nobody answers, or the connection broke.
    Unreachable,
    /// It does not know who asks.
    Unauthorized,
    /// Who asks may not.
    Forbidden,
    /// It does not know this kind of objects.
    NotFound,
    /// What was asked for is too long ago; everything is asked for anew.
    Gone,
    /// It is asked too much.
    Throttled,
    /// Something is wrong with it.
    ServerError,
    /// What it says cannot be read.
    Unreadable,
}

impl Trouble {
    /// Each of them.
    pub const ALL: &'static [Self] = &[
        Self::Unreachable,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Gone,
        Self::Throttled,
        Self::ServerError,
        Self::Unreadable,
    ];

    /// The name used in metric labels and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Throttled => "throttled",
            Self::ServerError => "server_error",
            Self::Unreadable => "unreadable",
        }
    }

    /// What kind of trouble an error is.
    pub(super) fn of(error: &watcher::Error) -> Self {
        use watcher::Error::{
            InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
        };
        match error {
            WatchError(status) => Self::of_code(status.code),
            InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => Self::of_client(error),
            NoResourceVersion => Self::Unreadable,
        }
    }

    pub(super) fn of_client(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_code(status.code),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Unreadable,
            kube::Error::Auth(_) => Self::Unauthorized,
            _ => Self::Unreachable,
        }
    }

    fn of_code(code: u16) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            410 => Self::Gone,
            429 => Self::Throttled,
            _ => Self::ServerError,
        }
    }
}

/// How it stands with one kind of objects.
#[derive(Clone, Debug, Default)]
pub struct KindStanding {
    /// All of them were listed since the agent started.
    pub listed: bool,
    /// The cluster does not know it, or the agent may not see it.
    pub absent: bool,
    /// Objects that were new, different or gone.
    pub events: u64,
    /// Lists that were read to their end.
    pub lists: u64,
    /// What went wrong how often.
    pub troubles: BTreeMap<Trouble, u64>,
    /// What is wrong now, in a sentence.
    pub trouble: Option<String>,
}

/// How it stands with the API server as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// Not everything was listed yet, and nothing is known from before.
    #[default]
    Starting,
    /// What is in force was known from before.
    Remembered,
    /// Everything is watched.
    InSync,
    /// Everything was listed, and something cannot be watched just now.
    Interrupted,
}

impl Connection {
    /// Each of them.
    pub const ALL: &'static [Self] = &[Self::Starting, Self::Remembered, Self::InSync, Self::Interrupted];

    /// The name used in tables, JSON and documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Remembered => "remembered",
            Self::InSync => "in_sync",
            Self::Interrupted => "interrupted",
        }
    }
}

/// How it stands.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The API server.
    pub server: String,
    /// This node.
    pub node: String,
    /// The zone this node is in.
    pub zone: Option<Arc<str>>,
    /// How it stands with the whole.
    pub connection: Connection,
    /// Since when.
    pub since: Option<Timestamp>,
    /// By kind.
    pub kinds: BTreeMap<Kind, KindStanding>,
    /// How much is known.
    pub counts: Counts,
    /// What is left out, and why: the first of it.
    pub notes: Vec<(String, String)>,
    /// When the snapshot was written last.
    pub snapshot_at: Option<Timestamp>,
    /// Why it could not be.
    pub snapshot_error: Option<String>,
}

/// [`Facts`], shared between the source and those who ask.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<Facts>>);

impl Standing {
    /// What is the case now.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        // A panic while holding this lock leaves whole values behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something went wrong with a kind.
    pub(super) fn troubled(&self, kind: Kind, trouble: Trouble, sentence: String) {
        let mut facts = self.facts();
        let standing = facts.kinds.entry(kind).or_default();
        *standing.troubles.entry(trouble).or_default() += 1;
        standing.trouble = Some(sentence);
    }

    /// Changes how it stands with a kind.
    pub(super) fn with_kind(&self, kind: Kind, change: impl FnOnce(&mut KindStanding)) {
        change(self.facts().kinds.entry(kind).or_default());
    }
}
