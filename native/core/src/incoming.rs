//! From the peers to the TUN device.

use core::net::IpAddr;

use crate::Instant;
use crate::admission::Verdict;
use crate::aead::{BatchAead, RingAead};
use crate::command::Diversion;
use crate::constants::{
    MIN_TRANSPORT_SIZE, REJECT_AFTER_MESSAGES, TAG_SIZE, TRANSPORT_HEADER_SIZE,
};
use crate::datagrams::Datagrams;
use crate::device::{Device, Outbox};
use crate::drop_reason::DropReason;
use crate::endpoint::Endpoint;
use crate::filter::LastVerdict;
use crate::inner::{Inner, is_fragment, merge_ecn, parse_inner, udp_payload};
use crate::keypair::Keypair;
use crate::message::{MessageType, read_u32, read_u64, receiver_of};
use crate::peer::PeerRef;
use crate::shared::Traffic;

const UDP_HEADER_SIZE: usize = 8;

/// A session that a transport message names, until the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRef {
    /// Whose it is.
    pub peer: PeerRef,
    /// What it is named by.
    pub our_index: u32,
}

/// What was found of the message before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// A source that the peer may use.
    allowed: Option<IpAddr>,
    verdict: LastVerdict,
}

impl Device {
    // --- in, one datagram -------------------------------------------------------------

    /// Take one datagram of any kind; a transport message is opened where it lies.
    ///
    /// `endpoint` is where it came from, and to which of our addresses; `tos` the outer
    /// header's TOS byte or traffic class.
    pub fn receive(
        &mut self,
        datagram: &mut [u8],
        endpoint: &Endpoint,
        tos: u8,
        now: Instant,
        out: &mut dyn Outbox,
    ) {
        if read_u32(datagram, 0) != Some(MessageType::Transport as u32) {
            self.receive_handshake(datagram, endpoint, now, out);
        } else if let Err(reason) = self.receive_transport(datagram, endpoint, tos, now, out) {
            self.drop_packets(reason, 1);
        }
    }

    fn receive_handshake(
        &mut self,
        datagram: &[u8],
        endpoint: &Endpoint,
        now: Instant,
        out: &mut dyn Outbox,
    ) {
        // Indices are random: whoever does not see our messages cannot make us queue answers
        // to them. Cookie replies, which carry no mac, would be free for everybody otherwise.
        let register = &self.register;
        if let Some(index) = receiver_of(datagram)
            && !register.initiations.contains_key(&index)
            && !register.receivers.contains_key(&index)
        {
            self.drop_packets(DropReason::UnknownIndex, 1);
            return;
        }
        let queued = register.events.queued_handshakes();
        let verdict = self
            .admission
            .judge(datagram, endpoint, queued, now, &mut self.random);
        match verdict {
            Verdict::Accepted => {
                if !self.register.events.add_handshake(datagram, *endpoint, now) {
                    self.drop_packets(DropReason::QueueFull, 1);
                }
            }
            Verdict::Answered(reply) => {
                self.drop_packets(DropReason::CookieRequired, 1);
                out.datagram(endpoint, &reply, 0, None);
            }
            Verdict::Dropped(reason) => self.drop_packets(reason, 1),
        }
    }

    /// Protocol rules 31 to 35, in their order.
    fn receive_transport(
        &mut self,
        datagram: &mut [u8],
        endpoint: &Endpoint,
        tos: u8,
        now: Instant,
        out: &mut dyn Outbox,
    ) -> Result<(), DropReason> {
        let size = datagram.len();
        if size < MIN_TRANSPORT_SIZE {
            return Err(DropReason::Malformed);
        }
        let our_index = read_u32(datagram, 4).ok_or(DropReason::Malformed)?;
        let counter = read_u64(datagram, 8).ok_or(DropReason::Malformed)?;
        let session = self.lookup(our_index).ok_or(DropReason::UnknownIndex)?;
        let keypair = self.session(session).ok_or(DropReason::UnknownIndex)?;
        if counter >= REJECT_AFTER_MESSAGES || !keypair.may_receive_at(now) {
            return Err(DropReason::KeyExpired);
        }
        // The counter is checked twice: here to spare the AEAD work on plain replays, and
        // after opening, because only then is it known to come from the peer.
        if !keypair.window().may_accept(counter) {
            return Err(DropReason::Replayed);
        }
        let one = Datagrams::covering(size, size).ok_or(DropReason::Malformed)?;
        if RingAead.open(keypair.receive_key(), datagram, &one, 1) != 1 {
            return Err(DropReason::BadTag);
        }
        if !self.accept(session, counter) {
            return Err(DropReason::Replayed);
        }
        let plain = &mut datagram[TRANSPORT_HEADER_SIZE..size - TAG_SIZE];
        let traffic = Traffic {
            bytes: size as u64,
            packets: 1,
            data: !plain.is_empty(),
        };
        self.note_authentic(session, endpoint, now, traffic, out);
        if !plain.is_empty() {
            self.deliver(session.peer, plain, tos, now, out);
        }
        Ok(())
    }

    /// Judge what an authentic, non-empty message holds, and pass it to the TUN device.
    ///
    /// `plain` is changed in place; `tos` as in [`Device::receive`].
    pub fn deliver(
        &mut self,
        peer: PeerRef,
        plain: &mut [u8],
        tos: u8,
        now: Instant,
        out: &mut dyn Outbox,
    ) {
        if let Some(size) = self.judge(peer, plain, tos, now, &mut Seen::default()) {
            out.inner(&mut plain[..size]);
        }
    }

    /// Judge what an authentic, non-empty message holds: how much of it is a packet for the
    /// TUN device. `None` if there is none, which is counted, or if it was diverted.
    ///
    /// `plain` is changed in place; `tos` as in [`Device::receive`]. `seen` spares looks at
    /// tables: keep it between messages of the same peer that came together.
    pub fn judge(
        &mut self,
        peer: PeerRef,
        plain: &mut [u8],
        tos: u8,
        now: Instant,
        seen: &mut Seen,
    ) -> Option<usize> {
        let Some(inner) = parse_inner(plain) else {
            self.drop_packets(DropReason::BadInner, 1);
            return None;
        };
        let packet = &mut plain[..inner.length];
        let is_diverted = !self.diversions.is_empty() && self.is_diverted(&inner, packet);
        if is_diverted {
            if self.owner_of_diverted(inner.source) != Some(peer) {
                self.drop_packets(DropReason::SourceNotAllowed, 1);
                return None;
            }
        } else if seen.allowed != Some(inner.source) {
            if !self.source_allowed(peer, inner.source) {
                self.drop_packets(DropReason::SourceNotAllowed, 1);
                return None;
            }
            seen.allowed = Some(inner.source);
        }
        if let Some(filter) = &mut self.filter
            && !is_diverted
        {
            let known = self.peers.get(peer)?;
            if !filter.accepts((peer, known.id), &inner, packet, now, &mut seen.verdict) {
                known.shared.note_filtered();
                self.drop_packets(DropReason::Filtered, 1);
                return None;
            }
        }
        if !merge_ecn(packet, tos) {
            self.drop_packets(DropReason::BadInner, 1);
            return None;
        }
        if is_diverted {
            if !self.events().add_diverted(self.peers.get(peer)?.id, packet) {
                self.drop_packets(DropReason::QueueFull, 1);
            }
            return None;
        }
        Some(inner.length)
    }

    fn is_diverted(&self, inner: &Inner, packet: &[u8]) -> bool {
        if is_fragment(packet) {
            return false;
        }
        let header = udp_payload(packet)
            .and_then(|payload| packet.get(payload.checked_sub(UDP_HEADER_SIZE)?..))
            .and_then(|udp| Some((udp.len(), udp.first_chunk::<UDP_HEADER_SIZE>()?)));
        let Some((size, &[_, _, port_high, port_low, size_high, size_low, _, _])) = header else {
            return false;
        };
        let is_whole = usize::from(u16::from_be_bytes([size_high, size_low])) == size;
        let port = u16::from_be_bytes([port_high, port_low]);
        let is_there = |to: &Diversion| to.port == port && to.prefix.contains(inner.destination);
        is_whole && self.diversions.iter().any(is_there)
    }

    // --- in, in batches ---------------------------------------------------------------

    /// The session that a transport message names.
    pub fn lookup(&self, our_index: u32) -> Option<SessionRef> {
        let &peer = self.register.receivers.get(&our_index)?;
        Some(SessionRef { peer, our_index })
    }

    /// The keypair of a session, unless it is gone.
    pub fn session(&self, session: SessionRef) -> Option<&Keypair> {
        self.peers.get(session.peer)?.slots.find(session.our_index)
    }

    /// Mark a counter whose message is authentic; false: it was seen or is too old.
    pub fn accept(&mut self, session: SessionRef, counter: u64) -> bool {
        self.accept_run(session, counter, 1)
    }

    /// Mark consecutive counters whose messages are all authentic: all or none.
    pub fn accept_run(&mut self, session: SessionRef, first: u64, count: u64) -> bool {
        self.peers
            .get_mut(session.peer)
            .and_then(|peer| peer.slots.find_mut(session.our_index))
            .is_some_and(|keypair| keypair.window_mut().accept_run(first, count))
    }

    /// All that follows from transport messages being authentic, whatever is in them.
    ///
    /// Call it once for a batch under one keypair from one endpoint, after the replay window
    /// took the counters. It may send what is staged.
    pub fn note_authentic(
        &mut self,
        session: SessionRef,
        endpoint: &Endpoint,
        now: Instant,
        traffic: Traffic,
        out: &mut dyn Outbox,
    ) {
        let at = session.peer;
        let Some(peer) = self.peers.get_mut(at) else {
            return;
        };
        peer.roam(endpoint, now, &self.register.events);
        let promoted = peer.confirm(session.our_index, now, &mut self.register);
        peer.note_received(now, traffic, true, &self.register.events);
        if promoted {
            self.flush(at, now, out);
        }
    }

    /// Whether the peer may speak for an address.
    ///
    /// Over the whole table: a peer that owns a supernet must not speak for a subnet of it
    /// that belongs to another.
    pub fn source_allowed(&self, peer: PeerRef, source: IpAddr) -> bool {
        self.routes.lookup(source) == Some(peer)
    }

    /// Whose address it is for what is diverted, or put in.
    pub(crate) fn owner_of_diverted(&self, address: IpAddr) -> Option<PeerRef> {
        self.diverted_routes
            .lookup(address)
            .or_else(|| self.routes.lookup(address))
    }
}
