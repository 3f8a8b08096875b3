//! What the plain way through the device has made, until it is sent and written.

use nvpn_core::datagrams::Datagrams;
use nvpn_core::{Device, DropReason, Endpoint, Instant, Outbox, PeerId};

use crate::tun::TunPort;
use crate::udp::{Outcome, UdpSender};

const KEPT_BYTES: usize = 1 << 20;

/// Datagrams and packets in their order, behind each other in two buffers that stay.
///
/// Datagrams to one endpoint that can leave in one call are kept as one.
#[derive(Default)]
pub struct Mail {
    sealed: Vec<u8>,
    outgoing: Vec<Outgoing>,
    plain: Vec<u8>,
    packets: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Outgoing {
    endpoint: Endpoint,
    tos: u8,
    peer: Option<PeerId>,
    datagrams: Datagrams,
}

impl Outbox for Mail {
    fn datagram(&mut self, endpoint: &Endpoint, datagram: &[u8], tos: u8, peer: Option<PeerId>) {
        let size = datagram.len();
        let joined = self.outgoing.last_mut().is_some_and(|last| {
            (last.endpoint, last.tos, last.peer) == (*endpoint, tos, peer)
                && last.datagrams.push(size, usize::MAX)
        });
        if !joined {
            let Some(datagrams) = Datagrams::covering(size, size) else {
                return;
            };
            self.outgoing.push(Outgoing {
                endpoint: *endpoint,
                tos,
                peer,
                datagrams,
            });
        }
        self.sealed.extend_from_slice(datagram);
    }

    fn inner(&mut self, packet: &mut [u8]) {
        self.plain.extend_from_slice(packet);
        self.packets.push(packet.len());
    }
}

impl Mail {
    /// Send and write everything.
    pub fn deliver(
        &mut self,
        device: &mut Device,
        udp: &mut UdpSender,
        tun: &mut TunPort,
        now: Instant,
    ) {
        self.send(device, udp, now);
        if !self.packets.is_empty() {
            self.write(device, tun);
        }
    }

    /// Send every datagram.
    pub fn send(&mut self, device: &mut Device, udp: &mut UdpSender, now: Instant) {
        if self.outgoing.is_empty() {
            return;
        }
        let mut rest = self.sealed.as_slice();
        for one in &self.outgoing {
            let Some((datagrams, after)) = rest.split_at_checked(one.datagrams.size()) else {
                break;
            };
            rest = after;
            let outcome = udp.send(
                &one.endpoint,
                datagrams,
                one.datagrams.stride(),
                one.tos,
                now,
            );
            note_outcome(device, one.peer, &outcome);
        }
        self.outgoing.clear();
        empty(&mut self.sealed);
    }

    fn write(&mut self, device: &Device, tun: &mut TunPort) {
        let packets = tun.begin();
        let mut start = 0;
        for size in self.packets.drain(..) {
            packets.push(&self.plain, start..start + size);
            start += size;
        }
        device.drop_packets(DropReason::TunWriteFailed, tun.write(&self.plain).lost);
        empty(&mut self.plain);
    }
}

/// Account for what did not leave as it should have.
#[inline]
pub fn note_outcome(device: &mut Device, peer: Option<PeerId>, outcome: &Outcome) {
    device.drop_packets(DropReason::SendFailed, outcome.lost as u64);
    let Some(peer) = peer else { return };
    if outcome.lost > 0 {
        device.note_lost(peer, outcome.lost as u64, outcome.lost_bytes as u64);
    }
    if outcome.forget_source {
        device.forget_source(peer);
    }
}

/// Keep the memory for the next time, but not that of a rare flood.
fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(KEPT_BYTES);
}
