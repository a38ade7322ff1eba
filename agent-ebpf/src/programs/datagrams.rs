//! What a datagram socket remembers of the services it talked to, beside the one it is connected to.

use agent_ebpf::abi::limits::MAX_TRANSLATIONS;
use agent_ebpf::abi::{Connection, Datagrams, Endpoint, Phase, Translation};

use crate::context::Socket;
use crate::maps;

/// What the application asked for when it was sent to `chosen`.
#[inline(always)]
pub(super) fn requested_of(socket: Socket, chosen: &Endpoint) -> Option<Endpoint> {
    if let Some(connection) = maps::connection(socket) {
        // The comparison matters: a socket may have been connected elsewhere since, by a way that has no hook.
        if connection.phase != Phase::Released as u8 && connection.chosen == *chosen {
            return Some(connection.requested);
        }
    }
    if let Some(datagrams) = maps::datagrams(socket) {
        for translation in &datagrams.translations {
            // A place that was never used has no port; no datagram comes from port 0.
            if translation.chosen == *chosen {
                return Some(translation.requested);
            }
        }
    }
    None
}

/// Keeps a choice, in the place of an earlier one for the same address, else of the oldest.
#[inline(always)]
pub(super) fn keep(datagrams: &mut Datagrams, translation: &Translation) {
    let place = place_for(&datagrams.translations, &translation.requested, datagrams.next);
    if let Some(kept) = datagrams.translations.get_mut(place as usize) {
        *kept = *translation;
    }
    datagrams.next = (place + 1) % MAX_TRANSLATIONS as u32;
}

/// Keeps the peer of a socket that is about to connect elsewhere: where that fails, it stays the peer.
#[inline(always)]
pub(super) fn keep_peer(socket: Socket, connection: &Connection) {
    let Some(datagrams) = maps::datagrams_or_new(socket) else { return };
    let translation = Translation {
        requested: connection.requested,
        chosen: connection.chosen,
        service: connection.service,
        backend: connection.backend,
        backend_generation: connection.backend_generation,
    };
    keep(datagrams, &translation);
}

/// Forgets every service behind an address that is now asked for itself.
#[inline(always)]
pub(super) fn forget(socket: Socket, chosen: &Endpoint) {
    let Some(datagrams) = maps::datagrams(socket) else { return };
    for translation in &mut datagrams.translations {
        if translation.chosen == *chosen {
            *translation = Translation::default();
        }
    }
}

#[inline(always)]
fn place_for(translations: &[Translation; MAX_TRANSLATIONS], requested: &Endpoint, next: u32) -> u32 {
    let mut place = 0;
    for translation in translations {
        if translation.requested == *requested {
            return place;
        }
        place += 1;
    }
    next % MAX_TRANSLATIONS as u32
}
