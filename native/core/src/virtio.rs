//! The virtio-net header before every packet of a TUN device: what is left undone.
//!
//! Source: virtio 1.2 section 5.1.6, include/uapi/linux/virtio_net.h.

use crate::checksum::{MODULUS, complement, word_sum};

/// struct virtio_net_hdr, in bytes.
pub const VIRTIO_HEADER_SIZE: usize = 10;
/// The header of a packet that is what it says: complete, checksums included.
pub const NO_OFFLOAD: [u8; VIRTIO_HEADER_SIZE] = [0; VIRTIO_HEADER_SIZE];

/// Flag: the checksum at `csum_start + csum_offset` is to be computed from `csum_start` on.
pub const NEEDS_CSUM: u8 = 1;
/// A packet that is no superpacket.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4 to be cut.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6 to be cut.
pub const GSO_TCPV6: u8 = 4;
/// UDP to be cut into packets.
pub const GSO_UDP_L4: u8 = 5;
/// Added to the others: the first segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// The IP protocol number of TCP.
pub const TCP: u8 = 6;
/// The IP protocol number of UDP.
pub const UDP: u8 = 17;
/// Where in a TCP header its checksum is.
pub const TCP_CHECKSUM_OFFSET: u16 = 16;
/// Where in a UDP header its checksum is.
pub const UDP_CHECKSUM_OFFSET: u16 = 6;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// Of one datagram over IPv4, and so of one send of many segments.
pub const MAX_UDP_PAYLOAD: usize = 65_507;

/// The header and the packet behind it contradict each other (`BAD_INNER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

/// struct virtio_net_hdr, in the byte order of the machine.
///
/// `header_length` is a hint that forwarded packets get wrong: never used here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CSUM`] or 0.
    pub flags: u8,
    /// One of the `GSO_` constants.
    pub gso_type: u8,
    /// Of all headers, in bytes: a hint.
    pub header_length: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Where the transport header begins, in bytes from the IP header.
    pub csum_start: u16,
    /// Where in the transport header the checksum is.
    pub csum_offset: u16,
}

impl VirtioHeader {
    /// The bytes that a write begins with.
    #[must_use]
    pub fn pack(&self) -> [u8; VIRTIO_HEADER_SIZE] {
        let [h0, h1] = self.header_length.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }

    /// From the first 10 bytes of what was read, and the packet behind them.
    ///
    /// # Errors
    /// There are fewer.
    pub fn parse(frame: &[u8]) -> Result<Self, BadFrame> {
        let Some(&[flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]) = frame.first_chunk() else {
            return Err(BadFrame);
        };
        Ok(Self {
            flags,
            gso_type,
            header_length: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }
}

/// Do in place what the kernel left undone in a packet that needs no splitting.
///
/// # Errors
/// The checksum would lie outside of the packet.
pub fn complete_checksum(header: &VirtioHeader, packet: &mut [u8]) -> Result<(), BadFrame> {
    if header.flags & NEEDS_CSUM == 0 {
        return Ok(());
    }
    let start = usize::from(header.csum_start);
    let covered = packet.get_mut(start..).ok_or(BadFrame)?;
    // The field holds the pseudo header's sum, so that it is summed up with the rest.
    let sum = complement(word_sum(covered));
    let at = usize::from(header.csum_offset);
    let field = covered.get_mut(at..at + 2).ok_or(BadFrame)?;
    let sum = if sum == 0 && header.csum_offset == UDP_CHECKSUM_OFFSET {
        MODULUS as u16 // in UDP 0 would mean "no checksum"
    } else {
        sum
    };
    field.copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_packing_and_parsing() {
        let header = VirtioHeader {
            flags: 1,
            gso_type: 4,
            header_length: 72,
            gso_size: 1368,
            csum_start: 40,
            csum_offset: 16,
        };
        assert_eq!(VirtioHeader::parse(&header.pack()), Ok(header));
        assert_eq!(VirtioHeader::default().pack(), NO_OFFLOAD);
    }

    #[test]
    fn nine_bytes_are_no_header() {
        assert_eq!(VirtioHeader::parse(&[0; 9]), Err(BadFrame));
    }

    #[test]
    fn a_checksum_outside_of_the_packet_is_refused() {
        for (csum_start, csum_offset) in [
            (20, 7),
            (28, 0),
            (60_000, 60_000),
            (27, 0),
            (0xFFFF, 0xFFFF),
        ] {
            let header = VirtioHeader {
                flags: NEEDS_CSUM,
                csum_start,
                csum_offset,
                ..Default::default()
            };
            assert_eq!(complete_checksum(&header, &mut [0; 28]), Err(BadFrame));
        }
    }

    #[test]
    fn without_the_flag_nothing_is_touched() {
        let header = VirtioHeader {
            csum_start: 60_000,
            ..Default::default()
        };
        let mut packet = [7; 28];
        assert_eq!(complete_checksum(&header, &mut packet), Ok(()));
        assert_eq!(packet, [7; 28]);
    }

    #[test]
    fn a_udp_sum_of_zero_is_written_as_all_ones_and_a_tcp_one_as_zero() {
        for (csum_offset, written) in [(6, 0xFFFF_u16), (16, 0)] {
            let header = VirtioHeader {
                flags: NEEDS_CSUM,
                csum_start: 20,
                csum_offset,
                ..Default::default()
            };
            let mut packet = [0; 40];
            assert_eq!(complete_checksum(&header, &mut packet), Ok(()));
            let at = 20 + usize::from(csum_offset);
            assert_eq!(packet[at..at + 2], written.to_be_bytes());
        }
    }
}
