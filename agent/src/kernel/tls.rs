//! Puts probes on OpenSSL, in the libraries the operator named, for all processes that use them, now or later. Does so once,
//! while the agent still has the rights to; the probes go when it goes. Knows no request.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
pub(super) const MAPS: [&str; 2] = ["TLS_CALLS", "TLS_SESSIONS"];

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

/// Loads the programs and puts them in place. Whether this kernel took them; one that does not gets all others.
///
/// # Errors
/// A library that is no OpenSSL, which the operator is to know of at once.
pub(super) fn read(ebpf: &mut Ebpf, libraries: &[PathBuf], features: &Features) -> Result<bool, KernelError> {
    if !features.tracing_allocates {
        tracing::warn!("what is said inside TLS is not read: that takes Linux 6.1 or later");
        return Ok(false);
    }
    if let Err(error) = load(ebpf) {
        tracing::warn!("{error}; what is said inside TLS is not read");
        return Ok(false);
    }
    // One file by two names would be probed, and cost, twice.
    let mut probed = BTreeSet::new();
    for library in libraries {
        let metadata = std::fs::metadata(library)
            .map_err(|source| KernelError::TlsLibrary { path: library.clone(), source })?;
        if !probed.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        probe(ebpf, library)?;
        tracing::info!(library = %library.display(), "what is said inside TLS is read");
    }
    // Last: whatever is received before, is received by nobody who is in a call.
    match ebpf.program_mut(RECEIVE) {
        Some(Program::BtfTracePoint(program)) => match program.attach() {
            Ok(_) => Ok(true),
            Err(error) => {
                let error = KernelError::Program { program: RECEIVE, source: Box::new(error) };
                tracing::warn!("{error}; what is said inside TLS is not read");
                Ok(false)
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

/// Puts the probes on one library.
fn probe(ebpf: &mut Ebpf, library: &Path) -> Result<(), KernelError> {
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
            Ok(()) => {}
        }
    }
    Ok(())
}

fn attach(ebpf: &mut Ebpf, program: &str, function: &str, library: &Path) -> Result<(), ProgramError> {
    match ebpf.program_mut(program) {
        Some(Program::UProbe(program)) => {
            program.attach(function, library, UProbeScope::AllProcesses).map(drop)
        }
        _ => Err(ProgramError::NotLoaded),
    }
}
