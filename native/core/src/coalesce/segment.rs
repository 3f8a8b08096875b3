//! Which packets could be parts of a train, and which belong together.

use crate::checksum::MODULUS;
use crate::coalesce::Offers;
use crate::inner::{IPV4_HEADER_SIZE, IPV6_HEADER_SIZE};
use crate::virtio::{ACK, PSH, TCP, UDP};

/// Where the headers of such a packet lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) is_tcp: bool,
    /// Where the transport header begins, and where it ends.
    pub(super) start: usize,
    pub(super) head_size: usize,
}

/// A packet that could be a part of a train.
pub(super) struct Segment {
    pub(super) shape: Shape,
    pub(super) sequence: u32,
    pub(super) payload: usize,
    /// Nothing may be appended (PSH).
    pub(super) ends: bool,
}

impl Segment {
    /// Of the segment that would follow.
    pub(super) fn next_sequence(&self) -> u32 {
        self.sequence.wrapping_add(self.payload as u32)
    }
}

/// What decides whether a packet may be merged; None if it never may.
#[inline]
pub(super) fn recognise(packet: &[u8], offers: Offers) -> Option<Segment> {
    let (protocol, start) = match packet.first()? >> 4 {
        4 => {
            let head: &[u8; 28] = packet.first_chunk()?;
            // Nobody may fragment it, and it is no fragment: then its number means nothing.
            if head[0] != 0x45 || head[6] != 0x40 || head[7] != 0 || !is_whole(head) {
                return None;
            }
            (head[9], IPV4_HEADER_SIZE)
        }
        6 if packet.len() >= 48 => (packet[6], IPV6_HEADER_SIZE),
        _ => return None,
    };
    match protocol {
        TCP if offers.tso => recognise_tcp(packet, start),
        UDP if offers.uso => recognise_udp(packet, start),
        _ => None,
    }
}

/// Whether an IPv4 header's checksum is right.
#[inline]
fn is_whole(head: &[u8; 28]) -> bool {
    let sum: u64 = head[..IPV4_HEADER_SIZE]
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    sum.is_multiple_of(MODULUS.into())
}

#[inline]
fn recognise_tcp(packet: &[u8], start: usize) -> Option<Segment> {
    let head: &[u8; 20] = packet.get(start..)?.first_chunk()?;
    let head_size = start + usize::from(head[12] >> 4) * 4;
    let flags = head[13];
    if head_size < start + 20 || flags & !PSH != ACK || head[12] & 0x0F != 0 {
        return None;
    }
    Some(Segment {
        shape: Shape {
            is_tcp: true,
            start,
            head_size,
        },
        sequence: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
        payload: packet.len().checked_sub(head_size)?,
        ends: flags & PSH != 0,
    })
}

#[inline]
fn recognise_udp(packet: &[u8], start: usize) -> Option<Segment> {
    let datagram = packet.get(start..)?;
    let head: &[u8; 8] = datagram.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if length != datagram.len() || (head[6] == 0 && head[7] == 0) {
        return None;
    }
    Some(Segment {
        shape: Shape {
            is_tcp: false,
            start,
            head_size: start + 8,
        },
        sequence: 0,
        payload: length - 8,
        ends: false,
    })
}

/// Whether two recognised packets have the same addresses, ports and protocol.
#[inline]
pub(super) fn is_same_flow(first: &[u8], packet: &[u8], shape: Shape) -> bool {
    if first[0] >> 4 != packet[0] >> 4 {
        return false;
    }
    if shape.start == IPV4_HEADER_SIZE {
        first[9] == packet[9] && first[12..24] == packet[12..24]
    } else {
        first[6] == packet[6] && first[8..44] == packet[8..44]
    }
}

/// Whether all else is equal that must be within a train; the shapes are.
#[inline]
pub(super) fn is_alike(first: &[u8], packet: &[u8], shape: Shape) -> bool {
    let Shape {
        is_tcp,
        start,
        head_size,
    } = shape;
    let ip_alike = if start == IPV4_HEADER_SIZE {
        first[1] == packet[1] && first[8] == packet[8]
    } else {
        first[..4] == packet[..4] && first[7] == packet[7]
    };
    if !ip_alike || !is_tcp {
        return ip_alike;
    }
    let (a, b) = (&first[start..head_size], &packet[start..head_size]);
    // Acknowledgement, data offset | window | urgent pointer, options.
    a[8..13] == b[8..13] && a[14..16] == b[14..16] && a[18..] == b[18..]
}
