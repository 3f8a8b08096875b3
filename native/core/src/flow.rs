//! Which flow an inner packet belongs to: what is above IP, its ports, and which fragment it
//! is.

use crate::inner::{IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, is_fragment};

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP of IPv4.
pub const ICMPV4: u8 = 1;
/// ICMP of IPv6.
pub const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// Of IPv6, headers that are followed; each kind is meant to be there once (RFC 8200, 4.1).
pub const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Whether an IPv6 header with this number is followed by another one.
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// Authentication, mobility, HIP, Shim6, two for experiments: of IPv6, they say or may say what
/// follows, but each in its own way.
const fn is_opaque(protocol: u8) -> bool {
    matches!(protocol, 51 | 135 | 139 | 140 | 253 | 254)
}

/// What a packet shows of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Both are there.
    Shown {
        /// The sender's.
        source: u16,
        /// The receiver's.
        destination: u16,
    },
    /// It has none.
    None,
    /// The packet ends before them, or does not tell whether there are any.
    CutOff,
    /// They were in another fragment.
    Elsewhere,
}

/// One of several pieces of a packet: which packet's, and which bytes of what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The packet's own.
    pub number: u32,
    /// What pieces are told apart by besides that; of IPv6 nothing: 0.
    pub protocol: u8,
    /// The first byte.
    pub start: u32,
    /// The byte behind the last one.
    pub end: u32,
}

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The protocol's number; of IPv6 that behind the extension headers.
    pub protocol: u8,
    /// Its ports.
    pub ports: Ports,
    /// Where its header begins; 0 if that is elsewhere.
    pub at: usize,
    /// Whether this is a part of a packet only.
    pub fragment: Option<Fragment>,
}

/// Where what is above IP is to be found.
pub(crate) struct Upper {
    /// The protocol; one of an extension header if the packet ends among them.
    pub(crate) protocol: u8,
    /// Where its header begins; `None` in a later fragment.
    pub(crate) at: Option<usize>,
    fragment: Option<Fragment>,
}

/// The flow of a packet that is past `parse_inner` and cut to its length.
#[must_use]
pub fn flow_of(packet: &[u8]) -> Flow {
    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let upper = if is_ipv4 {
        ipv4_payload(packet)
    } else {
        ipv6_payload(packet)
    };
    let protocol = upper.protocol;
    let ports = match (protocol, upper.at) {
        (_, None) => Ports::Elsewhere,
        (TCP | UDP | SCTP | UDP_LITE, Some(at)) => ports_at(packet, at),
        // Still an extension: the packet has ended, or there are too many. (IPv4 has none.)
        (other, Some(_)) if is_extension(other) || (!is_ipv4 && is_opaque(other)) => Ports::CutOff,
        _ => Ports::None,
    };
    Flow {
        protocol,
        ports,
        at: upper.at.unwrap_or(0),
        fragment: upper.fragment,
    }
}

/// The same number for every packet of a flow in one direction, spread over 32 bits.
///
/// Fragments, of which only the first one shows its ports, go by their addresses alone.
#[must_use]
pub fn flow_hash(packet: &[u8]) -> u32 {
    let addresses = match packet.first() {
        Some(first) if first >> 4 == 4 => packet.get(12..20),
        _ => packet.get(8..40),
    };
    let flow = flow_of(packet);
    let ports = match flow.ports {
        Ports::Shown {
            source,
            destination,
        } if !is_fragment(packet) => u32::from(source) << 16 | u32::from(destination),
        _ => 0,
    };
    let words = addresses.unwrap_or_default().chunks_exact(4);
    let hash = words.fold(ports, |hash, word| {
        let word = word.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
        mix(hash ^ word)
    });
    mix(hash)
}

/// Every bit in changes about half of those out; one to one.
const fn mix(mut hash: u32) -> u32 {
    hash = (hash ^ hash >> 16).wrapping_mul(0x7FEB_352D);
    hash = (hash ^ hash >> 15).wrapping_mul(0x846C_A68B);
    hash ^ hash >> 16
}

fn ipv4_payload(packet: &[u8]) -> Upper {
    let Some(head) = packet.first_chunk::<IPV4_HEADER_SIZE>() else {
        return Upper::ended(0, packet);
    };
    let size = (usize::from(head[0] & 0x0F) * 4).max(IPV4_HEADER_SIZE);
    let place = u16::from_be_bytes([head[6], head[7]]) & 0x3FFF;
    let start = u32::from(place & 0x1FFF) * 8;
    let fragment = (place != 0).then(|| Fragment {
        number: u16::from_be_bytes([head[4], head[5]]).into(),
        protocol: head[9],
        start,
        end: start + packet.len().saturating_sub(size) as u32,
    });
    Upper {
        protocol: head[9],
        at: (start == 0).then_some(size),
        fragment,
    }
}

/// The same behind the extension headers of IPv6; one of their own numbers if the packet ends
/// among them or has too many.
///
/// A fragment that is the whole packet is none (RFC 6946).
pub(crate) fn ipv6_payload(packet: &[u8]) -> Upper {
    let Some(head) = packet.first_chunk::<IPV6_HEADER_SIZE>() else {
        return Upper::ended(0, packet);
    };
    let (mut protocol, mut at) = (head[6], IPV6_HEADER_SIZE);
    let (mut fragment, mut was_cut) = (None, false);
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(protocol) {
            break;
        }
        let Some(header) = packet.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            break;
        };
        if protocol == FRAGMENT {
            if was_cut {
                break; // fragments are not fragmented again
            }
            was_cut = true;
            // Eight bytes, of which none says so.
            at += 8;
            let &[following, _, p0, p1, n0, n1, n2, n3] = header;
            let place = u16::from_be_bytes([p0, p1]);
            let start = u32::from(place & 0xFFF8);
            fragment = (place & 0xFFF9 != 0).then(|| Fragment {
                number: u32::from_be_bytes([n0, n1, n2, n3]),
                protocol: 0,
                start,
                end: start + (packet.len() - at) as u32,
            });
            if start != 0 {
                return Upper {
                    protocol: following,
                    at: None,
                    fragment,
                };
            }
        } else {
            at += (usize::from(header[1]) + 1) * 8;
        }
        protocol = header[0];
    }
    Upper {
        protocol,
        at: Some(at),
        fragment,
    }
}

impl Upper {
    /// Of a packet that ends before it says anything.
    const fn ended(protocol: u8, packet: &[u8]) -> Self {
        Self {
            protocol,
            at: Some(packet.len()),
            fragment: None,
        }
    }
}

fn ports_at(packet: &[u8], at: usize) -> Ports {
    let ports = packet.get(at..).and_then(|rest| rest.first_chunk::<4>());
    let Some(&[s0, s1, d0, d1]) = ports else {
        return Ports::CutOff;
    };
    Ports::Shown {
        source: u16::from_be_bytes([s0, s1]),
        destination: u16::from_be_bytes([d0, d1]),
    }
}
