//! Our own datagrams among the packets that are to be sent: a route that bites its tail.
//!
//! When the way to a peer's endpoint leads into the tunnel itself, a datagram that we send
//! comes back as a packet to be sent: it grows each time round, is cut into fragments and
//! multiplies. The kernel's WireGuard refuses to send into its own interface; all that a
//! program sees is what comes back, so it is recognised there and dropped.
//!
//! A datagram of ours begins with its type and an index: the peer's for data, our own for
//! an initiation. That and the endpoint's address and port are what we compare: nobody
//! else's traffic is mistaken for ours, not even other WireGuard's to the same host.

use std::collections::HashMap;

use crate::endpoint::Endpoint;
use crate::inner::{Inner, udp_payload};

/// Type and index.
pub const HEAD_SIZE: usize = 8;

/// Remembers how what we send at present begins, and to whom it goes.
#[derive(Debug, Default)]
pub struct OwnDatagrams<P>(HashMap<[u8; HEAD_SIZE], P>);

impl<P: Copy + Eq> OwnDatagrams<P> {
    /// None yet.
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Datagrams to this peer begin so.
    pub fn add(&mut self, head: [u8; HEAD_SIZE], peer: P) {
        self.0.insert(head, peer);
    }

    /// No more do they. Another peer may have chosen the same index; that one stays.
    pub fn discard(&mut self, head: [u8; HEAD_SIZE], peer: P) {
        if self.0.get(&head) == Some(&peer) {
            self.0.remove(&head);
        }
    }

    /// Whether the packet carries a datagram of ours, or the first fragment of one.
    pub fn hold<'a>(
        &self,
        packet: &[u8],
        inner: &Inner,
        endpoint: impl FnOnce(P) -> Option<&'a Endpoint>,
    ) -> bool {
        self.find(packet).is_some_and(|(peer, port)| {
            endpoint(peer).is_some_and(|endpoint| {
                endpoint.remote.port() == port && endpoint.remote.ip() == inner.destination
            })
        })
    }

    /// Whom a datagram in this packet would be for, and the port that it goes to.
    fn find(&self, packet: &[u8]) -> Option<(P, u16)> {
        let payload = udp_payload(packet)?;
        let head: &[u8; HEAD_SIZE] = packet.get(payload..)?.first_chunk()?;
        // Datagrams of ours begin so; a look that costs less than the table's.
        if head[1..4] != [0, 0, 0] {
            return None;
        }
        let peer = *self.0.get(head)?;
        let port = packet.get(payload.checked_sub(6)?..)?.first_chunk()?;
        Some((peer, u16::from_be_bytes(*port)))
    }
}
