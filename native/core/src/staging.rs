//! Packets that wait for a session: a short queue per peer, within one bound for the device.

use core::fmt;
use std::collections::VecDeque;

use crate::constants::MAX_STAGED_PACKETS;

/// Of all peers together: 10,000 silent peers must not take the memory of the others.
pub const MAX_STAGED_BYTES: usize = 32 << 20;

/// Bytes that all queues of a device may hold together.
#[derive(Debug)]
pub struct StagingBudget {
    limit: usize,
    used: usize,
}

impl StagingBudget {
    /// An unused one.
    pub const fn new(limit: usize) -> Self {
        Self { limit, used: 0 }
    }

    /// Bytes that wait.
    pub const fn used(&self) -> usize {
        self.used
    }

    const fn has_room(&self, size: usize) -> bool {
        self.used.saturating_add(size) <= self.limit
    }
}

/// One peer's queue: plain inner packets in order, the oldest dropped first.
///
/// Always used with the same budget.
#[derive(Default)]
pub struct StagedPackets(VecDeque<Box<[u8]>>);

impl fmt::Debug for StagedPackets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StagedPackets({})", self.len())
    }
}

impl StagedPackets {
    /// Queue a packet.
    ///
    /// Returns how many packets were dropped for it, itself included when the device's
    /// budget has no room that this peer could free.
    pub fn push(&mut self, packet: &[u8], budget: &mut StagingBudget) -> u64 {
        let mut dropped = 0;
        while self.0.len() >= MAX_STAGED_PACKETS || !budget.has_room(packet.len()) {
            let Some(oldest) = self.0.pop_front() else {
                return dropped + 1;
            };
            budget.used -= oldest.len();
            dropped += 1;
        }
        self.0.push_back(packet.into());
        budget.used += packet.len();
        dropped
    }

    /// Everything, oldest first; the queue is empty afterwards, and holds no memory.
    pub fn take(&mut self, budget: &mut StagingBudget) -> VecDeque<Box<[u8]>> {
        budget.used -= self.0.iter().map(|packet| packet.len()).sum::<usize>();
        core::mem::take(&mut self.0)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
