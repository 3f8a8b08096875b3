//! The headers of what is written, made anew in a room of their own.

use crate::checksum::{MODULUS, complement, pseudo_sum, word_sum};
use crate::coalesce::segment::Shape;
use crate::inner::{IPV4_HEADER_SIZE, IPV6_HEADER_SIZE};
use crate::virtio::{
    GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, PSH, TCP, TCP_CHECKSUM_OFFSET, UDP,
    UDP_CHECKSUM_OFFSET, VIRTIO_HEADER_SIZE, VirtioHeader,
};

/// A virtio-net header, and how many bytes of the first packet the headers stand for.
pub(super) type Head = ([u8; VIRTIO_HEADER_SIZE], usize);

/// What a train comes to: its bytes in all, and those of a segment's payload.
pub(super) struct Whole {
    pub(super) size: usize,
    pub(super) segment: usize,
}

/// Make the headers of a whole train in `room`.
pub(super) fn merge_heads(
    whole: &Whole,
    shape: Shape,
    first: &[u8],
    last: &[u8],
    room: &mut [u8],
) -> Option<Head> {
    let Shape {
        is_tcp,
        start,
        head_size,
    } = shape;
    let head = room.get_mut(..head_size)?;
    head.copy_from_slice(first.get(..head_size)?);
    let is_ipv4 = start == IPV4_HEADER_SIZE;
    if is_ipv4 {
        put16(head, 2, whole.size as u16);
        put16(head, 10, 0);
        let sum = complement(word_sum(&head[..start]));
        put16(head, 10, sum);
    } else {
        put16(head, 4, (whole.size - IPV6_HEADER_SIZE) as u16);
    }
    if is_tcp {
        head[start + 13] |= last.get(start + 13)? & PSH;
    } else {
        put16(head, start + 4, (whole.size - start) as u16);
    }
    let gso_type = match (is_tcp, is_ipv4) {
        (false, _) => GSO_UDP_L4,
        (true, true) => GSO_TCPV4,
        (true, false) => GSO_TCPV6,
    };
    Some((
        partial(
            head,
            shape,
            whole.size,
            gso_type,
            whole.segment.try_into().ok()?,
        ),
        head_size,
    ))
}

/// Leave the checksum of a TCP or UDP packet to the kernel, in a copy of its headers.
///
/// None if it is neither, a part of one, or has no checksum; or options, among which a source
/// route would change what the sum is over.
pub(super) fn leave_checksum(packet: &[u8], room: &mut [u8]) -> Option<Head> {
    let ip: &[u8; IPV4_HEADER_SIZE] = packet.first_chunk()?;
    let (protocol, start) = match ip[0] >> 4 {
        4 if ip[0] == 0x45 && ip[6] & 0xBF == 0 && ip[7] == 0 => (ip[9], IPV4_HEADER_SIZE),
        6 => (ip[6], IPV6_HEADER_SIZE),
        _ => return None,
    };
    let transport = packet.get(start..)?;
    let (is_tcp, size) = match protocol {
        TCP => (true, usize::from(transport.get(12)? >> 4) * 4),
        UDP => {
            let udp: &[u8; 8] = transport.first_chunk()?;
            let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
            if length != transport.len() || (udp[6] == 0 && udp[7] == 0) {
                return None;
            }
            (false, 8)
        }
        _ => return None,
    };
    if is_tcp && size < 20 {
        return None;
    }
    let head_size = start + size;
    let head = room.get_mut(..head_size)?;
    head.copy_from_slice(packet.get(..head_size)?);
    let shape = Shape {
        is_tcp,
        start,
        head_size,
    };
    Some((partial(head, shape, packet.len(), GSO_NONE, 0), head_size))
}

/// Write the pseudo header's sum where the transport checksum goes, as `CHECKSUM_PARTIAL`
/// wants it, and say so.
fn partial(
    head: &mut [u8],
    shape: Shape,
    size: usize,
    gso_type: u8,
    gso_size: u16,
) -> [u8; VIRTIO_HEADER_SIZE] {
    let Shape {
        is_tcp,
        start,
        head_size,
    } = shape;
    let (protocol, csum_offset) = if is_tcp {
        (TCP, TCP_CHECKSUM_OFFSET)
    } else {
        (UDP, UDP_CHECKSUM_OFFSET)
    };
    let addresses = if head[0] >> 4 == 4 { 12..20 } else { 8..40 };
    let mut sum = pseudo_sum(&head[addresses], protocol, (size - start) as u32) % MODULUS;
    if sum == 0 && !is_tcp {
        sum = MODULUS; // 0 would mean "no checksum"
    }
    put16(head, start + usize::from(csum_offset), sum as u16);
    VirtioHeader {
        flags: NEEDS_CSUM,
        gso_type,
        header_length: head_size as u16,
        gso_size,
        csum_start: start as u16,
        csum_offset,
    }
    .pack()
}

fn put16(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}
