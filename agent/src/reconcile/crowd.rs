//! Services that found no free backend id: the ids of what they replace are still taken. They wait, and move over in
//! parts when waiting alone would not help.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_ebpf::abi::Endpoint;

use super::report::{Need, Refusal, Report};
use super::{Changed, Reconciler};
use crate::compile::Family;
use crate::desired::{BackendSpec, ServiceSpec};
use crate::kernel::Tables;

impl<T: Tables> Reconciler<T> {
    /// Tries again what found no id, now that some may have come back. What finds none again waits for the next tick,
    /// and until then takes the backends it can have.
    pub(super) fn intend_waiting(
        &mut self,
        specs: &[Arc<ServiceSpec>],
        work: &mut BTreeSet<u32>,
        report: &mut Report,
    ) {
        let (changed, still) = self.compile_all(specs, &mut Need::default(), report);
        self.intend_all(changed, work, report);
        for spec in &still {
            let part = Arc::new(self.part_of(spec));
            let (changed, _) = self.compile_all(&[part], &mut Need::default(), report);
            self.intend_all(changed, work, report);
            let reason = format!(
                "service {}: not every backend has a free id yet; the rest follow when those they replace have lost \
                 their connections",
                spec.name
            );
            report.refused.push(Refusal::new(&spec.name, reason));
        }
        self.waiting = still;
    }

    fn intend_all(&mut self, changed: Vec<Changed>, work: &mut BTreeSet<u32>, report: &mut Report) {
        self.ids.settle();
        self.release_claims(&changed, &[]);
        for changed in changed {
            self.intend(changed, work, report);
        }
    }

    /// The service with those backends it can have now. Where none of them would take connections, it keeps half of
    /// those it has, so that the other half makes room.
    fn part_of(&self, spec: &ServiceSpec) -> ServiceSpec {
        let mut left = self.ids.backends_left();
        let mut part = spec.clone();
        part.backends.retain(|backend| {
            let endpoint = Endpoint::from(backend.address);
            let service = self.ids.service_of(&spec.name, Family::of(&endpoint));
            if service.is_some_and(|service| self.ids.has_backend(service, endpoint)) {
                return true;
            }
            let room = left > 0;
            left = left.saturating_sub(1);
            room
        });
        let takes = |backend: &BackendSpec| backend.weight > 0 && !backend.draining;
        if !part.backends.iter().any(takes)
            && let Some(old) = self.seen.get(&spec.name)
        {
            // The old backends may have none of the versions of the new split.
            part.backends = old.backends[..old.backends.len() / 2].to_vec();
            part.policy.split.clear();
        }
        part
    }
}
