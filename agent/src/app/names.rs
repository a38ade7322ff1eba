//! The names that ids have right now: clients from the cgroup hierarchy, services from the reconciler's directory.

use std::sync::Arc;
use std::time::Duration;

use crate::flows::{Cgroups, Client, Names, ServiceLabel, Workload};
use crate::reconcile::Directory;

/// Names as of now.
pub(super) struct LiveNames<'a> {
    pub(super) cgroups: &'a mut Cgroups,
    pub(super) directory: &'a Directory,
    pub(super) now: Duration,
}

impl Names for LiveNames<'_> {
    fn client(&mut self, cgroup: u64) -> Client {
        self.cgroups.resolve(cgroup, self.now)
    }

    fn is_live(&self, workload: &Workload) -> bool {
        self.cgroups.is_live(workload)
    }

    fn service(&self, id: u32) -> Option<ServiceLabel> {
        self.directory.spec_of(id, |spec| {
            Some(ServiceLabel { name: Arc::clone(&spec.name), port: spec.frontends.first()?.port() })
        })?
    }

    fn is_called(&self, id: u32, name: &str) -> bool {
        self.directory.spec_of(id, |spec| *spec.name == *name) == Some(true)
    }

    fn version(&self, service: u32, version: u32) -> Option<Arc<str>> {
        self.directory.version(service, version)
    }
}
