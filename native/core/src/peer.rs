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
use crate::staging::{StagedPackets, StagingBudget};
use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};
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

/// A peer's instants; 0 for never, or for "answered". See `Activity` in Python.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The first non-empty packet sent since anything authentic was received.
    pub data_sent_at: Instant,
    /// The first non-empty packet received since anything was sent.
    pub data_received_at: Instant,
    /// The latest non-empty packet received.
    pub last_data_received_at: Instant,
    /// The latest authentic packet of any kind sent.
    pub last_sent_at: Instant,
    /// The latest authentic packet of any kind received.
    pub last_received_at: Instant,
}

/// A peer's traffic: UDP payload bytes of authentic packets, handshakes included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
}

/// Which unanswered instant a timer of the protocol is looking after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Data was sent.
    DataSent,
    /// Data was received.
    DataReceived,
}

/// What others read of a peer while the datapath runs: instants, traffic, watches.
///
/// One thread, the datapath's, writes all but the watches; any thread reads.
///
/// INVARIANT: the datapath *stores the instant, then tests the watch*; the protocol
/// *clears the watch, then reads again*. A fence stands between the two on either side, so
/// one of them sees the other: no instant is missed. An event may come once too often.
#[derive(Debug, Default)]
pub struct PeerShared {
    data_sent_at: AtomicU64,
    data_received_at: AtomicU64,
    last_data_received_at: AtomicU64,
    last_sent_at: AtomicU64,
    last_received_at: AtomicU64,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    tx_packets: AtomicU64,
    watched_sent: AtomicBool,
    watched_received: AtomicBool,
    // An event was raised and is not yet answered by a call of `watch`.
    told_sent: AtomicBool,
    told_received: AtomicBool,
}

impl PeerShared {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Set or clear a watch: set when a timer is armed, cleared before it reads again.
    pub fn watch(&self, what: Watch, watched: bool) {
        let (watch, told) = match what {
            Watch::DataSent => (&self.watched_sent, &self.told_sent),
            Watch::DataReceived => (&self.watched_received, &self.told_received),
        };
        watch.store(watched, Ordering::Relaxed);
        told.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The instants, as the protocol reads them.
    pub fn activity(&self) -> Activity {
        Activity {
            data_sent_at: self.data_sent_at.load(Ordering::Relaxed),
            data_received_at: self.data_received_at.load(Ordering::Relaxed),
            last_data_received_at: self.last_data_received_at.load(Ordering::Relaxed),
            last_sent_at: self.last_sent_at.load(Ordering::Relaxed),
            last_received_at: self.last_received_at.load(Ordering::Relaxed),
        }
    }

    /// The traffic so far.
    pub fn counters(&self) -> Counters {
        Counters {
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            rx_packets: self.rx_packets.load(Ordering::Relaxed),
            tx_packets: self.tx_packets.load(Ordering::Relaxed),
        }
    }
}

/// Add to a number that only one thread writes.
fn count(total: &AtomicU64, more: u64) {
    let sum = total.load(Ordering::Relaxed).wrapping_add(more);
    total.store(sum, Ordering::Relaxed);
}

/// Note data in one direction; whether the protocol has to be told.
fn note_data(since: &AtomicU64, watched: &AtomicBool, told: &AtomicBool, now: Instant) -> bool {
    if since.load(Ordering::Relaxed) == 0 {
        since.store(now, Ordering::Relaxed);
    }
    fence(Ordering::SeqCst);
    if watched.load(Ordering::Relaxed) || told.load(Ordering::Relaxed) {
        return false;
    }
    told.store(true, Ordering::Relaxed);
    true
}

/// Note that data in one direction was answered.
fn note_answered(since: &AtomicU64, told: &AtomicBool) {
    if since.load(Ordering::Relaxed) != 0 {
        since.store(0, Ordering::Relaxed);
    }
    if told.load(Ordering::Relaxed) {
        told.store(false, Ordering::Relaxed);
    }
}

/// What was sent, or received, in one go.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// UDP payload, of all datagrams together.
    pub bytes: u64,
    /// How many datagrams.
    pub packets: u64,
    /// Whether any of them carries an inner packet.
    pub data: bool,
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
        let shared = &*self.shared;
        count(&shared.tx_bytes, traffic.bytes);
        count(&shared.tx_packets, traffic.packets);
        shared.last_sent_at.store(now, Ordering::Relaxed);
        note_answered(&shared.data_received_at, &shared.told_received);
        if traffic.data
            && note_data(
                &shared.data_sent_at,
                &shared.watched_sent,
                &shared.told_sent,
                now,
            )
        {
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
        let shared = &*self.shared;
        count(&shared.rx_bytes, traffic.bytes);
        count(&shared.rx_packets, traffic.packets);
        shared.last_received_at.store(now, Ordering::Relaxed);
        note_answered(&shared.data_sent_at, &shared.told_sent);
        if traffic.data {
            shared.last_data_received_at.store(now, Ordering::Relaxed);
            let (since, told) = (&shared.data_received_at, &shared.told_received);
            if note_data(since, &shared.watched_received, told, now) {
                events.add_data(self.id, false);
            }
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
        note_answered(&self.shared.data_sent_at, &self.shared.told_sent);
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

#[cfg(all(test, loom))]
mod tests {
    use super::*;

    /// What the protocol does when its timer fires, and when it hears of an event.
    fn look_after(shared: &PeerShared) -> bool {
        shared.watch(Watch::DataSent, false);
        shared.activity().data_sent_at != 0
    }

    fn send(shared: &PeerShared, now: Instant) -> bool {
        let told = (&shared.watched_sent, &shared.told_sent);
        note_data(&shared.data_sent_at, told.0, told.1, now)
    }

    #[test]
    fn data_that_is_sent_while_a_watch_is_given_up_is_seen_or_told() {
        loom::model(|| {
            let shared = loom::sync::Arc::new(PeerShared::new());
            shared.watch(Watch::DataSent, true);
            let sender = {
                let shared = loom::sync::Arc::clone(&shared);
                loom::thread::spawn(move || send(&shared, 7))
            };
            let is_seen = look_after(&shared);
            let is_told = sender.join().unwrap();
            assert!(is_seen || is_told);
        });
    }

    #[test]
    fn of_two_packets_around_a_watch_none_is_forgotten() {
        loom::model(|| {
            let shared = loom::sync::Arc::new(PeerShared::new());
            let sender = {
                let shared = loom::sync::Arc::clone(&shared);
                loom::thread::spawn(move || {
                    let first = send(&shared, 7);
                    note_answered(&shared.data_sent_at, &shared.told_sent);
                    (first, send(&shared, 9))
                })
            };
            // The timer of an earlier packet is armed, and fires.
            shared.watch(Watch::DataSent, true);
            let is_seen = look_after(&shared);
            let (first, second) = sender.join().unwrap();
            assert!(is_seen || first || second);
            assert_eq!(shared.activity().data_sent_at, 9);
        });
    }
}
