//! Killing the agent at a system call of its own. Knows strace; what the agent calls for is not known here.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use super::{Agent, Build, READY_LIMIT, get};
use crate::program::Program;
use crate::wait::eventually;

impl Agent<'_> {
    /// Starts the agent again under strace, which kills it at its bpf(2) call of this number, counted from 1 on each
    /// thread, before the kernel sees that call. Once it is ready all the same, `then` happens, and what that sets
    /// off may still reach the call until `then` returns. Whether it was killed.
    ///
    /// # Panics
    /// When it ends in another way, with its log.
    pub fn die_at_call(&mut self, call: u32, then: impl FnOnce(&Self)) -> bool {
        let run = self.run_command();
        let mut command = Command::new("strace");
        command.args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=bpf", "-e", "signal=none", "-e"]);
        command
            .arg(format!("inject=bpf:signal=KILL:when={call}"))
            .arg(run.get_program())
            .args(run.get_args());
        self.process = None;
        self.process = Some(self.world.start_outside(command));
        let (namespace, mut died) = (self.world.namespace(), None);
        eventually("the agent to die or to be ready", READY_LIMIT, || {
            died = self.process.as_mut().and_then(Program::ended);
            match (died, get(namespace, "/readyz")) {
                (Some(_), _) | (None, Ok((200, _))) => Ok(()),
                (None, Ok((code, body))) => Err(format!("/readyz says {code}: {body}")),
                (None, Err(error)) => Err(error.to_string()),
            }
        });
        if died.is_none() {
            then(self);
        }
        let mut strace = self.process.take().expect("started above");
        match died.or_else(|| strace.ended()) {
            // strace ends as what it traces does.
            Some(status) if status.signal() == Some(libc::SIGKILL) => true,
            Some(status) => panic!("the agent ended with {status}:\n{}", strace.output()),
            None => {
                for traced in strace.children() {
                    // SAFETY: kill takes integers; the child of a child of ours that has not ended.
                    unsafe { libc::kill(traced, libc::SIGKILL) };
                }
                strace.wait(Duration::from_secs(10));
                false
            }
        }
    }

    /// The same for an agent of another build, to which nothing happens then.
    ///
    /// # Panics
    /// When it ends in another way, with its log.
    pub fn die_at_call_as(&mut self, build: Build, call: u32) -> bool {
        self.build = build;
        self.die_at_call(call, |_| {})
    }
}
