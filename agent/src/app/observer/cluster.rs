//! How it stands with the API server, as it is shown.

use crate::admin::view::{KindView, KubernetesView, NoteView};
use crate::discovery::kubernetes::Standing;

pub(super) fn view(standing: &Standing) -> KubernetesView {
    let facts = standing.facts();
    let kinds = facts.kinds.iter().map(|(kind, standing)| KindView {
        name: kind.name().to_owned(),
        listed: standing.listed,
        absent: standing.absent,
        events: standing.events,
        lists: standing.lists,
        errors: standing
            .troubles
            .iter()
            .map(|(trouble, count)| (trouble.name().to_owned(), *count))
            .collect(),
        error: standing.trouble.clone(),
    });
    let notes =
        facts.notes.iter().map(|(service, note)| NoteView { service: service.clone(), note: note.clone() });
    KubernetesView {
        server: facts.server.clone(),
        node: facts.node.clone(),
        zone: facts.zone.as_ref().map(ToString::to_string),
        connection: facts.connection.name().to_owned(),
        since: facts.since,
        kinds: kinds.collect(),
        services: facts.counts.services,
        slices: facts.counts.slices,
        endpoints: facts.counts.endpoints,
        policies: facts.counts.policies,
        routes: facts.counts.routes,
        pods: facts.counts.pods,
        noted: facts.counts.noted,
        notes: notes.collect(),
        snapshot_at: facts.snapshot_at,
        snapshot_error: facts.snapshot_error.clone(),
    }
}
