//! Which flow an inner packet belongs to: what is above IP, and its ports.

use crate::inner::{IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, is_fragment};

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Whether an IPv6 header with this number is followed by another one.
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
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
    /// The packet ends before them, or before what tells whether there are any.
    CutOff,
    /// They were in another fragment.
    Elsewhere,
}

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The protocol's number; of IPv6 that behind the extension headers.
    pub protocol: u8,
    /// Its ports.
    pub ports: Ports,
}

/// The flow of a packet that is past `parse_inner` and cut to its length.
#[must_use]
pub fn flow_of(packet: &[u8]) -> Flow {
    let (protocol, at) = match packet.first() {
        Some(first) if first >> 4 == 4 => ipv4_payload(packet),
        _ => ipv6_payload(packet),
    };
    let ports = match (protocol, at) {
        (_, None) => Ports::Elsewhere,
        (TCP | UDP | SCTP | UDP_LITE, Some(at)) => ports_at(packet, at),
        // Still one of these: the packet has ended. (IPv4 carries none of them.)
        (extension, Some(_)) if is_extension(extension) => Ports::CutOff,
        _ => Ports::None,
    };
    Flow { protocol, ports }
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

/// The protocol and where its header begins; `None` in a later fragment.
fn ipv4_payload(packet: &[u8]) -> (u8, Option<usize>) {
    let Some(head) = packet.first_chunk::<IPV4_HEADER_SIZE>() else {
        return (0, Some(packet.len()));
    };
    let is_first = u16::from_be_bytes([head[6], head[7]]) & 0x1FFF == 0;
    let size = (usize::from(head[0] & 0x0F) * 4).max(IPV4_HEADER_SIZE);
    (head[9], is_first.then_some(size))
}

/// The same behind the extension headers of IPv6; one of their own numbers if the packet ends
/// among them.
pub(crate) fn ipv6_payload(packet: &[u8]) -> (u8, Option<usize>) {
    let Some(head) = packet.first_chunk::<IPV6_HEADER_SIZE>() else {
        return (0, Some(packet.len()));
    };
    let (mut protocol, mut at) = (head[6], IPV6_HEADER_SIZE);
    while is_extension(protocol) {
        let Some(header) = packet.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            break;
        };
        if protocol == FRAGMENT {
            // Eight bytes, of which none says so.
            if u16::from_be_bytes([header[2], header[3]]) & 0xFFF8 != 0 {
                return (header[0], None);
            }
            at += 8;
        } else {
            at += (usize::from(header[1]) + 1) * 8;
        }
        protocol = header[0];
    }
    (protocol, Some(at))
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
