//! One peer as the datapath knows it, and every rule about it, written once.
//!
//! The single-packet path and the batch path both call these methods: the one with one
//! packet, the other with the totals of a batch. They keep the peer's instants, counters
//! and endpoint, and raise the events that follow from them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::event::{Event, EventQueue, Why};
use crate::keypair::{Gone, Keypair, KeypairSlots, header};
use crate::loops::OwnDatagrams;
use crate::message::MessageType;
use crate::shared::{PeerShared, Traffic};
use crate::staging::{StagedPackets, StagingBudget};
use crate::{Instant, PeerId};

/// A peer's place in the device; until the next command it stays the same peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerRef(u32);

impl From<u32> for PeerRef {
    fn from(index: u32) -> Self {
        Self(index)
    }
}

impl From<PeerRef> for u32 {
    fn from(peer: PeerRef) -> Self {
        peer.0
    }
}

impl PeerRef {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What peers share: how datagrams and indices are traced to them, and where to report.
#[derive(Debug)]
pub(crate) struct Register {
    /// Peers by the index of their keypairs: what a transport message is looked up in.
    pub(crate) receivers: HashMap<u32, PeerRef>,
    /// Our initiations that are not answered yet, the latest of each peer, by our index.
    pub(crate) initiations: HashMap<u32, PeerRef>,
    pub(crate) own: OwnDatagrams<PeerRef>,
    pub(crate) events: Arc<EventQueue>,
    pub(crate) staging: StagingBudget,
    /// A keypair was zeroed since somebody asked.
    pub(crate) keys_gone: bool,
}

/// Endpoint, session slots, staged packets, instants and counters of one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) shared: Arc<PeerShared>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) slots: KeypairSlots,
    pub(crate) staged: StagedPackets,
    /// When anything authentic last confirmed the endpoint.
    heard_at: Instant,
    /// Of our latest initiation; `None` once it is answered.
    initiation_index: Option<u32>,
    at: PeerRef,
    said_no_key: bool,
}

// With its prefixes, its names and the allocator's share this is below 1 KiB.
const _: () = assert!(size_of::<Peer>() + size_of::<PeerShared>() <= 320);

impl Peer {
    pub(crate) fn new(id: PeerId, at: PeerRef, shared: Arc<PeerShared>) -> Self {
        Self {
            id,
            shared,
            endpoint: None,
            slots: KeypairSlots::default(),
            staged: StagedPackets::default(),
            heard_at: 0,
            initiation_index: None,
            at,
            said_no_key: false,
        }
    }

    // --- packets ----------------------------------------------------------------------

    /// Whether packets may be sealed now; else they have to be staged.
    pub(crate) fn may_send_at(&self, now: Instant) -> bool {
        self.slots
            .current()
            .is_some_and(|current| current.may_send_at(now))
    }

    /// Authentic datagrams were handed to the socket: transport messages under `current`,
    /// or a handshake message.
    pub(crate) fn note_sent(
        &mut self,
        now: Instant,
        traffic: Traffic,
        is_transport: bool,
        events: &EventQueue,
    ) {
        if self.shared.note_sent(now, traffic) {
            events.add_data(self.id, true);
        }
        if is_transport {
            let current = self.slots.current_mut();
            let why = current.and_then(|current| current.wants_after_sending(now));
            self.want(why, events);
        }
    }

    /// Authentic datagrams arrived: transport messages, or a handshake message.
    ///
    /// For transport messages call `roam` and `confirm` first: protocol rule 31.
    pub(crate) fn note_received(
        &mut self,
        now: Instant,
        traffic: Traffic,
        is_transport: bool,
        events: &EventQueue,
    ) {
        if self.shared.note_received(now, traffic) {
            events.add_data(self.id, false);
        }
        // Whatever key the packet came under, the one that we send with is the one to renew.
        if is_transport {
            let current = self.slots.current_mut();
            let why = current.and_then(|current| current.wants_after_receiving(now));
            self.want(why, events);
        }
    }

    /// There is something to send and no key: said once until that changes.
    pub(crate) fn want_key(&mut self, events: &EventQueue) {
        if !self.said_no_key {
            self.said_no_key = true;
            self.want(Some(Why::NoKey), events);
        }
    }

    fn want(&self, why: Option<Why>, events: &EventQueue) {
        if let Some(why) = why {
            events.add(Event::HandshakeWanted { peer: self.id, why });
        }
    }

    // --- endpoint ---------------------------------------------------------------------

    /// An authentic transport message came from there: answer there from now on.
    pub(crate) fn roam(&mut self, endpoint: &Endpoint, now: Instant, events: &EventQueue) {
        self.heard_at = now;
        let known = self.endpoint;
        if known.is_some_and(|known| known.same_way(endpoint)) {
            return;
        }
        let endpoint = endpoint.learned(now);
        self.endpoint = Some(endpoint);
        if known.is_none_or(|known| !known.same_remote(&endpoint)) {
            events.set_roamed(self.id, endpoint);
        }
    }

    /// Take the protocol's word for it, unless a packet has told us better since: then
    /// false.
    pub(crate) fn set_endpoint(&mut self, endpoint: Option<Endpoint>) -> bool {
        if let Some(endpoint) = endpoint {
            if self.endpoint.is_some() && endpoint.learned_at < self.heard_at {
                return false;
            }
            self.heard_at = endpoint.learned_at;
        }
        self.endpoint = endpoint;
        true
    }

    /// Let the kernel choose our own address again: it vanished, or this is a retry.
    pub(crate) fn forget_source(&mut self) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.source = None;
        }
    }

    // --- handshakes -------------------------------------------------------------------

    /// Expect an answer to the initiation with this index, and to none before it.
    pub(crate) fn expect_answer(&mut self, index: Option<u32>, register: &mut Register) {
        if let Some(before) = self.initiation_index.take() {
            let head = header(MessageType::Initiation, before);
            register.own.discard(head, self.at);
            forget(&mut register.initiations, before, self.at);
        }
        self.initiation_index = index;
        if let Some(index) = index {
            register.initiations.insert(index, self.at);
            register
                .own
                .add(header(MessageType::Initiation, index), self.at);
        }
    }

    // --- keypairs ---------------------------------------------------------------------

    /// Take a new keypair; packets may arrive for it from now on.
    pub(crate) fn install(&mut self, keypair: Keypair, register: &mut Register) {
        self.said_no_key = false;
        let our_index = keypair.our_index();
        register.receivers.insert(our_index, self.at);
        register.own.add(keypair.header(), self.at);
        let gone = self.slots.install(Box::new(keypair));
        self.retire(gone, register);
        if self.initiation_index == Some(our_index) {
            self.expect_answer(None, register);
        }
    }

    /// Promote `next` if that is what an authentic packet came under.
    ///
    /// Returns whether it was: the caller then sends what is staged.
    pub(crate) fn confirm(
        &mut self,
        our_index: u32,
        now: Instant,
        register: &mut Register,
    ) -> bool {
        if !self.slots.is_next(our_index) {
            return false;
        }
        self.said_no_key = false;
        let gone = self.slots.confirm();
        self.retire(gone, register);
        register.events.add(Event::KeypairConfirmed {
            peer: self.id,
            our_index,
            at: now,
        });
        true
    }

    /// Send nothing more under `current`, forget `next`.
    pub(crate) fn stop_sending(&mut self, register: &mut Register) {
        self.said_no_key = false;
        let gone = self.slots.stop_sending();
        self.retire(gone, register);
    }

    /// Forget and zero all keypairs.
    pub(crate) fn erase_keys(&mut self, register: &mut Register) {
        self.said_no_key = false;
        let gone = self.slots.clear();
        self.retire(gone, register);
    }

    /// Drop staged packets and ask again when there is something to send.
    ///
    /// What was sent before counts as settled: nobody waits for its answer any more.
    /// Returns how many were staged.
    pub(crate) fn forget_staged(&mut self, register: &mut Register) -> u64 {
        self.said_no_key = false;
        self.shared.settle_sent();
        self.staged.take(&mut register.staging).len() as u64
    }

    /// Zero all keys and drop what is staged; say nothing.
    pub(crate) fn destroy(&mut self, register: &mut Register) {
        self.expect_answer(None, register);
        self.staged.take(&mut register.staging);
        for keypair in self.slots.clear().into_iter().flatten() {
            self.release(&keypair, register);
        }
    }

    fn retire(&self, gone: Gone, register: &mut Register) {
        for keypair in gone.into_iter().flatten() {
            self.release(&keypair, register);
            let our_index = keypair.our_index();
            // Zeroed before anybody hears of it.
            drop(keypair);
            register.events.add(Event::KeypairGone {
                peer: self.id,
                our_index,
            });
        }
    }

    fn release(&self, keypair: &Keypair, register: &mut Register) {
        forget(&mut register.receivers, keypair.our_index(), self.at);
        register.own.discard(keypair.header(), self.at);
        register.keys_gone = true;
    }
}

/// Forget that an index is this peer's. Another one may have it by now; that one stays.
fn forget(indices: &mut HashMap<u32, PeerRef>, index: u32, peer: PeerRef) {
    if indices.get(&index) == Some(&peer) {
        indices.remove(&index);
    }
}
