//! What others read of a peer while the datapath runs, without a lock.

use crate::Instant;
use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};

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

/// A peer's traffic: UDP payload bytes of authentic packets, handshakes included; and what of
/// it was dropped.
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
    /// Packets received that the port filter dropped.
    pub filtered: u64,
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
/// Of the datapath's threads one at a time writes all but the watches; any thread reads.
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
    filtered: AtomicU64,
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
            filtered: self.filtered.load(Ordering::Relaxed),
        }
    }

    /// Authentic datagrams were sent; whether the protocol has to be told of data.
    pub(crate) fn note_sent(&self, now: Instant, traffic: Traffic) -> bool {
        count(&self.tx_bytes, traffic.bytes);
        count(&self.tx_packets, traffic.packets);
        self.last_sent_at.store(now, Ordering::Relaxed);
        note_answered(&self.data_received_at, &self.told_received);
        let (watched, told) = (&self.watched_sent, &self.told_sent);
        traffic.data && note_data(&self.data_sent_at, watched, told, now)
    }

    /// Datagrams that were noted as sent have not left.
    pub(crate) fn note_lost(&self, packets: u64, bytes: u64) {
        count(&self.tx_bytes, bytes.wrapping_neg());
        count(&self.tx_packets, packets.wrapping_neg());
    }

    /// Authentic datagrams were received; whether the protocol has to be told of data.
    pub(crate) fn note_received(&self, now: Instant, traffic: Traffic) -> bool {
        count(&self.rx_bytes, traffic.bytes);
        count(&self.rx_packets, traffic.packets);
        self.last_received_at.store(now, Ordering::Relaxed);
        self.settle_sent();
        if traffic.data {
            self.last_data_received_at.store(now, Ordering::Relaxed);
        }
        let (watched, told) = (&self.watched_received, &self.told_received);
        traffic.data && note_data(&self.data_received_at, watched, told, now)
    }

    /// The port filter has dropped a packet.
    pub(crate) fn note_filtered(&self) {
        count(&self.filtered, 1);
    }

    /// Nobody waits for an answer to sent data any more.
    pub(crate) fn settle_sent(&self) {
        note_answered(&self.data_sent_at, &self.told_sent);
    }
}

/// Add to a number that one thread writes at a time: the one that has the device.
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

#[cfg(all(test, feature = "loom"))]
mod tests {
    use super::*;

    /// What the protocol does when its timer fires, and when it hears of an event.
    fn look_after(shared: &PeerShared) -> bool {
        shared.watch(Watch::DataSent, false);
        shared.activity().data_sent_at != 0
    }

    fn send(shared: &PeerShared, now: Instant) -> bool {
        let traffic = Traffic {
            bytes: 100,
            packets: 1,
            data: true,
        };
        shared.note_sent(now, traffic)
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
                    shared.settle_sent();
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
