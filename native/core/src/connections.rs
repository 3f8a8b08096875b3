//! What we have sent, so that answers to it may pass a port filter.
//!
//! A conversation is what one peer and we say to each other between two addresses and two
//! ports; of echoes, one identifier takes the ports' place; of protocols without ports there
//! is one between two addresses. What we send begins one. What comes the same way back from
//! the same peer belongs to it, and so does an ICMP error about it.
//!
//! A packet that begins a TCP connection belongs to none, whatever was said before between
//! these ports: whether the peer may begin one, rules decide.
//!
//! Timeouts are like those of the kernel's connection tracking, but short enough for a table
//! that is bounded. Fragments behind the first one show no ports; they pass where the first
//! one has passed just before, and only what is behind its bytes.

use core::net::IpAddr;

use crate::constants::SECOND;
use crate::flow::{Flow, Fragment, ICMPV4, ICMPV6, Ports, TCP, UDP, flow_of};
use crate::inner::{Inner, addresses};
use crate::recent::Recent;
use crate::{Instant, PeerRef};

/// Of all peers.
pub const MAX_CONVERSATIONS: usize = 65_536;
/// Of one peer.
pub const MAX_CONVERSATIONS_OF_A_PEER: usize = 4_096;
/// Packets that are being put together, of all peers.
pub const MAX_FRAGMENTED: usize = 1_024;
/// Packets that are being put together, of one peer.
pub const MAX_FRAGMENTED_OF_A_PEER: usize = 128;

// The shortest that RFC 5382 allows (REQ-5): keepalives, every two hours, keep a connection.
const TCP_ANSWERED: Instant = 7_440 * SECOND;
const TCP_OTHERWISE: Instant = 240 * SECOND;
const UDP_ANSWERED: Instant = 180 * SECOND;
const UDP_UNANSWERED: Instant = 30 * SECOND;
const ECHO: Instant = 30 * SECOND;
const OTHERS: Instant = 180 * SECOND;
const FRAGMENTS: Instant = 30 * SECOND;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

const ICMP_HEADER_SIZE: usize = 8;

/// What names a conversation, as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Conversation {
    ours: IpAddr,
    theirs: IpAddr,
    our_port: u16,
    their_port: u16,
    protocol: u8,
}

#[derive(Clone, Copy, Debug)]
struct State {
    used_at: Instant,
    is_answered: bool,
    is_ending: bool,
}

impl State {
    fn is_over(&self, protocol: u8, now: Instant) -> bool {
        let patience = match protocol {
            TCP if self.is_answered && !self.is_ending => TCP_ANSWERED,
            TCP => TCP_OTHERWISE,
            UDP if self.is_answered => UDP_ANSWERED,
            UDP => UDP_UNANSWERED,
            ICMPV4 | ICMPV6 => ECHO,
            _ => OTHERS,
        };
        now.saturating_sub(self.used_at) >= patience
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FragmentKey {
    source: IpAddr,
    destination: IpAddr,
    number: u32,
    protocol: u8,
}

impl FragmentKey {
    fn of(inner: &Inner, fragment: &Fragment) -> Self {
        Self {
            source: inner.source,
            destination: inner.destination,
            number: fragment.number,
            protocol: fragment.protocol,
        }
    }
}

/// A first fragment that has passed: when, and how long it was at most.
#[derive(Clone, Copy, Debug)]
struct First {
    at: Instant,
    end: u32,
}

/// The conversations of a device, and what is being put together from fragments.
#[derive(Debug)]
pub struct Connections {
    states: Recent<Conversation, State>,
    firsts: Recent<FragmentKey, First>,
}

impl Default for Connections {
    fn default() -> Self {
        Self::new()
    }
}

impl Connections {
    /// Nothing was said yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            states: Recent::new(MAX_CONVERSATIONS, MAX_CONVERSATIONS_OF_A_PEER),
            firsts: Recent::new(MAX_FRAGMENTED, MAX_FRAGMENTED_OF_A_PEER),
        }
    }

    /// A packet, or a superpacket, goes to a peer. It is cut to its length.
    pub fn note_sent(
        &mut self,
        peer: PeerRef,
        source: IpAddr,
        destination: IpAddr,
        packet: &[u8],
        now: Instant,
    ) {
        let flow = flow_of(packet);
        let (Some(flags), Some(name)) = (
            tcp_flags(&flow, packet),
            name(source, destination, &flow, packet, Way::Sent),
        ) else {
            return;
        };
        let is_ending = flags & (FIN | RST) != 0;
        if let Some(state) = self.states.touch(peer, &name) {
            if flags & (SYN | ACK) == SYN || state.is_over(flow.protocol, now) {
                (state.is_answered, state.is_ending) = (false, false);
            }
            state.is_ending |= is_ending;
            state.used_at = now;
        } else if flags & RST == 0 {
            self.forget_finished(peer, now);
            let state = State {
                used_at: now,
                is_answered: false,
                is_ending,
            };
            self.states.put(peer, name, state);
        }
    }

    /// Whether a packet from a peer belongs to a conversation. Not for later fragments.
    pub fn expects(
        &mut self,
        peer: PeerRef,
        inner: &Inner,
        flow: &Flow,
        packet: &[u8],
        now: Instant,
    ) -> bool {
        let Some(flags) = tcp_flags(flow, packet) else {
            return false;
        };
        if flags & (SYN | ACK) == SYN {
            return false;
        }
        if is_error(inner, flow, packet) {
            return flow.fragment.is_none() && self.is_about_ours(peer, inner, flow, packet, now);
        }
        let (ours, theirs) = (inner.destination, inner.source);
        let Some(name) = name(ours, theirs, flow, packet, Way::Received) else {
            return false;
        };
        let Some(state) = self.states.touch(peer, &name) else {
            return false;
        };
        if state.is_over(flow.protocol, now) {
            return false;
        }
        state.is_answered = true;
        state.is_ending |= flags & (FIN | RST) != 0;
        state.used_at = now;
        true
    }

    /// A first fragment passes.
    pub fn note_first(&mut self, peer: PeerRef, inner: &Inner, fragment: &Fragment, now: Instant) {
        let key = FragmentKey::of(inner, fragment);
        // Of two that claim to be the first, the longer one tells what is not to be changed.
        let end = match self.firsts.get(peer, &key) {
            Some(known) if now.saturating_sub(known.at) < FRAGMENTS => known.end.max(fragment.end),
            _ => fragment.end,
        };
        self.firsts.put(peer, key, First { at: now, end });
    }

    /// Whether a later fragment belongs to a first one that has passed.
    #[must_use]
    pub fn continues(
        &self,
        peer: PeerRef,
        inner: &Inner,
        fragment: &Fragment,
        now: Instant,
    ) -> bool {
        let first = self.firsts.get(peer, &FragmentKey::of(inner, fragment));
        first.is_some_and(|first| {
            now.saturating_sub(first.at) < FRAGMENTS && fragment.start >= first.end
        })
    }

    /// The peer is gone.
    pub fn forget(&mut self, peer: PeerRef) {
        self.states.forget(peer);
        self.firsts.forget(peer);
    }

    /// How many conversations there are, and packets that are being put together.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.states.len(), self.firsts.len())
    }

    /// Whether an ICMP error quotes what we have said to that peer.
    fn is_about_ours(
        &self,
        peer: PeerRef,
        inner: &Inner,
        flow: &Flow,
        packet: &[u8],
        now: Instant,
    ) -> bool {
        let quoted = packet.get(flow.at + ICMP_HEADER_SIZE..).unwrap_or_default();
        // It goes to whom it is about.
        let Some((source, destination)) =
            addresses(quoted).filter(|&(source, _)| source == inner.destination)
        else {
            return false;
        };
        let about = flow_of(quoted);
        name(source, destination, &about, quoted, Way::Sent)
            .and_then(|name| self.states.get(peer, &name))
            .is_some_and(|state| !state.is_over(about.protocol, now))
    }

    /// One more of the peer's oldest than begins now: the table shrinks to what is alive.
    fn forget_finished(&mut self, peer: PeerRef, now: Instant) {
        for _ in 0..2 {
            match self.states.oldest(peer) {
                Some((name, state)) if state.is_over(name.protocol, now) => {
                    self.states.drop_oldest(peer);
                }
                _ => return,
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Sent,
    Received,
}

/// The conversation of a packet between us and them.
///
/// `None` if it has none: it does not show its ports, or is an ICMP message and neither an
/// echo, nor, of us, a request for one.
fn name(
    ours: IpAddr,
    theirs: IpAddr,
    flow: &Flow,
    packet: &[u8],
    way: Way,
) -> Option<Conversation> {
    let (our_port, their_port) = match (flow.ports, way) {
        (
            Ports::Shown {
                source,
                destination,
            },
            Way::Sent,
        ) => (source, destination),
        (
            Ports::Shown {
                source,
                destination,
            },
            Way::Received,
        ) => (destination, source),
        (Ports::None, _) => (identifier(ours.is_ipv4(), flow, packet, way)?, 0),
        (Ports::CutOff | Ports::Elsewhere, _) => return None,
    };
    Some(Conversation {
        ours,
        theirs,
        our_port,
        their_port,
        protocol: flow.protocol,
    })
}

/// Of an echo its own, of other ICMP messages none, of other protocols 0 (RFC 792, RFC 4443).
fn identifier(is_ipv4: bool, flow: &Flow, packet: &[u8], way: Way) -> Option<u16> {
    let [request, reply] = match (is_ipv4, flow.protocol) {
        (true, ICMPV4) => [8, 0],
        (false, ICMPV6) => [128, 129],
        _ => return Some(0),
    };
    let header: &[u8; ICMP_HEADER_SIZE] = packet.get(flow.at..)?.first_chunk()?;
    let &[kind, _, _, _, high, low, ..] = header;
    let wanted = if way == Way::Sent { request } else { reply };
    (kind == wanted).then_some(u16::from_be_bytes([high, low]))
}

/// Whether this is an ICMP error. Redirects are none: they are no answer to what we have said.
fn is_error(inner: &Inner, flow: &Flow, packet: &[u8]) -> bool {
    let Some(kind) = packet.get(flow.at) else {
        return false;
    };
    match (inner.source.is_ipv4(), flow.protocol) {
        (true, ICMPV4) => matches!(kind, 3 | 11 | 12),
        (false, ICMPV6) => matches!(kind, 1..=4),
        _ => false,
    }
}

/// Of another protocol 0; `None` where they are cut off.
fn tcp_flags(flow: &Flow, packet: &[u8]) -> Option<u8> {
    if flow.protocol == TCP {
        packet.get(flow.at + 13).copied()
    } else {
        Some(0)
    }
}
