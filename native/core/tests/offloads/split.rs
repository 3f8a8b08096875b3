//! Superpackets become the packets they stand for, ready to be sealed.

use crate::packets::{ACK, CWR, FIN, Flow, PSH, flow, flows, payload};
use nvpn_core::inner::{padded_size, parse_inner};
use nvpn_core::split::{SEND_BYTES, Split};
use nvpn_core::virtio::{BadFrame, VirtioHeader};
use proptest::prelude::*;

const MTU: usize = 1420;

/// The sends, each a list of padded plaintexts.
fn cut(frame: &(VirtioHeader, Vec<u8>), mtu: usize, max_segments: usize) -> Vec<Vec<Vec<u8>>> {
    let mut split = Split::new(&frame.0, &frame.1, mtu, max_segments).unwrap();
    let mut out = Box::new([0xEE; SEND_BYTES]);
    let mut sends = Vec::new();
    while let Some(datagrams) = split.fill(&mut out) {
        assert!(datagrams.stride() <= split.largest());
        sends.push(
            datagrams
                .ranges()
                .map(|range| out[range.start + 16..range.end - 16].to_vec())
                .collect(),
        );
    }
    let made: usize = sends.iter().map(|send: &Vec<_>| send.len()).sum();
    assert_eq!(made, split.count());
    sends
}

/// Padding taken off, and looked at.
fn unpadded(sends: &[Vec<Vec<u8>>], mtu: usize) -> Vec<Vec<u8>> {
    sends
        .iter()
        .flatten()
        .map(|plain| {
            let length = parse_inner(plain).unwrap().length;
            assert_eq!(plain.len(), padded_size(length, mtu));
            assert!(plain[length..].iter().all(|byte| *byte == 0));
            plain[..length].to_vec()
        })
        .collect()
}

fn assert_becomes_segments(flow: &Flow, size: usize, gso_size: u16, sequence: u32, flags: u8) {
    let payload = payload(size);
    let frame = flow.superpacket(&payload, gso_size, sequence, flags);
    let segments = flow.segments(&payload, gso_size, sequence, flags);
    assert_eq!(unpadded(&cut(&frame, MTU, 128), MTU), segments);
}

#[test]
fn a_superpacket_becomes_the_packets_it_stands_for() {
    for flow in flows() {
        for size in [1, 1367, 1368, 1369, 5000, 45 * 1368, 45 * 1368 + 1] {
            assert_becomes_segments(&flow, size, 1368, 1000, ACK | PSH);
        }
    }
}

#[test]
fn a_packet_without_payload_stays_one() {
    for flow in flows() {
        assert_becomes_segments(&flow, 0, 1368, 1000, ACK | FIN | CWR);
    }
}

#[test]
fn flags_go_where_the_sender_meant_them() {
    for is_ipv4 in [true, false] {
        assert_becomes_segments(&flow(is_ipv4, true), 3000, 1000, 1, ACK | PSH | FIN | CWR);
    }
}

#[test]
fn sequence_numbers_wrap() {
    for is_ipv4 in [true, false] {
        assert_becomes_segments(&flow(is_ipv4, true), 9000, 1000, u32::MAX - 2500, ACK);
    }
}

#[test]
fn packets_that_may_be_fragmented_are_numbered() {
    for is_tcp in [true, false] {
        let flow = Flow {
            dont_fragment: false,
            number: 0xFFFE,
            ..flow(true, is_tcp)
        };
        assert_becomes_segments(&flow, 5000, 1000, 1, ACK);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_its_twin() {
    for is_ipv4 in [true, false] {
        let flow = flow(is_ipv4, false);
        let field = flow.start() + 6;
        // What completes the sum is the word that makes the next one zero.
        let packet = flow.packet(&[0, 0], 0, 0);
        let missing = [packet[field], packet[field + 1]];
        let frame = flow.superpacket(&missing, 1000, 0, 0);
        let segments = unpadded(&cut(&frame, MTU, 64), MTU);
        assert_eq!(segments, [flow.packet(&missing, 0, 0)]);
        assert_eq!(segments[0][field..field + 2], [0xFF, 0xFF]);
    }
}

#[test]
fn forty_five_full_segments_are_one_send() {
    let frame = flow(true, true).superpacket(&payload(45 * 1368), 1368, 1, ACK);
    assert_eq!(
        cut(&frame, MTU, 128)
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [45]
    );
    // One byte more than that, and no more fits.
    let frame = flow(true, true).superpacket(&payload(45 * 1368 + 100), 1368, 1, ACK);
    assert_eq!(
        cut(&frame, MTU, 128)
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [45, 1]
    );
}

#[test]
fn a_short_last_one_goes_along_where_there_is_room() {
    let frame = flow(true, true).superpacket(&payload(40 * 1368 + 7), 1368, 1, ACK);
    assert_eq!(
        cut(&frame, MTU, 128)
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [41]
    );
    assert_eq!(
        cut(&frame, MTU, 40)
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [40, 1]
    );
    assert_eq!(cut(&frame, MTU, 0).len(), 41, "no fewer than one");
}

#[test]
fn more_segments_than_one_send_takes_come_in_several() {
    let flow = flow(true, false);
    let payload = payload(1000);
    let frame = flow.superpacket(&payload, 1, 0, 0);
    let sends = cut(&frame, MTU, 64);
    assert_eq!(sends.len(), 1000_usize.div_ceil(64));
    assert_eq!(unpadded(&sends, MTU), flow.segments(&payload, 1, 0, 0));
}

#[test]
fn a_segment_longer_than_any_datagram_is_made_all_the_same() {
    // Whoever sends has to refuse it; `largest` says so.
    let frame = flow(false, true).superpacket(&payload(65_463), 65_463, 1, ACK);
    let split = Split::new(&frame.0, &frame.1, 0, 128).unwrap();
    assert_eq!(split.largest(), 65_536 + 32);
    assert_eq!(cut(&frame, 0, 128).len(), 1);
}

#[test]
fn addresses_are_known_before_anything_is_made() {
    for flow in flows() {
        let frame = flow.superpacket(&payload(5000), 1000, 1, ACK);
        let split = Split::new(&frame.0, &frame.1, MTU, 128).unwrap();
        let segment = &flow.segments(&payload(5000), 1000, 1, ACK)[0];
        assert_eq!(Some(split.inner()), parse_inner(segment));
    }
}

#[test]
fn a_contradiction_is_refused() {
    let (header, packet) = flow(true, true).superpacket(&payload(3000), 1000, 1, ACK);
    let table = [
        VirtioHeader {
            gso_type: 0,
            ..header
        },
        VirtioHeader {
            gso_type: 3,
            ..header
        },
        VirtioHeader {
            gso_type: 0x80,
            ..header
        },
        VirtioHeader {
            gso_size: 0,
            ..header
        },
        VirtioHeader { flags: 0, ..header },
        VirtioHeader {
            csum_start: 0,
            ..header
        },
        VirtioHeader {
            csum_start: 24,
            ..header
        },
        VirtioHeader {
            csum_start: u16::MAX,
            ..header
        },
    ];
    for header in table {
        assert_eq!(
            Split::new(&header, &packet, MTU, 64).err(),
            Some(BadFrame),
            "{header:?}"
        );
    }
    for words in 0..5 {
        let mut short = packet.clone();
        short[32] = words << 4;
        assert_eq!(
            Split::new(&header, &short, MTU, 64).err(),
            Some(BadFrame),
            "{words}"
        );
    }
    for size in 0..52 {
        assert_eq!(
            Split::new(&header, &packet[..size], MTU, 64).err(),
            Some(BadFrame),
            "{size}"
        );
    }
    let vast = vec![0x45; 65_536];
    assert_eq!(Split::new(&header, &vast, MTU, 64).err(), Some(BadFrame));
}

proptest! {
    #[test]
    fn every_superpacket_becomes_its_segments(
        (is_ipv4, is_tcp) in any::<(bool, bool)>(),
        size in 0_usize..6000,
        gso_size in 1_u16..2000,
        sequence: u32,
        flags: u8,
        options in 0_usize..=10,
        dont_fragment: bool,
        mtu in 0_usize..3000,
        max_segments in 0_usize..200,
    ) {
        let flow = Flow {
            options: vec![1; options * 4],
            dont_fragment,
            ..flow(is_ipv4, is_tcp)
        };
        let payload = payload(size);
        let frame = flow.superpacket(&payload, gso_size, sequence, flags);
        let sends = cut(&frame, mtu, max_segments);
        prop_assert_eq!(unpadded(&sends, mtu), flow.segments(&payload, gso_size, sequence, flags));
    }

    #[test]
    fn no_frame_does_more_than_be_refused(
        flags: u8, gso_type: u8, gso_size: u16, csum_start in 0_u16..100, csum_offset: u16,
        mut packet in proptest::collection::vec(any::<u8>(), 1..300), version in 4_u8..=7,
        mtu in 0_usize..3000,
    ) {
        packet[0] = version << 4 | packet[0] & 15;
        let header =
            VirtioHeader { flags, gso_type, header_length: 0, gso_size, csum_start, csum_offset };
        if Split::new(&header, &packet, mtu, 64).is_ok() {
            cut(&(header, packet), mtu, 64);
        }
    }
}
