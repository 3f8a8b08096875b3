//! From the TUN device to the peers.

use core::net::IpAddr;

use crate::aead::{BatchAead, RingAead};
use crate::command::Diversion;
use crate::constants::{
    MAX_IPV4_DATAGRAM, MAX_IPV6_DATAGRAM, PADDING, TAG_SIZE, TRANSPORT_HEADER_SIZE,
    TRANSPORT_OVERHEAD,
};
use crate::datagrams::Datagrams;
use crate::device::{Device, Outbox};
use crate::drop_reason::DropReason;
use crate::endpoint::Endpoint;
use crate::flow::{Ports, UDP, flow_of};
use crate::icmp::unreachable;
use crate::inner::{Inner, addresses, outer_tos, padded_size, parse_inner, traffic_class};
use crate::peer::PeerRef;
use crate::secret::KEY_SIZE;
use crate::shared::Traffic;
use crate::{Instant, PeerId};

/// Inner packets up to this size fit into a datagram of either version.
const FITS_ALWAYS: usize = MAX_IPV4_DATAGRAM - TRANSPORT_OVERHEAD - PADDING;

/// What a batch is sealed with, besides its key, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// How each message begins.
    pub header: [u8; 8],
    /// The first of the counters that now are the batch's.
    pub first_counter: u64,
    /// Where to.
    pub endpoint: Endpoint,
    /// To whom.
    pub peer: PeerId,
}

impl Device {
    /// Send one plain packet from the TUN device to the peer that it is routed to.
    pub fn send_inner(&mut self, packet: &[u8], now: Instant, out: &mut dyn Outbox) {
        let Some(inner) = parse_inner(packet) else {
            self.drop_packets(DropReason::BadInner, 1);
            return;
        };
        let owner = self.reached_by(packet, &inner);
        self.send_to(owner, packet, &inner, now, out);
    }

    /// The same for a packet of our own, which reaches peers where only what is diverted
    /// comes from.
    pub fn put_in(&mut self, packet: &[u8], now: Instant, out: &mut dyn Outbox) {
        let Some(inner) = parse_inner(packet) else {
            self.drop_packets(DropReason::BadInner, 1);
            return;
        };
        let owner = self.owner_of_diverted(inner.destination);
        self.send_to(owner, packet, &inner, now, out);
    }

    fn send_to(
        &mut self,
        owner: Option<PeerRef>,
        packet: &[u8],
        inner: &Inner,
        now: Instant,
        out: &mut dyn Outbox,
    ) {
        let peer = match self.reach(owner, packet, inner) {
            Ok(peer) => peer,
            Err(reason) => return self.refuse(packet, reason, now, out),
        };
        if !self.fits(peer, inner.length) {
            self.drop_packets(DropReason::TooBig, 1);
            return;
        }
        let packet = &packet[..inner.length];
        if self.may_send(peer, now) {
            self.seal(peer, packet, now, out);
        } else {
            self.stage(peer, packet);
        }
    }

    /// Whom a packet, or a superpacket, goes to.
    ///
    /// # Errors
    /// `NoRoute`, `RoutingLoop`, `NoEndpoint`: in this order, for [`Device::refuse`].
    pub fn route(&self, packet: &[u8], inner: &Inner) -> Result<PeerRef, DropReason> {
        self.reach(self.reached_by(packet, inner), packet, inner)
    }

    /// Whom a packet of the host's reaches; nobody if it says that it is one of ours.
    fn reached_by(&self, packet: &[u8], inner: &Inner) -> Option<PeerRef> {
        if !self.diversions.is_empty() && self.comes_from_diverted(packet, inner) {
            return None;
        }
        self.routes.lookup(inner.destination)
    }

    /// Whether a packet comes from where packets are diverted to, as far as it tells.
    fn comes_from_diverted(&self, packet: &[u8], inner: &Inner) -> bool {
        let comes_from = |place: &Diversion| place.prefix.contains(inner.source);
        if !self.diversions.iter().any(comes_from) {
            return false;
        }
        let flow = flow_of(packet.get(..inner.length).unwrap_or(packet));
        match flow.ports {
            Ports::Shown { source, .. } => {
                let is_there = |place: &Diversion| comes_from(place) && place.port == source;
                flow.protocol == UDP && self.diversions.iter().any(is_there)
            }
            Ports::None => false,
            Ports::CutOff | Ports::Elsewhere => true,
        }
    }

    fn reach(
        &self,
        owner: Option<PeerRef>,
        packet: &[u8],
        inner: &Inner,
    ) -> Result<PeerRef, DropReason> {
        let peer = owner.ok_or(DropReason::NoRoute)?;
        let endpoint_of = |peer| self.peers.get(peer).and_then(|peer| peer.endpoint.as_ref());
        if self.register.own.hold(packet, inner, endpoint_of) {
            return Err(DropReason::RoutingLoop);
        }
        endpoint_of(peer).ok_or(DropReason::NoEndpoint)?;
        Ok(peer)
    }

    /// Whether an inner packet of this size fits into a datagram to the peer.
    pub fn fits(&self, peer: PeerRef, size: usize) -> bool {
        if size <= FITS_ALWAYS {
            return true;
        }
        let endpoint = self.peers.get(peer).and_then(|peer| peer.endpoint);
        let largest = match endpoint.map(|endpoint| endpoint.version()) {
            Some(6) => MAX_IPV6_DATAGRAM,
            _ => MAX_IPV4_DATAGRAM,
        };
        padded_size(size, self.mtu) + TRANSPORT_OVERHEAD <= largest
    }

    /// Whether packets to the peer may be sealed now; else they have to be staged.
    pub fn may_send(&self, peer: PeerRef, now: Instant) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|peer| peer.may_send_at(now))
    }

    /// Keep a packet until there is a key, and ask for one.
    pub fn stage(&mut self, peer: PeerRef, packet: &[u8]) {
        let Some(peer) = self.peers.get_mut(peer) else {
            return;
        };
        let dropped = peer.staged.push(packet, &mut self.register.staging);
        peer.want_key(&self.register.events);
        self.drop_packets(DropReason::StagingFull, dropped);
    }

    /// Drop a packet, and tell its sender by ICMP if it had nowhere to go.
    pub fn refuse(
        &mut self,
        packet: &[u8],
        reason: DropReason,
        now: Instant,
        out: &mut dyn Outbox,
    ) {
        self.drop_packets(reason, 1);
        if !matches!(reason, DropReason::NoRoute | DropReason::NoEndpoint) {
            return;
        }
        if let Some(mut answer) = unreachable(packet)
            && self.icmp.allow(now)
        {
            out.inner(&mut answer);
        }
    }

    /// Send what is staged, if there is a key and an endpoint for it; whether anything was.
    pub(crate) fn flush(&mut self, at: PeerRef, now: Instant, out: &mut dyn Outbox) -> bool {
        let Some(peer) = self.peers.get_mut(at) else {
            return false;
        };
        if !peer.may_send_at(now) || peer.endpoint.is_none() || peer.staged.is_empty() {
            return false;
        }
        for packet in peer.staged.take(&mut self.register.staging) {
            self.seal(at, &packet, now, out);
        }
        true
    }

    /// Send a packet, or a keepalive with an empty one, under a key that may be used.
    pub(crate) fn seal(&mut self, at: PeerRef, packet: &[u8], now: Instant, out: &mut dyn Outbox) {
        let size = packet.len();
        let end = TRANSPORT_HEADER_SIZE + padded_size(size, self.mtu);
        let mut scratch = core::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.resize(end + TAG_SIZE, 0);
        scratch[TRANSPORT_HEADER_SIZE..TRANSPORT_HEADER_SIZE + size].copy_from_slice(packet);
        if let Some((endpoint, id)) = self.seal_into(at, &mut scratch, now) {
            if self.filter.is_some()
                && let Some((source, destination)) = addresses(packet)
            {
                self.remember(at, source, destination, packet, now);
            }
            let tos = outer_tos(traffic_class(packet));
            out.datagram(&endpoint, &scratch, tos, Some(id));
            self.note_sent(
                at,
                now,
                Traffic {
                    bytes: scratch.len() as u64,
                    packets: 1,
                    data: size > 0,
                },
            );
        }
        self.scratch = scratch;
    }

    fn seal_into(
        &mut self,
        at: PeerRef,
        datagram: &mut [u8],
        now: Instant,
    ) -> Option<(Endpoint, PeerId)> {
        let peer = self.peers.get_mut(at)?;
        let endpoint = peer.endpoint?;
        let current = peer.slots.current_mut()?;
        let counter = current.reserve(1, now)?;
        let one = Datagrams::covering(datagram.len(), datagram.len())?;
        let (key, header) = (current.send_key(), current.header());
        RingAead.seal(key, &header, counter, datagram, &one).ok()?;
        Some((endpoint, peer.id))
    }

    /// The port filter's to remember: a packet, or a superpacket, goes to a peer. It is cut to
    /// its length.
    #[inline]
    pub fn remember(
        &mut self,
        peer: PeerRef,
        source: IpAddr,
        destination: IpAddr,
        packet: &[u8],
        now: Instant,
    ) {
        if let Some(filter) = &mut self.filter
            && let Some(id) = self.peers.get(peer).map(|peer| peer.id)
        {
            filter.note_sent((peer, id), (source, destination), packet, now);
        }
    }

    // --- out, in batches --------------------------------------------------------------

    /// Take `count` counters for a batch to a peer that [`Device::route`] named. The key to
    /// seal it with is copied into `key`: zero it after use.
    ///
    /// `None` when there is no key, or not that many counters are left: send the packets
    /// one by one with [`Device::send_inner`], which stages what has to wait.
    pub fn begin_send(
        &mut self,
        peer: PeerRef,
        count: u64,
        now: Instant,
        key: &mut [u8; KEY_SIZE],
    ) -> Option<Sending> {
        let peer = self.peers.get_mut(peer)?;
        let endpoint = peer.endpoint?;
        let id = peer.id;
        let current = peer.slots.current_mut()?;
        let first_counter = current.reserve(count, now)?;
        key.copy_from_slice(current.send_key());
        Some(Sending {
            header: current.header(),
            first_counter,
            endpoint,
            peer: id,
        })
    }

    /// Datagrams to a peer that were noted as sent have not left.
    pub fn note_lost(&mut self, peer: PeerId, packets: u64, bytes: u64) {
        let at = self.peers.find(peer);
        if let Some(peer) = at.and_then(|at| self.peers.get(at)) {
            peer.shared.note_lost(packets, bytes);
        }
    }

    /// A batch under a peer's current key was handed to the socket.
    pub fn note_sent(&mut self, peer: PeerRef, now: Instant, traffic: Traffic) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.note_sent(now, traffic, true, &self.register.events);
        }
    }
}
