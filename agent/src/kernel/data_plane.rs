//! Loading, attaching and adopting the programs. After [`DataPlane::attach`] the data plane needs no agent.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use agent_ebpf::abi::Hook;
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};

use super::bpf;
use super::cgroup::Cgroup;
use super::counters::Counters;
use super::events::EventReader;
use super::hooks::{ATTACHMENTS, Attachment, DRAIN_PROGRAM, MAPS, SAMPLE_PROGRAM};
use super::inheritance::{self, Predecessor};
use super::layout::{self, Layout};
use super::loading;
use super::mapped::MappedArray;
use super::neighbours::{self, Neighbour};
use super::privileges;
use super::probe::{self, Features};
use super::program_log::ProgramLog;
use super::tables::{KernelTables, Plain};
use super::tls::{self, LibraryState, Probes};
use super::{KernelError, MapStatus, ProgramStatus};

/// The kernel object, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/segue-dataplane.o"));

/// The same without compare-and-swap, for kernels before 5.12.
static OBJECT_5_10: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/segue-dataplane-5.10.o"));

/// The loaded data plane. Dropping it detaches nothing.
pub struct DataPlane {
    layout: Layout,
    cgroup: Cgroup,
    features: Features,
    /// Requests are read now, where they can be at all.
    reading: bool,
    /// Reading was switched off meanwhile: that its programs are not attached says nothing.
    rested: bool,
    adopted: bool,
    /// The probes in libraries; `None` where there are none.
    probes: Option<Probes>,
    ebpf: Ebpf,
    /// The kernel's ids of the maps, in the order of `MAPS`; 0 where it did not say.
    map_ids: [u32; MAPS.len()],
    /// Held as long as this agent lives.
    lock: Mutex<File>,
}

impl DataPlane {
    /// Loads the programs into the kernel, with the maps that are pinned or new ones. Attaches nothing yet.
    /// `reads_requests`: those as well that read requests; `tls`: also those inside TLS, of programs that use these libraries.
    pub fn load(
        cgroup: Option<&Path>,
        bpffs: &Path,
        reads_requests: bool,
        tls: &[PathBuf],
    ) -> Result<Self, KernelError> {
        tls::check(tls)?;
        let cgroup = Cgroup::open(cgroup)?;
        let missing = privileges::missing();
        if !missing.is_empty() {
            return Err(KernelError::Unprivileged { missing });
        }
        let mut features = probe::features().map_err(KernelError::NoEbpf)?;
        layout::ensure_bpffs(bpffs)?;
        let layout = Layout::new(bpffs);
        layout.create()?;
        let lock = layout.lock()?;
        let predecessor = Predecessor::find(&layout);
        if predecessor.is_some() {
            Predecessor::clear_unused(&layout)?;
        }
        let mut adopted = layout.map("SERVICES").exists();
        refuse_foreign_pins(&layout)?;
        let inside = if tls.is_empty() { 0 } else { cgroup.id() };
        let mut ebpf = open_object(&layout, &features, inside)?;
        if let Some(predecessor) = predecessor {
            let inherited = predecessor.hand_over(&layout)?;
            adopted = inherited.has_tables();
            tracing::info!(
                shared = inherited.shared.join(" "),
                copied = inherited.copied.join(" "),
                anew = inherited.anew.join(" "),
                "taking over from an agent with other layouts"
            );
            // With the maps that are shared in the place of those that were made.
            drop(ebpf);
            ebpf = open_object(&layout, &features, inside)?;
        }
        inheritance::leave_word(&layout)?;
        features.requests = loading::attached_programs(&mut ebpf, reads_requests)?;
        let mut probes = None;
        if !tls.is_empty() {
            if features.requests {
                probes = tls::read(&mut ebpf, tls, &features)?;
            }
            features.tls = Some(probes.is_some());
        }
        features.sample = features.tcp_sock.is_some() && loading::walk(&mut ebpf, SAMPLE_PROGRAM);
        let walks = features.tcp_sock.is_some() && features.socket.is_some();
        features.drain = walks && loading::walk(&mut ebpf, DRAIN_PROGRAM);
        let id = |map: &str| {
            let pin = bpf::open_pin(&layout.map(map)).ok()?;
            bpf::map_id(pin.as_fd()).ok().flatten()
        };
        let map_ids = MAPS.map(|map| id(map).unwrap_or_default());
        Ok(Self {
            layout,
            cgroup,
            features,
            reading: true,
            rested: false,
            adopted,
            probes,
            ebpf,
            map_ids,
            lock: Mutex::new(lock),
        })
    }

    /// What the programs log. There is one reader; the next call finds nothing.
    pub fn log(&mut self) -> Result<ProgramLog, KernelError> {
        ProgramLog::new(&mut self.ebpf)
    }

    /// Whether the maps were there before.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// What this kernel can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The managed cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The maps the agent owns.
    pub fn tables(&self) -> Result<KernelTables, KernelError> {
        KernelTables::new(self)
    }

    /// What the kernel counts.
    pub fn counters(&self) -> Result<Counters, KernelError> {
        Counters::new(self)
    }

    /// The event ring. One reader at a time.
    pub fn events(&self) -> Result<EventReader, KernelError> {
        EventReader::new("EVENTS", &self.layout.map("EVENTS"))
    }

    /// The reader of the ring of requests.
    pub fn request_events(&self) -> Result<EventReader, KernelError> {
        EventReader::new("REQUEST_EVENTS", &self.layout.map("REQUEST_EVENTS"))
    }

    /// An array map, to be used as memory.
    pub(super) fn array<T: Copy + Default>(&self, name: &'static str) -> Result<MappedArray<T>, KernelError> {
        let path = self.layout.map(name);
        let fail = |source| KernelError::Map { map: name, path: path.clone(), source };
        let map = bpf::open_pin(&path).map_err(fail)?;
        let (entries, _) = bpf::describe_map(map.as_fd()).map_err(fail)?;
        MappedArray::new(map, u32::try_from(entries).unwrap_or(u32::MAX)).map_err(fail)
    }

    pub(super) fn map_path(&self, name: &str) -> PathBuf {
        self.layout.map(name)
    }

    /// A walk over sockets, where this kernel took it.
    pub(super) fn walk_program(&self, name: &str) -> Option<OwnedFd> {
        match self.ebpf.program(name) {
            Some(Program::Iter(walk)) => walk.fd().ok()?.as_fd().try_clone_to_owned().ok(),
            _ => None,
        }
    }

    /// Goes on with the cgroup that is at the managed path now, where the one there was is gone and somebody made it anew.
    /// Whether that is so; then everything is to be attached.
    pub fn follow_cgroup(&mut self) -> bool {
        if self.cgroup.is_at_its_path() {
            return false;
        }
        match Cgroup::open(Some(self.cgroup.path())) {
            Ok(cgroup) => {
                self.cgroup = cgroup;
                true
            }
            Err(error) => {
                tracing::error!("the managed cgroup is gone: {error}");
                false
            }
        }
    }

    /// Whether the maps are pinned, and nothing else is in their place. What cannot be looked at counts as ours.
    pub fn pins_are_ours(&self) -> bool {
        (0..MAPS.len()).all(|index| self.pin_of(index) == PinState::Ours)
    }

    /// When the maps were pinned, which is when they began to count; `None` where their pins cannot be looked at.
    pub fn pinned_at(&self) -> Option<std::time::SystemTime> {
        std::fs::metadata(self.layout.map(MAPS[0])).ok()?.modified().ok()
    }

    fn pin_of(&self, index: usize) -> PinState {
        match bpf::open_pin(&self.layout.map(MAPS[index])) {
            Ok(pin) => match bpf::map_id(pin.as_fd()) {
                Ok(id) if self.map_ids[index] != 0 && id != Some(self.map_ids[index]) => PinState::Foreign,
                _ => PinState::Ours,
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => PinState::Missing,
            Err(_) => PinState::Ours,
        }
    }

    /// Puts the loaded programs in force: a link that is pinned gets the new program in place, without a moment
    /// in between; one that is missing, or holds on to another cgroup, is made anew. The order is that of
    /// `ATTACHMENTS`. May be called again at any time; it repairs what is broken.
    pub fn attach(&self) -> Result<Vec<Repair>, KernelError> {
        self.restore_pins()?;
        let mut repairs = Vec::new();
        for attachment in ATTACHMENTS {
            if !self.wants(&attachment) {
                // What an agent before this one attached.
                layout::remove_link(&self.layout.link(attachment.hook))?;
            } else if let Some(repair) = self.attach_one(attachment)? {
                repairs.push(repair);
            }
        }
        for version in self.layout.other_versions() {
            layout::remove_version(&version, &mut layout::Unloaded::default())?;
        }
        Ok(repairs)
    }

    /// Has requests read or not, from the next [`DataPlane::attach`] on; whether that is a change.
    pub fn set_reading(&mut self, reading: bool) -> bool {
        self.rested |= !reading;
        std::mem::replace(&mut self.reading, reading) != reading && self.features.requests
    }

    /// Whether a program is to be attached.
    fn wants(&self, attachment: &Attachment) -> bool {
        self.features.requests && self.reading || !attachment.is_optional()
    }

    /// Pins the maps again where somebody removed their pins, or put something else there: the next agent would begin anew
    /// without them, or with what is not ours.
    fn restore_pins(&self) -> Result<(), KernelError> {
        let states = (0..MAPS.len()).map(|index| (MAPS[index], self.pin_of(index)));
        let missing: Vec<_> = states.filter(|(_, state)| *state != PinState::Ours).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.layout.create()?;
        // The directory may be another one now, which nobody has locked.
        let held = self.layout.lock();
        for &(name, state) in &missing {
            let path = self.layout.map(name);
            if state == PinState::Foreign {
                remove_pin(&path)?;
            }
            let map = self.ebpf.map(name).ok_or(KernelError::Missing { program: name })?;
            map.pin(&path)
                .map_err(|error| KernelError::Pins { path, source: std::io::Error::other(error) })?;
        }
        match held {
            Ok(lock) => *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock,
            // The same directory as before: it is this agent that holds it.
            Err(KernelError::AnotherAgent { .. }) => {}
            Err(error) => return Err(error),
        }
        tracing::warn!(maps = missing.len(), "pins were gone, or somebody else's; pinned anew");
        Ok(())
    }

    fn attach_one(&self, attachment: Attachment) -> Result<Option<Repair>, KernelError> {
        let hook = attachment.hook;
        // The pin moves before the program is replaced: an agent that is killed in between finds that it has taken over.
        self.layout.inherit_link(hook);
        let program = self.program_fd(attachment.program)?;
        let pin = self.layout.link(hook);
        let fail = |source| KernelError::Attach { hook, cgroup: self.cgroup.path().to_owned(), source };
        let mut repair = None;
        if let Ok(link) = bpf::open_pin(&pin) {
            match bpf::cgroup_link(link.as_fd()) {
                Ok(Some(state))
                    if state.cgroup == self.cgroup.id() && state.attach_type == attachment.attach_type =>
                {
                    return bpf::update_link(link.as_fd(), program.as_fd()).map(|()| None).map_err(fail);
                }
                _ => repair = Some(Repair { hook, found: "a link to something else" }),
            }
            remove_pin(&pin)?;
        } else if self.adopted && !(self.rested && attachment.is_optional()) {
            repair = Some(Repair { hook, found: "no link" });
            // Something that is not a link may sit in its place.
            let _ = std::fs::remove_file(&pin);
        }
        let link = privileges::switched_on(privileges::TO_ATTACH, || {
            bpf::link_to_cgroup(program.as_fd(), self.cgroup.fd(), attachment.attach_type)
        })
        .map_err(fail)?;
        bpf::pin(link.as_fd(), &pin).map_err(|source| KernelError::Pins { path: pin, source })?;
        Ok(repair)
    }

    fn program_fd(&self, name: &'static str) -> Result<OwnedFd, KernelError> {
        let fail = |source| KernelError::Program { program: name, source };
        let program = self.ebpf.program(name).ok_or(KernelError::Missing { program: name })?;
        let fd = program.fd().map_err(|error| fail(Box::new(error)))?;
        fd.as_fd()
            .try_clone_to_owned()
            .map_err(|error| fail(Box::new(aya::programs::ProgramError::from(error))))
    }

    /// Whether each program is attached to the managed cgroup right now, as its pinned link says; and those that sit in libraries,
    /// which only go with the agent. Walks are not among them: they run while the agent reads, in its own time.
    pub fn programs(&self) -> Vec<ProgramStatus> {
        let wanted = ATTACHMENTS.iter().filter(|attachment| self.wants(attachment));
        let inside = self.probes.iter().flat_map(Probes::programs);
        wanted
            .map(|attachment| {
                let link = bpf::open_pin(&self.layout.link(attachment.hook)).ok();
                let state = link.and_then(|link| bpf::cgroup_link(link.as_fd()).ok().flatten());
                let here = state.filter(|state| state.cgroup == self.cgroup.id());
                let status = self.program(attachment.program, attachment.hook);
                ProgramStatus {
                    attached: status.id.is_some() && here.map(|state| state.program) == status.id,
                    ..status
                }
            })
            .chain(inside.map(|(program, hook)| self.program(program, hook)))
            .collect()
    }

    /// What the kernel says of a program that is taken to be attached.
    fn program(&self, program: &'static str, hook: Hook) -> ProgramStatus {
        let ours = self.program_fd(program).ok().and_then(|program| bpf::program(program.as_fd()).ok());
        let counted = ours.as_ref().filter(|ours| ours.runs > 0);
        ProgramStatus {
            program,
            hook,
            id: ours.as_ref().map(|ours| ours.id),
            attached: true,
            runs: counted.map(|ours| ours.runs),
            run_time_ns: counted.map(|ours| ours.run_time_ns),
            verified_instructions: ours
                .as_ref()
                .map(|ours| u64::from(ours.verified_instructions))
                .filter(|&count| count > 0),
        }
    }

    /// The libraries inside whose calls is read, and what has become of each.
    pub fn tls_libraries(&self) -> Vec<(PathBuf, LibraryState)> {
        self.probes.as_ref().map(Probes::libraries).unwrap_or_default()
    }

    /// Every map: its size, and its memory as the kernel accounts it.
    pub fn maps(&self) -> Vec<MapStatus> {
        MAPS.iter()
            .map(|&name| {
                let description =
                    bpf::open_pin(&self.layout.map(name)).ok().map(|map| bpf::describe_map(map.as_fd()));
                let (max_entries, bytes) = description.and_then(Result::ok).unwrap_or_default();
                MapStatus { name, entries: 0, max_entries, bytes }
            })
            .collect()
    }

    /// Programs of others that act on the processes of the managed cgroup itself, or, `below`, on those of the cgroups below
    /// it. To be called on the control thread: to ask takes a capability that no other has.
    pub fn neighbours(&self, below: bool) -> Vec<Neighbour> {
        let ours = self.programs().iter().filter_map(|program| Some((program.hook, program.id?))).collect();
        privileges::switched_on(privileges::TO_NAME, || match below {
            false => neighbours::here(&self.cgroup, &ours),
            true => neighbours::below(&self.cgroup, &ours),
        })
    }
}

/// Opens the object with the maps that are pinned, or with new ones that are pinned then. No program is loaded yet. `inside`: the
/// cgroup for whose processes TLS is read; 0: it is not.
fn open_object(layout: &Layout, features: &Features, inside: u64) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    let reads_tls = u8::from(inside != 0);
    if inside == 0 {
        // Nobody will put anything there.
        for map in tls::MAPS {
            loader.map_max_entries(map, 1);
        }
    }
    for map in MAPS {
        loader.map_pin_path(map, layout.map(map));
    }
    let retval = u8::from(features.set_retval);
    let offsets = features
        .tcp_sock
        .map(|at| [at.bytes_acked, at.bytes_received, at.srtt, at.retransmits, at.state, at.error]);
    let socket = Plain(features.socket.unwrap_or_default());
    let [acked, received, srtt, retransmits, state, error] = offsets.unwrap_or_default();
    loader
        .override_global("HAS_SET_RETVAL", &retval, true)
        .override_global("READS_TLS", &reads_tls, true)
        .override_global("MANAGED_CGROUP", &inside, true)
        .override_global("TCP_BYTES_ACKED_OFFSET", &acked, true)
        .override_global("TCP_BYTES_RECEIVED_OFFSET", &received, true)
        .override_global("TCP_SRTT_OFFSET", &srtt, true)
        .override_global("TCP_RETRANSMITS_OFFSET", &retransmits, true)
        .override_global("SOCKET_STATE_OFFSET", &state, true)
        .override_global("SOCKET_ERROR_OFFSET", &error, true)
        .override_global("SOCKET_OFFSETS", &socket, true);
    loader
        .load(if features.compare_and_swap { OBJECT } else { OBJECT_5_10 })
        .map_err(|source| KernelError::Load { source: Box::new(source) })
}

/// What is in the place of a map's pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PinState {
    Ours,
    Missing,
    Foreign,
}

/// Refuses to begin with what somebody else put in the place of a map: programs would read it as theirs.
fn refuse_foreign_pins(layout: &Layout) -> Result<(), KernelError> {
    for map in MAPS {
        let path = layout.map(map);
        if let Ok(pin) = bpf::open_pin(&path)
            && bpf::map_name(pin.as_fd()).is_none_or(|name| !map.starts_with(&name))
        {
            return Err(KernelError::Foreign { map, path });
        }
    }
    Ok(())
}

fn remove_pin(path: &Path) -> Result<(), KernelError> {
    std::fs::remove_file(path).map_err(|source| KernelError::Pins { path: path.to_owned(), source })
}

/// A link that was not as it should be when the programs were attached.
#[derive(Clone, Copy, Debug)]
pub struct Repair {
    /// Its hook.
    pub hook: Hook,
    /// What was there instead.
    pub found: &'static str,
}
