//! Who else has programs at the hooks: what is remembered of it, and what is said aloud when it changes. Asks nobody.

use std::collections::BTreeSet;

use crate::admin::view::NeighbourView;
use crate::kernel::Neighbour;

/// Cgroups below the managed one are looked at every so many rounds: a minute.
const BELOW_EVERY: u64 = 6;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    rounds: u64,
    here: Vec<Neighbour>,
    below: Vec<Neighbour>,
    /// Those that were told of: program, order and whether it is of here.
    told: BTreeSet<(String, &'static str, bool)>,
}

impl Neighbours {
    /// Takes in one look around; `look` finds who is there, or below.
    pub(super) fn round(&mut self, look: impl Fn(bool) -> Vec<Neighbour>) {
        self.here = look(false);
        if self.rounds.is_multiple_of(BELOW_EVERY) {
            self.below = look(true);
        }
        self.rounds += 1;
        self.tell();
    }

    /// Says who is new among those that may translate addresses, and who is gone. Those of many cgroups are told of once.
    fn tell(&mut self) {
        let of = |neighbours: &[Neighbour], is_here| -> BTreeSet<_> {
            let translating = neighbours.iter().filter(|neighbour| neighbour.may_translate());
            translating.map(|it| (it.program.clone(), it.order.name(), is_here)).collect()
        };
        let mut now = of(&self.here, true);
        now.extend(of(&self.below, false));
        for (program, order, is_here) in now.difference(&self.told) {
            let all = if *is_here { &self.here } else { &self.below };
            let Some(first) = all.iter().find(|it| it.program == *program && it.order.name() == *order)
            else {
                continue;
            };
            tracing::warn!(
                program,
                of = first.owner().unwrap_or("somebody unknown"),
                cgroup = %first.cgroup.display(),
                runs = order,
                "another program may translate addresses at the hooks Segue uses; `segue status` says what that means"
            );
        }
        for (program, order, _) in self.told.difference(&now) {
            tracing::info!(
                program,
                ran = order,
                "a program of somebody else is gone from the hooks Segue uses"
            );
        }
        self.told = now;
    }

    /// Everybody, those here first.
    pub(super) fn views(&self) -> Vec<NeighbourView> {
        let all = self.here.iter().chain(&self.below);
        all.map(|neighbour| NeighbourView {
            hook: neighbour.hook.name().to_owned(),
            program: neighbour.program.clone(),
            id: neighbour.id,
            owner: neighbour.owner().map(str::to_owned),
            cgroup: neighbour.cgroup.display().to_string(),
            order: neighbour.order.name().to_owned(),
            may_translate: neighbour.may_translate(),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::abi::Hook;

    use super::*;
    use crate::kernel::Order;

    fn cilium(id: u32, cgroup: &str) -> Neighbour {
        let (hook, program) = (Hook::Connect4, "cil_sock4_conne".to_owned());
        Neighbour { hook, order: Order::Before, id, program, cgroup: cgroup.into() }
    }

    #[test]
    fn cgroups_below_are_looked_at_now_and_then_and_many_of_them_are_one_thing_to_tell() {
        let mut neighbours = Neighbours::default();
        let looked = std::cell::Cell::new(0);
        let look = |below| match below {
            false => vec![],
            true => {
                looked.set(looked.get() + 1);
                vec![cilium(1, "/a"), cilium(2, "/b")]
            }
        };
        for _ in 0..7 {
            neighbours.round(look);
        }
        assert_eq!((looked.get(), neighbours.views().len(), neighbours.told.len()), (2, 2, 1));
        assert_eq!(neighbours.views()[0].owner.as_deref(), Some("Cilium"));
        (0..6).for_each(|_| neighbours.round(|_| vec![]));
        assert_eq!((neighbours.views().len(), neighbours.told.len()), (0, 0));
    }
}
