//! One peer as the datapath knows it, and every rule about it, written once.

use core::sync::atomic::{AtomicBool, AtomicU64};

/// What others read of a peer while the datapath runs: instants, traffic, watches.
#[derive(Debug, Default)]
pub struct PeerShared {
    pub(crate) data_sent_at: AtomicU64,
    pub(crate) data_received_at: AtomicU64,
    pub(crate) last_data_received_at: AtomicU64,
    pub(crate) last_sent_at: AtomicU64,
    pub(crate) last_received_at: AtomicU64,
    pub(crate) rx_bytes: AtomicU64,
    pub(crate) tx_bytes: AtomicU64,
    pub(crate) rx_packets: AtomicU64,
    pub(crate) tx_packets: AtomicU64,
    pub(crate) watched_sent: AtomicBool,
    pub(crate) watched_received: AtomicBool,
    pub(crate) told_sent: AtomicBool,
    pub(crate) told_received: AtomicBool,
}
