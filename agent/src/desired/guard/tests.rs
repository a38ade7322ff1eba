//! What is held, what goes, and how what is held ends.

use super::*;
use crate::desired::{Desired, PolicySpec, SourceKind};

fn backend(port: u16) -> BackendSpec {
    BackendSpec {
        address: SocketAddr::from(([10, 1, 0, 1], port)),
        weight: 1,
        zone: None,
        version: None,
        draining: false,
    }
}

/// A service with a frontend of its own.
fn service(number: u16, backends: impl IntoIterator<Item = u16>) -> Arc<ServiceSpec> {
    named(&format!("shop/{number:03}"), number, backends)
}

fn named(name: &str, frontend: u16, backends: impl IntoIterator<Item = u16>) -> Arc<ServiceSpec> {
    Arc::new(ServiceSpec {
        name: name.into(),
        protocol: Protocol::Tcp,
        frontends: vec![SocketAddr::from(([198, 18, 0, 1], frontend))],
        backends: backends.into_iter().map(backend).collect(),
        policy: PolicySpec::default(),
    })
}

fn services(numbers: impl IntoIterator<Item = u16>) -> Vec<Arc<ServiceSpec>> {
    numbers.into_iter().map(|number| service(number, [1, 2])).collect()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A guard, what comes through it, and a clock.
struct Source {
    guard: Guard,
    desired: Desired,
    now: Duration,
}

impl Source {
    fn with(holds: Holds, specs: Vec<Arc<ServiceSpec>>) -> Self {
        let mut source = Self { guard: Guard::new(holds), desired: Desired::default(), now: seconds(1_000) };
        source.says(Change::Reset(specs));
        source
    }

    fn says(&mut self, change: Change) {
        let admitted = self.guard.admit(change, self.now);
        self.desired.apply(SourceKind::File, admitted);
    }

    fn accept(&mut self) {
        for change in self.guard.accept(|_| true) {
            self.desired.apply(SourceKind::File, change);
        }
    }

    fn in_force(&self) -> usize {
        self.desired.services().len()
    }

    fn backends(&self, number: u16) -> usize {
        let name = format!("shop/{number:03}");
        self.desired.service(&name).map_or(0, |spec| spec.backends.len())
    }

    fn held(&self) -> Vec<(&str, Loss)> {
        self.guard.held().map(|(name, held)| (&**name, held.loss)).collect()
    }
}

#[test]
fn a_file_that_suddenly_names_nothing_takes_nothing_away() {
    let mut source = Source::with(Holds::WRITTEN, services(0..40));
    source.says(Change::Reset(Vec::new()));
    assert_eq!((source.in_force(), source.held().len()), (40, 40));
    // However often it says so, and however late.
    source.now += WINDOW * 10;
    source.says(Change::Reset(Vec::new()));
    assert_eq!((source.in_force(), source.held().len()), (40, 40));
}

#[test]
fn a_few_or_less_than_half_go_at_once() {
    for (before, after) in [(9, 0), (40, 20), (1_000, 501)] {
        let mut source = Source::with(Holds::WRITTEN, services(0..before));
        source.says(Change::Reset(services(0..after)));
        assert_eq!((source.in_force(), source.held().len()), (usize::from(after), 0), "{before} to {after}");
    }
    for (before, after) in [(10, 0), (19, 9), (40, 19)] {
        let mut source = Source::with(Holds::WRITTEN, services(0..before));
        source.says(Change::Reset(services(0..after)));
        let lost = usize::from(before - after);
        assert_eq!((source.in_force(), source.held().len()), (usize::from(before), lost));
    }
}

#[test]
fn what_else_the_change_says_is_in_force() {
    let mut source = Source::with(Holds::WRITTEN, services(0..40));
    source.says(Change::Reset(vec![service(0, [1, 2, 3]), service(99, [7])]));
    assert_eq!((source.in_force(), source.held().len()), (41, 39));
    assert_eq!((source.backends(0), source.backends(99)), (3, 1));
}

#[test]
fn an_operator_who_accepts_gets_what_the_source_says() {
    let mut source = Source::with(Holds::WRITTEN, services(0..40));
    source.says(Change::Reset(services(0..3)));
    source.accept();
    assert_eq!((source.in_force(), source.held().len()), (3, 0));
    source.says(Change::Reset(services(0..3)));
    assert_eq!((source.in_force(), source.held().len()), (3, 0));
}

#[test]
fn one_service_can_be_let_go_alone() {
    let mut source = Source::with(Holds::WRITTEN, services(0..40));
    source.says(Change::Reset(Vec::new()));
    let changes = source.guard.accept(|name| name == "shop/007");
    assert!(matches!(&changes[..], [Change::Remove(name)] if &**name == "shop/007"), "{changes:?}");
    source.says(Change::Reset(Vec::new()));
    assert_eq!(source.held().len(), 39);
}

#[test]
fn what_the_source_names_again_is_held_no_more_and_the_rest_is() {
    let mut source = Source::with(Holds::WRITTEN, services(0..40));
    source.says(Change::Reset(Vec::new()));
    source.says(Change::Reset(services(0..37)));
    assert_eq!(
        source.held(),
        [37, 38, 39].map(|n| (["shop/037", "shop/038", "shop/039"][n - 37], Loss::Service))
    );
    source.says(Change::Reset(services(0..40)));
    assert_eq!((source.in_force(), source.held().len()), (40, 0));
}

#[test]
fn an_api_server_that_deletes_one_by_one_is_held_once_it_is_a_mass() {
    let mut source = Source::with(Holds::TOLD, services(0..40));
    for number in 0..40 {
        source.says(Change::Remove(format!("shop/{number:03}").as_str().into()));
    }
    assert_eq!((source.in_force(), source.held().len()), (20, 20));
    // Of what is held, nothing trickles away later.
    source.now += WINDOW * 10;
    source.says(Change::Remove("shop/039".into()));
    assert_eq!((source.in_force(), source.held().len()), (20, 20));
    source.accept();
    assert_eq!(source.in_force(), 0);
}

#[test]
fn slow_deletion_is_nobodys_mistake() {
    let mut source = Source::with(Holds::TOLD, services(0..40));
    for number in 0..40 {
        source.now += WINDOW / 5;
        source.says(Change::Remove(format!("shop/{number:03}").as_str().into()));
    }
    assert_eq!((source.in_force(), source.held().len()), (0, 0));
}

#[test]
fn services_that_lose_every_backend_count_as_services_that_go() {
    let mut source = Source::with(Holds::TOLD, services(0..40));
    let emptied: Vec<_> = (0..40).map(|number| service(number, [])).collect();
    source.says(Change::Reset(emptied.clone()));
    assert_eq!((source.backends(0), source.held().len()), (2, 40));
    assert!(source.held().iter().all(|(_, loss)| *loss == Loss::EveryBackend));
    // The endpoints come back elsewhere: then the old ones are really gone.
    source.says(Change::Upsert(service(0, [8])));
    assert_eq!((source.backends(0), source.held().len()), (1, 39));
    source.says(Change::Upsert(emptied[1].clone()));
    assert_eq!((source.backends(1), source.held().len()), (2, 39));
}

#[test]
fn a_single_service_may_be_scaled_down_by_a_machine_but_not_by_a_slip_in_a_file() {
    let scaled = |holds| {
        let mut source = Source::with(holds, vec![service(0, 0..100)]);
        source.says(Change::Upsert(service(0, 0..20)));
        source.backends(0)
    };
    assert_eq!(scaled(Holds::TOLD), 20);
    assert_eq!(scaled(Holds::WRITTEN), 100);
    assert_eq!(scaled(Holds::NOTHING), 20);
}

#[test]
fn backends_that_are_held_stay_beside_new_ones_until_they_are_named_or_let_go() {
    let mut source = Source::with(Holds::WRITTEN, vec![service(0, 0..30)]);
    source.says(Change::Reset(vec![service(0, [0, 1, 99])]));
    assert_eq!((source.backends(0), source.held()), (31, vec![("shop/000", Loss::Backends)]));
    source.says(Change::Reset(vec![service(0, 0..25)]));
    assert_eq!(source.held(), [("shop/000", Loss::Backends)]);
    source.accept();
    assert_eq!((source.backends(0), source.held().len()), (25, 0));
}

#[test]
fn services_under_new_names_are_not_held_beside_themselves() {
    let mut source = Source::with(Holds::WRITTEN, services(0..40));
    let renamed = (0..40).map(|number| named(&format!("store/{number:03}"), number, [1, 2]));
    source.says(Change::Reset(renamed.collect()));
    assert_eq!((source.in_force(), source.held().len()), (40, 0));
}

#[test]
fn where_nothing_is_to_be_held_everything_goes() {
    let mut source = Source::with(Holds::NOTHING, services(0..40));
    source.says(Change::Reset(Vec::new()));
    assert_eq!((source.in_force(), source.held().len()), (0, 0));
}

#[test]
fn what_did_not_change_keeps_its_pointer_also_while_it_is_held() {
    let mut source =
        Source::with(Holds::WRITTEN, services(0..40).into_iter().chain([service(50, 0..30)]).collect());
    let pointers = |source: &Source| -> Vec<_> { source.desired.services().map(Arc::as_ptr).collect() };
    let before = pointers(&source);
    source.says(Change::Reset(services(0..1).into_iter().chain([service(50, 0..30)]).collect()));
    assert_eq!(pointers(&source), before);
    source.says(Change::Reset(vec![service(50, [0])]));
    let held = pointers(&source);
    source.says(Change::Reset(vec![service(50, [0])]));
    assert_eq!(pointers(&source), held);
}
