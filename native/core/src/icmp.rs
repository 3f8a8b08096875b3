//! Telling a program at once that its packet has nowhere to go.
//!
//! The ICMP errors that the kernel's WireGuard sends back into the tunnel: host unreachable
//! (IPv4 3/1) and address unreachable (IPv6 1/3), so that a connection fails now instead of
//! timing out.
//!
//! Source: RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 4.3.2, RFC 4443 sections 2.4
//! and 3.1.

use crate::Instant;
use crate::checksum::{complement, pseudo_sum, word_sum};
use crate::constants::SECOND;
use crate::flow::{ICMPV4, ICMPV6, ipv6_payload, is_extension};
use crate::inner::{IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, parse_inner};

const ERROR_INTERVAL: Instant = SECOND / 100;
const ERRORS_BURST: u64 = 50;

const ICMP_HEADER_SIZE: usize = 8;
const MAX_IPV4_ERROR: usize = 576;
const MAX_IPV6_ERROR: usize = 1280;
const HOPS: u8 = 64;
/// The precedence that routers give to ICMP errors.
const INTERNET_CONTROL: u8 = 0xC0;

const HOST_UNREACHABLE: [u8; 2] = [3, 1];
const ADDRESS_UNREACHABLE: [u8; 2] = [1, 3];
const ICMPV4_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
const ICMPV6_FIRST_QUERY: u8 = 128;
const ICMPV6_REDIRECT: u8 = 137;

/// How many ICMP errors a device may make: a token bucket.
///
/// It is kept as one number, the instant at which the bucket is full again.
#[derive(Debug, Default)]
pub struct ErrorLimit {
    full_again: Instant,
}

impl ErrorLimit {
    /// A full one.
    pub const fn new() -> Self {
        Self { full_again: 0 }
    }

    /// Take one error's worth, if it is there.
    pub fn allow(&mut self, now: Instant) -> bool {
        let full_again = self.full_again.max(now);
        if full_again - now > (ERRORS_BURST - 1) * ERROR_INTERVAL {
            return false;
        }
        self.full_again = full_again.saturating_add(ERROR_INTERVAL);
        true
    }
}

/// The ICMP error that answers a packet with nowhere to go: a whole IP packet.
///
/// Its source is the address that the packet was going to: this layer does not know the
/// interface's own addresses, and that one is certain to be routed into the tunnel, so
/// that no reverse-path filter takes offence.
///
/// `packet` is as read from the TUN device; it may be a superpacket. `None` where no error
/// may be sent: for an ICMP error or redirect, a fragment other than the first, a multicast
/// or broadcast destination, a source that is not one host, and what is not IP at all.
pub fn unreachable(packet: &[u8]) -> Option<Vec<u8>> {
    let inner = parse_inner(packet)?;
    if inner.version() == 4 {
        let room = MAX_IPV4_ERROR - IPV4_HEADER_SIZE - ICMP_HEADER_SIZE;
        unreachable_ipv4(packet.get(..inner.length.min(room))?)
    } else {
        let room = MAX_IPV6_ERROR - IPV6_HEADER_SIZE - ICMP_HEADER_SIZE;
        unreachable_ipv6(packet.get(..inner.length.min(room))?)
    }
}

fn unreachable_ipv4(quoted: &[u8]) -> Option<Vec<u8>> {
    let head: &[u8; IPV4_HEADER_SIZE] = quoted.first_chunk()?;
    let header = usize::from(head[0] & 0x0F) * 4;
    let is_later_fragment = u16::from_be_bytes([head[6], head[7]]) & 0x1FFF != 0;
    if header < IPV4_HEADER_SIZE || quoted.len() < header || is_later_fragment {
        return None;
    }
    if !is_host_ipv4(head[12]) || !is_host_ipv4(head[16]) {
        return None;
    }
    if head[9] == ICMPV4
        && quoted
            .get(header)
            .is_none_or(|kind| ICMPV4_ERRORS.contains(kind))
    {
        return None;
    }
    let size = IPV4_HEADER_SIZE + ICMP_HEADER_SIZE + quoted.len();
    let mut error = Vec::with_capacity(size);
    error.extend([0x45, head[1] & 0x1E | INTERNET_CONTROL]);
    error.extend((size as u16).to_be_bytes());
    error.extend([0, 0, 0, 0, HOPS, ICMPV4, 0, 0]);
    error.extend(&head[16..20]);
    error.extend(&head[12..16]);
    let sum = complement(word_sum(&error));
    error[10..12].copy_from_slice(&sum.to_be_bytes());
    append_icmp(&mut error, HOST_UNREACHABLE, quoted, 0);
    Some(error)
}

fn unreachable_ipv6(quoted: &[u8]) -> Option<Vec<u8>> {
    let source: &[u8; 16] = quoted.get(8..)?.first_chunk()?;
    let destination: &[u8; 16] = quoted.get(24..)?.first_chunk()?;
    if !is_host_ipv6(source) || !is_host_ipv6(destination) || !may_answer_ipv6(quoted) {
        return None;
    }
    let size = ICMP_HEADER_SIZE + quoted.len();
    let mut error = Vec::with_capacity(IPV6_HEADER_SIZE + size);
    error.extend([0x60, 0, 0, 0]);
    error.extend((size as u16).to_be_bytes());
    error.extend([ICMPV6, HOPS]);
    error.extend(destination);
    error.extend(source);
    let pseudo = pseudo_sum(&error[8..], ICMPV6, size as u32);
    append_icmp(&mut error, ADDRESS_UNREACHABLE, quoted, pseudo);
    Some(error)
}

/// Append the ICMP message that quotes a packet, with its checksum.
fn append_icmp(error: &mut Vec<u8>, kind: [u8; 2], quoted: &[u8], pseudo: u32) {
    let start = error.len();
    error.extend(kind);
    error.extend([0; 6]);
    error.extend(quoted);
    let sum = complement(pseudo + word_sum(&error[start..]));
    error[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
}

/// By its first byte: not "this network", loopback, multicast, reserved or broadcast.
const fn is_host_ipv4(first: u8) -> bool {
    !matches!(first, 0 | 127 | 224..)
}

/// Neither unspecified, nor loopback, nor multicast.
const fn is_host_ipv6(address: &[u8; 16]) -> bool {
    address[0] != 0xFF && u128::from_be_bytes(*address) > 1
}

/// Not for what is an ICMP error or redirect, or hides what it is.
fn may_answer_ipv6(quoted: &[u8]) -> bool {
    let upper = ipv6_payload(quoted);
    let (protocol, Some(at)) = (upper.protocol, upper.at) else {
        return false;
    };
    if protocol != ICMPV6 {
        return !is_extension(protocol);
    }
    let kind = quoted.get(at);
    kind.is_some_and(|&kind| kind >= ICMPV6_FIRST_QUERY && kind != ICMPV6_REDIRECT)
}
