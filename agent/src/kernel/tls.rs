//! Puts probes on OpenSSL, in the libraries the operator named, for all processes that use them, now or later. Does so once,
//! while the agent still has the rights to; the probes go when it goes. Knows no request.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_ebpf::abi::Hook;
use aya::programs::uprobe::UProbeScope;
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf};

use super::KernelError;
use super::probe::Features;

/// A function of OpenSSL, and the program at its entry.
struct Call {
    function: &'static str,
    program: &'static str,
    /// Its return matters.
    returns: bool,
    /// Every OpenSSL has it; `SSL_read_ex` and `SSL_write_ex` came with 1.1.1.
    is_required: bool,
}

const CALLS: [Call; 6] = [
    Call { function: "SSL_do_handshake", program: "segue_tls_handshake", returns: true, is_required: true },
    Call { function: "SSL_read", program: "segue_tls_read", returns: true, is_required: true },
    Call { function: "SSL_write", program: "segue_tls_write", returns: true, is_required: true },
    Call { function: "SSL_read_ex", program: "segue_tls_read_ex", returns: true, is_required: false },
    Call { function: "SSL_write_ex", program: "segue_tls_write_ex", returns: true, is_required: false },
    Call { function: "SSL_free", program: "segue_tls_free", returns: false, is_required: true },
];

/// The program at their returns.
const RETURN: &str = "segue_tls_return";

/// The program that sees a process take what its TCP socket received.
const RECEIVE: &str = "segue_tls_receive";

/// Where it sits.
const RECEIVE_TRACEPOINT: &str = "tcp_rcv_space_adjust";

/// The maps that only these programs use.
pub(super) const MAPS: [&str; 3] = ["TLS_CALLS", "TLS_SESSIONS", "TLS_NEXT"];

/// What was put in place.
pub(super) struct Probes {
    libraries: Vec<Library>,
    /// The programs at functions that at least one library has.
    programs: BTreeSet<&'static str>,
}

/// A file that has the probes. They stay with it, whatever comes to be at its path.
struct Library {
    path: PathBuf,
    /// Its file system and its number there.
    file: (u64, u64),
}

/// What is at the path of a library now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibraryState {
    /// The file that has the probes, as far as the agent may see.
    Read,
    /// Another one, as after an update: who loads that is not read.
    Replaced,
    /// Nothing, as when the container is gone whose it was.
    Gone,
}

impl LibraryState {
    /// As in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Replaced => "replaced",
            Self::Gone => "gone",
        }
    }
}

impl Library {
    fn state(&self) -> LibraryState {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if (metadata.dev(), metadata.ino()) == self.file => LibraryState::Read,
            Ok(_) => LibraryState::Replaced,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => LibraryState::Gone,
            // The way into a container takes a right that the agent gave up.
            Err(_) => LibraryState::Read,
        }
    }
}

impl Probes {
    /// The libraries, and what has become of each.
    pub(super) fn libraries(&self) -> Vec<(PathBuf, LibraryState)> {
        self.libraries.iter().map(|library| (library.path.clone(), library.state())).collect()
    }

    /// The programs in place, and what they sit on.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, Hook)> {
        let calls = self.programs.iter().map(|&program| (program, Hook::TlsCall));
        calls.chain([(RECEIVE, Hook::TlsReceive)])
    }
}

/// Refuses what cannot be a library of OpenSSL, before anything is loaded.
pub(super) fn check(libraries: &[PathBuf]) -> Result<(), KernelError> {
    let fail = |path: &Path, source| Err(KernelError::TlsLibrary { path: path.to_owned(), source });
    for path in libraries {
        // A name without a directory would be looked for where the dynamic linker looks, which is not where a container's is.
        if !path.is_absolute() {
            return fail(path, std::io::Error::other("it is no absolute path"));
        }
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return fail(path, std::io::Error::other("it is no file")),
            Err(source) => return fail(path, source),
        }
    }
    Ok(())
}

/// Loads the programs and puts them in place. `None` where this kernel does not take them; it gets all others.
///
/// # Errors
/// A library that is no OpenSSL, which the operator is to know of at once.
pub(super) fn read(
    ebpf: &mut Ebpf,
    libraries: &[PathBuf],
    features: &Features,
) -> Result<Option<Probes>, KernelError> {
    if !features.tracing_allocates {
        tracing::warn!("what is said inside TLS is not read: that takes Linux 6.1 or later");
        return Ok(None);
    }
    if let Err(error) = load(ebpf) {
        tracing::warn!("{error}; what is said inside TLS is not read");
        return Ok(None);
    }
    let mut probes = Probes { libraries: Vec::new(), programs: BTreeSet::new() };
    for library in libraries {
        let metadata = std::fs::metadata(library)
            .map_err(|source| KernelError::TlsLibrary { path: library.clone(), source })?;
        let file = (metadata.dev(), metadata.ino());
        // One file by two names would be probed, and cost, twice.
        if probes.libraries.iter().any(|known| known.file == file) {
            continue;
        }
        probes.programs.extend(probe(ebpf, library)?);
        probes.libraries.push(Library { path: library.clone(), file });
        tracing::info!(library = %library.display(), "what is said inside TLS is read");
    }
    // Last: whatever is received before, is received by nobody who is in a call.
    match ebpf.program_mut(RECEIVE) {
        Some(Program::BtfTracePoint(program)) => match program.attach() {
            Ok(_) => Ok(Some(probes)),
            Err(error) => {
                let error = KernelError::Program { program: RECEIVE, source: Box::new(error) };
                tracing::warn!("{error}; what is said inside TLS is not read");
                Ok(None)
            }
        },
        _ => Err(KernelError::Missing { program: RECEIVE }),
    }
}

fn load(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for name in CALLS.iter().map(|call| call.program).chain([RETURN]) {
        let Some(Program::UProbe(program)) = ebpf.program_mut(name) else {
            return Err(KernelError::Missing { program: name });
        };
        program.load().map_err(|source| KernelError::Program { program: name, source: Box::new(source) })?;
    }
    let fail = |source| KernelError::Program { program: RECEIVE, source: Box::new(source) };
    let btf = Btf::from_sys_fs().map_err(|error| fail(ProgramError::Btf(error)))?;
    match ebpf.program_mut(RECEIVE) {
        Some(Program::BtfTracePoint(program)) => program.load(RECEIVE_TRACEPOINT, &btf).map_err(fail),
        _ => Err(KernelError::Missing { program: RECEIVE }),
    }
}

/// Puts the probes on one library. The programs that sit there then.
fn probe(ebpf: &mut Ebpf, library: &Path) -> Result<BTreeSet<&'static str>, KernelError> {
    let mut programs = BTreeSet::from([RETURN]);
    for call in &CALLS {
        let attached = attach(ebpf, call.program, call.function, library)
            .and_then(|()| if call.returns { attach(ebpf, RETURN, call.function, library) } else { Ok(()) });
        match attached {
            Err(error) if call.is_required => {
                let path = library.to_owned();
                return Err(KernelError::TlsProbe { path, function: call.function, source: Box::new(error) });
            }
            Err(error) => tracing::debug!(
                function = call.function,
                error = &error as &dyn std::error::Error,
                "no probe on a function that not every OpenSSL has"
            ),
            Ok(()) => {
                programs.insert(call.program);
            }
        }
    }
    Ok(programs)
}

fn attach(ebpf: &mut Ebpf, program: &str, function: &str, library: &Path) -> Result<(), ProgramError> {
    match ebpf.program_mut(program) {
        Some(Program::UProbe(program)) => {
            program.attach(function, library, UProbeScope::AllProcesses).map(drop)
        }
        _ => Err(ProgramError::NotLoaded),
    }
}
