//! What a datapath must know about the packets inside the tunnel: lengths, addresses, ECN.
//!
//! Every function takes bytes that a peer chose and looks at none without having checked
//! that it is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::MODULUS;
use crate::virtio::UDP;

/// Without options.
pub const IPV4_HEADER_SIZE: usize = 20;
/// Without extension headers.
pub const IPV6_HEADER_SIZE: usize = 40;

/// ECN: the packet's transport knows nothing of it.
pub const NOT_ECT: u8 = 0;
/// ECN: capable, ECT(1).
pub const ECT1: u8 = 1;
/// ECN: capable, ECT(0).
pub const ECT0: u8 = 2;
/// ECN: congestion experienced.
pub const CE: u8 = 3;
/// The part of a TOS byte that is ECN's.
pub const ECN_MASK: u8 = 3;

const PADDING: usize = 16;
const FRAGMENT: u8 = 44;

/// The part of an inner packet's header that routing needs.
///
/// `length` is the packet's own, never above that of the bytes it was parsed from; the
/// addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Of the whole IP packet, in bytes, without padding behind it.
    pub length: usize,
    /// Who it says it is from.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
}

impl Inner {
    /// 4 or 6.
    #[must_use]
    pub fn version(&self) -> u8 {
        if self.source.is_ipv4() { 4 } else { 6 }
    }
}

/// The header of an IP packet that may be followed by padding; None for anything else.
///
/// Protocol rule 32.
#[must_use]
#[inline]
pub fn parse_inner(packet: &[u8]) -> Option<Inner> {
    let (source, destination) = addresses(packet)?;
    let (length, least) = if source.is_ipv4() {
        (word(packet, 2)?, IPV4_HEADER_SIZE)
    } else {
        (IPV6_HEADER_SIZE + word(packet, 4)?, IPV6_HEADER_SIZE)
    };
    (least..=packet.len()).contains(&length).then_some(Inner {
        length,
        source,
        destination,
    })
}

fn word(packet: &[u8], at: usize) -> Option<usize> {
    let bytes = packet.get(at..)?.first_chunk()?;
    Some(usize::from(u16::from_be_bytes(*bytes)))
}

/// Source and destination, whatever the lengths say; None without an IP header.
#[inline]
pub(crate) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *packet.first_chunk::<IPV4_HEADER_SIZE>()?;
            Some((
                Ipv4Addr::new(s0, s1, s2, s3).into(),
                Ipv4Addr::new(d0, d1, d2, d3).into(),
            ))
        }
        6 => {
            let head: &[u8; IPV6_HEADER_SIZE] = packet.first_chunk()?;
            let (source, destination) = head[8..].split_first_chunk::<16>()?;
            let destination: &[u8; 16] = destination.first_chunk()?;
            Some((
                Ipv6Addr::from(*source).into(),
                Ipv6Addr::from(*destination).into(),
            ))
        }
        _ => None,
    }
}

/// Whether a packet past [`parse_inner`] is a fragment, be it of one piece: of IPv6, whether
/// its first header says so.
#[must_use]
pub fn is_fragment(packet: &[u8]) -> bool {
    match packet {
        [first, _, _, _, _, _, high, low, ..] if first >> 4 == 4 => high & 0x3F != 0 || *low != 0,
        [_, _, _, _, _, _, next, ..] => *next == FRAGMENT,
        _ => false,
    }
}

/// Where the payload of a UDP packet begins, or that of one's first fragment.
///
/// None for everything else; it may lie beyond the end of what is there. Extension
/// headers other than the fragment's are not followed.
#[must_use]
pub fn udp_payload(packet: &[u8]) -> Option<usize> {
    let head: &[u8; IPV4_HEADER_SIZE] = packet.first_chunk()?;
    if head[0] >> 4 == 4 {
        let header = usize::from(head[0] & 0x0F) * 4;
        let is_first = head[6] & 0x1F == 0 && head[7] == 0;
        return (head[9] == UDP && is_first && header >= IPV4_HEADER_SIZE).then_some(header + 8);
    }
    if head[6] == UDP {
        return Some(IPV6_HEADER_SIZE + 8);
    }
    if head[6] != FRAGMENT {
        return None;
    }
    let fragment: &[u8; 8] = packet.get(IPV6_HEADER_SIZE..)?.first_chunk()?;
    if fragment[0] != UDP || fragment[2] != 0 || fragment[3] & 0xF8 != 0 {
        return None;
    }
    Some(IPV6_HEADER_SIZE + 16)
}

/// How long `size` bytes of plaintext become on the wire, tag and header not counted.
///
/// A multiple of 16, but no longer than the MTU (protocol rule 33). What exceeds the MTU
/// is padded as its last MTU-sized part would be, as in the kernel. `mtu` 0 means that
/// there is none. Never less than `size`, and growing with it.
#[must_use]
#[inline]
pub fn padded_size(size: usize, mtu: usize) -> usize {
    if mtu == 0 {
        return size.next_multiple_of(PADDING);
    }
    let last = if size > mtu { size % mtu } else { size };
    size - last + mtu.min(last.next_multiple_of(PADDING))
}

/// The TOS byte of an IPv4 header, the traffic class of an IPv6 one; 0 without one.
#[must_use]
#[inline]
pub fn traffic_class(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => *second,
        [first, second, ..] => (first & 0x0F) << 4 | second >> 4,
        _ => 0,
    }
}

/// The outer TOS of a data packet: no DSCP, which would tell strangers what is inside.
///
/// ECN is copied, except that a mark already suffered starts afresh as ECT(0): else the
/// path inside the tunnel could not be told from the path outside (RFC 6040, 4.1, as the
/// kernel does).
#[must_use]
#[inline]
pub fn outer_tos(inner_traffic_class: u8) -> u8 {
    match inner_traffic_class & ECN_MASK {
        CE => ECT0,
        ecn => ecn,
    }
}

/// Whether an outer mark of this kind changes nothing inside, whatever the packet.
#[must_use]
#[inline]
pub fn is_plain_ecn(outer: u8) -> bool {
    matches!(outer & ECN_MASK, NOT_ECT | ECT0)
}

/// Carry the outer header's congestion mark into the inner packet (RFC 6040, 4.2).
///
/// Changes the packet, past [`parse_inner`], in place, with an IPv4 header's checksum.
/// `outer` is the TOS byte or traffic class that the datagram arrived with. False when
/// the packet must be dropped: congestion that it cannot express.
#[must_use]
pub fn merge_ecn(packet: &mut [u8], outer: u8) -> bool {
    let outer = outer & ECN_MASK;
    if is_plain_ecn(outer) {
        return true;
    }
    let inner = traffic_class(packet) & ECN_MASK;
    if inner == NOT_ECT {
        return outer != CE;
    }
    if inner != CE && inner != outer {
        set_ecn(packet, outer);
    }
    true
}

fn set_ecn(packet: &mut [u8], ecn: u8) {
    let Some(head) = packet.first_chunk_mut::<IPV4_HEADER_SIZE>() else {
        return;
    };
    if head[0] >> 4 == 6 {
        head[1] = head[1] & 0xCF | ecn << 4;
        return;
    }
    // The header's sum changes by what its first word changes by (RFC 1624).
    let (old, new) = (head[1], head[1] & 0xFC | ecn);
    let sum = u32::from(u16::from_be_bytes([head[10], head[11]]));
    let sum = (sum + MODULUS + u32::from(old) - u32::from(new)) % MODULUS;
    head[1] = new;
    [head[10], head[11]] = (sum as u16).to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{complement, word_sum};
    use proptest::prelude::*;

    fn ipv4(length: u16, room: usize) -> Vec<u8> {
        let mut packet = vec![0; room];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet
    }

    #[test]
    fn an_ipv4_header_gives_its_length_and_addresses() {
        let inner = parse_inner(&ipv4(28, 32)).unwrap();
        assert_eq!(inner.length, 28);
        assert_eq!(inner.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(inner.destination, IpAddr::from([10, 0, 0, 2]));
        assert_eq!(inner.version(), 4);
    }

    #[test]
    fn an_ipv6_header_gives_its_length_and_addresses() {
        let mut packet = vec![0; 56];
        packet[0] = 0x60;
        packet[5] = 9;
        packet[8..24].fill(1);
        packet[24..40].fill(2);
        let inner = parse_inner(&packet).unwrap();
        assert_eq!(inner.length, 49);
        assert_eq!(inner.source, IpAddr::from([1_u8; 16]));
        assert_eq!(inner.destination, IpAddr::from([2_u8; 16]));
        assert_eq!(inner.version(), 6);
    }

    #[test]
    fn lengths_that_lie_are_no_packets() {
        for (length, room) in [(19, 20), (21, 20), (0, 40), (65_535, 1500)] {
            assert_eq!(parse_inner(&ipv4(length, room)), None, "{length} in {room}");
        }
        let mut ipv6 = vec![0; 48];
        ipv6[0] = 0x60;
        ipv6[5] = 9;
        assert_eq!(parse_inner(&ipv6), None);
        assert_eq!(parse_inner(&ipv6[..39]), None);
        assert_eq!(parse_inner(&[0x50; 40]), None);
        assert_eq!(parse_inner(&[]), None);
    }

    #[test]
    fn sizes_are_padded_to_sixteen_but_not_beyond_the_mtu() {
        let table = [
            (0, 1420, 0),
            (1, 1420, 16),
            (1408, 1420, 1408),
            (1409, 1420, 1420),
            (1420, 1420, 1420),
            (1421, 1420, 1436),
            (2840, 1420, 2840),
            (17, 0, 32),
            (5, 3, 6),
        ];
        for (size, mtu, padded) in table {
            assert_eq!(padded_size(size, mtu), padded, "{size} at {mtu}");
        }
    }

    #[test]
    fn the_payload_of_udp_is_found_and_nothing_else_is_taken_for_it() {
        let mut packet = ipv4(40, 40);
        packet[9] = UDP;
        assert_eq!(udp_payload(&packet), Some(28));
        packet[0] = 0x4F;
        assert_eq!(udp_payload(&packet), Some(68));
        packet[7] = 1;
        assert_eq!(udp_payload(&packet), None);
        packet[7] = 0;
        packet[0] = 0x44;
        assert_eq!(udp_payload(&packet), None, "no header is that short");
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[6] = UDP;
        assert_eq!(udp_payload(&packet), Some(48));
        packet[6] = FRAGMENT;
        packet[40] = UDP;
        assert_eq!(udp_payload(&packet), Some(56));
        packet[43] = 8;
        assert_eq!(udp_payload(&packet), None);
        assert_eq!(udp_payload(&packet[..47]), None);
    }

    #[test]
    fn ecn_follows_rfc_6040() {
        // (inner, outer) -> what the inner one becomes; None: dropped.
        let table = [
            (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
            (NOT_ECT, ECT0, Some(NOT_ECT)),
            (NOT_ECT, ECT1, Some(NOT_ECT)),
            (NOT_ECT, CE, None),
            (ECT0, NOT_ECT, Some(ECT0)),
            (ECT0, ECT0, Some(ECT0)),
            (ECT0, ECT1, Some(ECT1)),
            (ECT0, CE, Some(CE)),
            (ECT1, NOT_ECT, Some(ECT1)),
            (ECT1, ECT0, Some(ECT1)),
            (ECT1, ECT1, Some(ECT1)),
            (ECT1, CE, Some(CE)),
            (CE, NOT_ECT, Some(CE)),
            (CE, ECT0, Some(CE)),
            (CE, ECT1, Some(CE)),
            (CE, CE, Some(CE)),
        ];
        for (inner, outer, becomes) in table {
            let mut v4 = ipv4(20, 20);
            v4[1] = 0xA8 | inner;
            let sum = complement(word_sum(&v4));
            v4[10..12].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(merge_ecn(&mut v4, 0x50 | outer), becomes.is_some());
            assert_eq!(v4[1], 0xA8 | becomes.unwrap_or(inner));
            assert_eq!(word_sum(&v4) % MODULUS, 0);

            let mut v6 = vec![0; 40];
            v6[0] = 0x6A;
            v6[1] = 0x85 | inner << 4;
            assert_eq!(merge_ecn(&mut v6, outer), becomes.is_some());
            assert_eq!(v6[..2], [0x6A, 0x85 | becomes.unwrap_or(inner) << 4]);
        }
        assert_eq!([0, 1, 2, 3, 0xFF].map(outer_tos), [0, 1, 2, 2, 2]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(
            mut packet in proptest::collection::vec(any::<u8>(), 0..120), tos: u8
        ) {
            let parsed = parse_inner(&packet);
            prop_assert!(parsed.is_none_or(|inner| inner.length <= packet.len()));
            let _ = (udp_payload(&packet), traffic_class(&packet), merge_ecn(&mut packet, tos));
        }

        #[test]
        fn padding_grows_with_the_size(size in 0_usize..70_000, mtu in 0_usize..70_000) {
            let padded = padded_size(size, mtu);
            prop_assert!(padded >= size && padded < size + 16);
            prop_assert!(padded_size(size + 1, mtu) >= padded);
        }
    }
}
