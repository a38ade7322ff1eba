//! Hands the programs to the kernel's verifier. What becomes of them there is known here; where they are attached is not.

use std::collections::BTreeMap;
use std::thread;

use aya::programs::Program;
use aya::{Btf, Ebpf};

use super::KernelError;
use super::hooks::{ATTACHMENTS, Attachment};

/// Loads every program that is attached, side by side: the verifier is most of an agent's start, and goes through each by
/// itself, on as many CPUs as ask it. Whether those that read requests are among them, where they are wanted: a kernel that
/// refuses one of these gets all the others.
pub(super) fn attached_programs(ebpf: &mut Ebpf, reads_requests: bool) -> Result<bool, KernelError> {
    let wanted = |attachment: &&Attachment| reads_requests || !attachment.is_optional();
    // Threads have the capabilities of the one that starts them.
    let mut results: BTreeMap<&'static str, Result<(), KernelError>> = thread::scope(|scope| {
        let begin = |(name, program)| {
            let attachment =
                ATTACHMENTS.iter().filter(wanted).find(|attachment| attachment.program == name)?;
            Some((attachment.program, scope.spawn(move || load(attachment.program, program))))
        };
        let loads: Vec<_> = ebpf.programs_mut().filter_map(begin).collect();
        let end = |load: thread::ScopedJoinHandle<'_, _>| {
            load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        loads.into_iter().map(|(name, load)| (name, end(load))).collect()
    });
    let mut requests = reads_requests;
    for attachment in ATTACHMENTS.iter().filter(wanted) {
        let missing = Err(KernelError::Missing { program: attachment.program });
        match results.remove(attachment.program).unwrap_or(missing) {
            Err(error) if attachment.is_optional() => {
                tracing::warn!("{error}; requests are not read");
                requests = false;
            }
            result => result?,
        }
    }
    Ok(requests)
}

fn load(name: &'static str, program: &mut Program) -> Result<(), KernelError> {
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => return Err(KernelError::Missing { program: name }),
    };
    loaded.map_err(|source| KernelError::Program { program: name, source: Box::new(source) })
}

/// Loads a walk over sockets, where this kernel takes it.
pub(super) fn walk(ebpf: &mut Ebpf, name: &'static str) -> bool {
    let Ok(btf) = Btf::from_sys_fs() else { return false };
    match ebpf.program_mut(name) {
        Some(Program::Iter(walk)) => match walk.load("bpf_sk_storage_map", &btf) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(
                    program = name,
                    error = &error as &dyn std::error::Error,
                    "the walk over sockets does not load"
                );
                false
            }
        },
        _ => false,
    }
}
