//! Acts a story out: configuration, desired state, reconciler, maps in memory. Knows nothing of the kernel.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use agent_ebpf::abi::{BackendStatus, Endpoint, FrontendKey, Protocol};
use anyhow::{Context, Result, bail, ensure};
use segue_agent::config;
use segue_agent::desired::{Change, Desired};
use segue_agent::kernel::fake::{FakeTables, Faults};
use segue_agent::kernel::{Capacity, Tables as _};
use segue_agent::reconcile::{Reconciler, Report, dump};

use super::{Step, Story};

/// Retries after which a story gives up: at 10 % faults, one in 10²⁰⁰ would need more.
const RETRIES: usize = 200;

/// Ticks without a failure after which nothing moves by itself any more.
const CALM_TICKS: usize = 10;

/// What a story may look like when nothing else is said: small enough to render, large enough for `maglev`.
const CAPACITY: Capacity =
    Capacity { frontends: 64, services: 32, policies: 64, slots: 65_536, backends: 128 };

/// One run of one story.
pub struct Teller {
    capacity: Capacity,
    percent: u64,
    seed: u64,
    crash: Option<u64>,
    desired: Desired,
    reconciler: Option<Reconciler<FakeTables>>,
    /// What was wrong with the last apply, and not yet expected.
    problems: String,
    /// Id and generation of every backend the maps held after the last apply.
    ids: BTreeMap<(String, SocketAddr), (u32, u32)>,
}

impl Teller {
    /// A run in which this seed decides which writes fail.
    pub fn new(seed: u64) -> Self {
        Self {
            capacity: CAPACITY,
            percent: 10,
            seed,
            crash: None,
            desired: Desired::default(),
            reconciler: None,
            problems: String::new(),
            ids: BTreeMap::new(),
        }
    }

    /// Acts the story out. Gives the line and the actual text of each expectation that was not met.
    ///
    /// # Errors
    /// The story cannot go on: a step is impossible, problems nobody expected, an id that changed, or maps that are
    /// not empty at the end.
    pub fn tell(mut self, story: &Story) -> Result<Vec<(usize, String)>> {
        let mut differences = Vec::new();
        for (line, step) in story.steps() {
            let actual = self.act(step).with_context(|| format!("line {line}"))?;
            differences.extend(actual.map(|actual| (line, actual)));
        }
        ensure!(self.problems.is_empty(), "at the end: nobody expected:\n{}", self.problems);
        let left = self.maps()?;
        ensure!(left.is_empty(), "a story ends with empty maps; these hold:\n{left}");
        let used: u32 = self.reconciler().fill().iter().map(|fill| fill.used).sum();
        ensure!(used == 0, "{used} entries are still taken: {:?}", self.reconciler().fill());
        Ok(differences)
    }

    /// Takes a step; gives the actual text where it is not what the step expects.
    fn act(&mut self, step: &Step) -> Result<Option<String>> {
        if !self.problems.is_empty() && !matches!(step, Step::ExpectProblems(_)) {
            bail!("nobody expected these problems of the step before:\n{}", self.problems);
        }
        match step {
            Step::Capacity(map, entries) => self.set_capacity(map, *entries)?,
            Step::Faults(percent) => self.percent = *percent,
            Step::Apply(yaml) => self.apply(yaml)?,
            Step::Crash(writes) => self.crash = Some(*writes),
            Step::Restart => self.restart()?,
            Step::Connections(address, count) => {
                let id = self.backend_id(*address)?;
                self.reconciler().tables_mut().set_active(id, *count);
                self.settle()?;
            }
            Step::Foreign(address) => {
                let key = FrontendKey::new((*address).into(), Protocol::Tcp as u8);
                self.reconciler().tables_mut().image_mut().frontends.insert(key, 1);
            }
            Step::Repair => self.repair()?,
            Step::ExpectMaps(expected) => {
                let actual = self.maps()?;
                return Ok((actual != *expected).then_some(actual));
            }
            Step::ExpectProblems(expected) => {
                let actual = std::mem::take(&mut self.problems);
                return Ok((actual != *expected).then_some(actual));
            }
        }
        Ok(None)
    }

    fn set_capacity(&mut self, map: &str, entries: u32) -> Result<()> {
        ensure!(self.reconciler.is_none(), "capacities come before everything else");
        let field = match map {
            "frontends" => &mut self.capacity.frontends,
            "services" => &mut self.capacity.services,
            "policies" => &mut self.capacity.policies,
            "slots" => &mut self.capacity.slots,
            "backends" => &mut self.capacity.backends,
            _ => bail!("no map {map}"),
        };
        *field = entries;
        Ok(())
    }

    fn reconciler(&mut self) -> &mut Reconciler<FakeTables> {
        let capacity = self.capacity;
        self.reconciler.get_or_insert_with(|| Reconciler::new(FakeTables::new(capacity)))
    }

    fn maps(&mut self) -> Result<String> {
        let reconciler = self.reconciler();
        Ok(dump(reconciler.tables(), &reconciler.directory())?)
    }

    fn apply(&mut self, yaml: &str) -> Result<()> {
        match config::parse(yaml.as_bytes(), Path::new("story")) {
            Ok(parsed) => self.desired.apply(Change::Reset(parsed.services)),
            Err(error) => {
                self.problems = lines(&error.to_string());
                return Ok(());
            }
        }
        if let Some(after) = self.crash.take() {
            self.reconciler().tables_mut().set_faults(Faults::Dead { after });
            // Whatever it reports, nobody is left to read it.
            let _ = self.reconcile();
            self.restart()?;
        }
        self.set_faults();
        match self.reconcile() {
            Ok(report) => {
                for refusal in &report.refused {
                    self.problems.push_str(&lines(&refusal.reason));
                }
                self.settle()
            }
            Err(refused) => {
                self.problems = lines(&refused);
                Ok(())
            }
        }
    }

    fn reconcile(&mut self) -> Result<Report, String> {
        let desired = self.desired.clone();
        self.reconciler().apply(&desired).map_err(|error| error.to_string())
    }

    fn set_faults(&mut self) {
        let faults = Faults::Percent { percent: self.percent, seed: self.seed };
        // Another apply, other faults.
        self.seed = self.seed.wrapping_add(1);
        self.reconciler().tables_mut().set_faults(faults);
    }

    /// Lets ticks pass until everything is written, or waits for connections to end, and checks that nothing changed
    /// its id on the way.
    fn settle(&mut self) -> Result<()> {
        let mut calm = 0;
        for _ in 0..RETRIES {
            let report = self.reconciler().idle();
            calm = if report.failed.is_empty() { calm + 1 } else { 0 };
            if (report.pending == 0 && calm > 0) || calm == CALM_TICKS {
                return self.check_ids();
            }
        }
        bail!("still not written after {RETRIES} retries")
    }

    /// Looks for drift until there is none.
    fn repair(&mut self) -> Result<()> {
        for _ in 0..RETRIES {
            let report = self.reconciler().repair();
            if report.failed.is_empty() && report.repaired.total() == 0 {
                return self.settle();
            }
        }
        bail!("still not repaired after {RETRIES} checks")
    }

    fn restart(&mut self) -> Result<()> {
        let Some(reconciler) = self.reconciler.take() else { return Ok(()) };
        let mut tables = reconciler.into_tables();
        tables.set_faults(Faults::Never);
        let mut next = Reconciler::new(tables);
        next.adopt()?;
        self.reconciler = Some(next);
        // The new agent reads the same configuration, as values of its own.
        let specs = self.desired.services().map(|spec| std::sync::Arc::new((**spec).clone())).collect();
        self.desired = Desired::default();
        self.desired.apply(Change::Reset(specs));
        self.set_faults();
        if self.crash.is_none() {
            let _ = self.reconcile().map_err(anyhow::Error::msg)?;
            self.settle()?;
        }
        Ok(())
    }

    fn backend_id(&mut self, address: SocketAddr) -> Result<u32> {
        let endpoint = Endpoint::from(address);
        let backends = &self.reconciler().tables().image().backends;
        let used = |status| status != BackendStatus::Vacant as u16;
        let place = backends.iter().position(|backend| backend.endpoint == endpoint && used(backend.status));
        let place = place.with_context(|| format!("no backend {address}"))?;
        Ok(u32::try_from(place)?)
    }

    /// A backend that stays in its service keeps its id, whatever else happens: its counts hang on it.
    fn check_ids(&mut self) -> Result<()> {
        let reconciler = self.reconciler();
        let mut ids = BTreeMap::new();
        for service in reconciler.directory().services() {
            for backend in service.backends.iter() {
                let record = reconciler.tables().backend(backend.id);
                if record.endpoint == backend.record.endpoint && record.service == service.id {
                    let key = (service.spec.name.to_string(), record.endpoint.into());
                    ids.insert(key, (backend.id, record.generation));
                }
            }
        }
        for (backend, id) in &ids {
            let before = self.ids.get(backend).unwrap_or(id);
            ensure!(before == id, "{backend:?} had id and generation {before:?} and now has {id:?}");
        }
        self.ids = ids;
        Ok(())
    }
}

fn lines(text: &str) -> String {
    format!("{}\n", text.trim_end())
}
