//! Packets are merged when the kernel would, and come out as they went in.

use crate::packets::{ACK, FIN, Flow, PSH, SYN, flow, flows, payload};
use nvpn_core::checksum::{complement, word_sum};
use nvpn_core::coalesce::{Coalescer, HEAD_BYTES, MAX_UDP_SEGMENTS, Offers};
use nvpn_core::inner::parse_inner;
use nvpn_core::split::{SEND_BYTES, Split};
use nvpn_core::virtio::{GSO_NONE, NO_OFFLOAD, VirtioHeader, complete_checksum};
use proptest::prelude::*;

const ALL: Offers = Offers {
    tso: true,
    uso: true,
    partial: false,
};

/// What is written, and how many packets each write holds.
fn merge(packets: &[Vec<u8>], offers: Offers) -> Vec<(Vec<u8>, usize)> {
    let buffer = packets.concat();
    let mut coalescer = Coalescer::new(offers);
    let mut start = 0;
    for packet in packets {
        coalescer.push(&buffer, start..start + packet.len());
        start += packet.len();
    }
    let mut whole = Vec::new();
    let writes = (0..coalescer.len())
        .map(|index| {
            let mut head = [0xEE; HEAD_BYTES];
            let write = coalescer.write(index, &buffer, &mut head).unwrap();
            assert_eq!(write.packets().count(), write.count);
            assert_eq!(write.pieces().count(), write.count);
            whole.extend(write.packets().map(<[u8]>::to_vec));
            let mut bytes = write.head.to_vec();
            bytes.extend(write.pieces().flatten());
            (bytes, write.count)
        })
        .collect();
    assert!(
        coalescer
            .write(coalescer.len(), &buffer, &mut [0; HEAD_BYTES])
            .is_none()
    );
    // Nothing is lost, nothing is there twice.
    let mut expected = packets.to_vec();
    whole.sort();
    expected.sort();
    assert_eq!(whole, expected);
    writes
}

/// What a kernel makes of a write: the code for the other direction serves as one.
fn unmerge(frame: &[u8]) -> Vec<Vec<u8>> {
    let header = VirtioHeader::parse(frame).unwrap();
    let mut packet = frame[10..].to_vec();
    if header.gso_type == GSO_NONE {
        complete_checksum(&header, &mut packet).unwrap();
        return vec![packet];
    }
    let mut split = Split::new(&header, &packet, 1, 64).unwrap();
    let mut out = Box::new([0; SEND_BYTES]);
    let mut packets = Vec::new();
    while let Some(datagrams) = split.fill(&mut out) {
        for range in datagrams.ranges() {
            let plain = &out[range.start + 16..range.end - 16];
            packets.push(plain[..parse_inner(plain).unwrap().length].to_vec());
        }
    }
    packets
}

/// How many packets each write holds.
fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    merge(packets, ALL)
        .into_iter()
        .map(|(_, count)| count)
        .collect()
}

/// `count` packets of 100 bytes of payload.
fn train(flow: &Flow, count: usize) -> Vec<Vec<u8>> {
    flow.segments(&payload(100 * count), 100, 1000, ACK)
}

#[test]
fn a_train_becomes_one_packet_that_stands_for_it() {
    for flow in flows() {
        for rest in [0, 1, 1367] {
            let packets = flow.segments(&payload(13_680 + rest), 1368, 1000, ACK | PSH);
            let writes = merge(&packets, ALL);
            assert_eq!(writes.len(), 1);
            assert_eq!(unmerge(&writes[0].0), packets);
        }
    }
}

#[test]
fn a_packet_alone_is_written_as_it_is() {
    for flow in flows() {
        let packet = flow.packet(&payload(100), 1, ACK);
        let mut expected = NO_OFFLOAD.to_vec();
        expected.extend(&packet);
        assert_eq!(merge(&[packet], ALL), [(expected, 1)]);
    }
}

#[test]
fn a_checksum_left_to_the_kernel_comes_to_the_same() {
    for flow in flows() {
        for flags in [ACK, SYN, ACK | FIN] {
            let packet = flow.packet(&payload(101), 1, flags);
            let writes = merge(
                std::slice::from_ref(&packet),
                Offers {
                    partial: true,
                    ..ALL
                },
            );
            assert_eq!(writes[0].0[0], 1, "NEEDS_CSUM");
            assert_eq!(unmerge(&writes[0].0), [packet]);
        }
    }
}

#[test]
fn what_has_no_checksum_of_its_own_gets_none() {
    let partial = Offers {
        partial: true,
        ..ALL
    };
    let mut fragment = flow(true, false).packet(&payload(100), 1, 0);
    fragment[6] = 0x20;
    let mut later = fragment.clone();
    (later[6], later[7]) = (0, 8);
    let mut unsummed = flow(true, false).packet(&payload(100), 1, 0);
    (unsummed[26], unsummed[27]) = (0, 0);
    let mut icmp = flow(true, true).packet(&payload(100), 1, 0);
    icmp[9] = 1;
    let mut cut_off = flow(false, true).packet(&[], 1, ACK);
    cut_off.truncate(58);
    for packet in [fragment, later, unsummed, icmp, cut_off] {
        let writes = merge(&[packet], partial);
        assert_eq!(writes[0].0[..10], NO_OFFLOAD);
    }
}

#[test]
fn with_options_a_checksum_is_left_as_it_is() {
    // A source route among them, the sum would be over the last stop's address.
    for is_tcp in [true, false] {
        let plain = flow(is_tcp, true).packet(&payload(100), 1, ACK);
        let mut packet = plain[..20].to_vec();
        packet.extend([131, 7, 4, 10, 9, 9, 9, 0]);
        packet.extend(&plain[20..]);
        packet[0] = 0x47;
        let size = packet.len() as u16;
        packet[2..4].copy_from_slice(&size.to_be_bytes());
        packet[10..12].fill(0);
        let sum = complement(word_sum(&packet[..28]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let partial = Offers {
            partial: true,
            ..ALL
        };
        let writes = merge(&[packet.clone()], partial);
        assert_eq!(writes, [([&NO_OFFLOAD[..], &packet].concat(), 1)]);
    }
}

#[test]
fn two_flows_woven_into_each_other_are_both_merged() {
    for one in flows() {
        let two = Flow {
            port: 443,
            ..one.clone()
        };
        let packets: Vec<_> = train(&one, 5)
            .into_iter()
            .zip(train(&two, 5))
            .flat_map(|(a, b)| [a, b])
            .collect();
        let writes = merge(&packets, ALL);
        assert_eq!(unmerge(&writes[0].0), train(&one, 5));
        assert_eq!(unmerge(&writes[1].0), train(&two, 5));
    }
}

#[test]
fn what_the_device_does_not_take_merged_stays_apart() {
    for flow in flows() {
        let offers = Offers {
            tso: !flow.is_tcp,
            uso: flow.is_tcp,
            partial: false,
        };
        assert_eq!(merge(&train(&flow, 5), offers).len(), 5);
    }
}

#[test]
fn packets_that_differ_in_what_they_share_stay_apart() {
    for one in flows() {
        let others = [
            Flow {
                port: 443,
                ..one.clone()
            },
            Flow {
                tos: 2,
                ..one.clone()
            },
            Flow {
                ttl: 63,
                ..one.clone()
            },
        ];
        let of_tcp = [
            Flow {
                window: 501,
                ..one.clone()
            },
            Flow {
                acknowledgement: 8,
                ..one.clone()
            },
            Flow {
                options: vec![1; 12],
                ..one.clone()
            },
            Flow {
                options: vec![],
                ..one.clone()
            },
        ];
        for other in others.iter().chain(of_tcp.iter().filter(|_| one.is_tcp)) {
            let packets = [
                one.packet(&payload(100), 1000, ACK),
                other.packet(&payload(100), 1100, ACK),
            ];
            assert_eq!(counts(&packets), [1, 1], "{one:?} {other:?}");
        }
    }
}

#[test]
fn only_what_follows_is_appended() {
    let flow = flow(true, true);
    let at = |sequence, size, flags| flow.packet(&payload(size), sequence, flags);
    for (packets, expected) in [
        (vec![at(0, 100, ACK), at(101, 100, ACK)], vec![1, 1]),
        (vec![at(0, 100, ACK), at(99, 100, ACK)], vec![1, 1]),
        (vec![at(0, 100, ACK), at(100, 101, ACK)], vec![1, 1]),
        (
            vec![at(0, 100, ACK), at(100, 99, ACK), at(199, 99, ACK)],
            vec![2, 1],
        ),
        (vec![at(0, 100, ACK | PSH), at(100, 100, ACK)], vec![1, 1]),
        (
            vec![at(0, 100, ACK), at(100, 100, ACK | PSH), at(200, 100, ACK)],
            vec![2, 1],
        ),
        (vec![at(0, 0, ACK), at(0, 100, ACK)], vec![1, 1]),
        (
            vec![at(0, 100, ACK), at(100, 0, ACK), at(100, 100, ACK)],
            vec![1, 1, 1],
        ),
        (vec![at(0, 100, ACK | FIN), at(100, 100, ACK)], vec![1, 1]),
        (vec![at(0, 100, SYN), at(100, 100, ACK)], vec![1, 1]),
        (vec![at(u32::MAX - 49, 100, ACK), at(50, 100, ACK)], vec![2]),
    ] {
        assert_eq!(counts(&packets), expected, "{expected:?}");
    }
}

#[test]
fn a_push_is_told_by_the_merged_packet() {
    let packets = flow(true, true).segments(&payload(300), 100, 1, ACK | PSH);
    let writes = merge(&packets, ALL);
    assert_eq!(writes[0].0[10 + 33], ACK | PSH);
}

#[test]
fn no_train_grows_beyond_what_an_ip_packet_can_be() {
    for flow in flows() {
        let step = 1368;
        let packets: Vec<_> = (0..50)
            .map(|index| flow.packet(&payload(step), (index * step) as u32, ACK))
            .collect();
        let fit = (65_535 - flow.head_size()) / step;
        assert_eq!(counts(&packets), [fit, 50 - fit]);
    }
}

#[test]
fn udp_trains_keep_to_what_every_kernel_takes() {
    for is_ipv4 in [true, false] {
        assert_eq!(
            counts(&train(&flow(is_ipv4, false), 100)),
            [MAX_UDP_SEGMENTS, 36]
        );
        assert_eq!(counts(&train(&flow(is_ipv4, true), 100)), [100]);
    }
}

#[test]
fn what_may_be_fragmented_stays_apart_and_so_does_a_damaged_header() {
    for is_tcp in [true, false] {
        let flow = Flow {
            dont_fragment: false,
            ..flow(true, is_tcp)
        };
        assert_eq!(counts(&train(&flow, 3)), [1, 1, 1]);
    }
    let mut packets = train(&flow(true, true), 3);
    packets[1][10] ^= 1;
    assert_eq!(counts(&packets), [1, 1, 1]);
}

#[test]
fn nothing_overtakes_what_is_not_understood() {
    for flow in flows() {
        let mut packets = train(&flow, 2);
        packets.insert(1, vec![0x45; 28]);
        assert_eq!(counts(&packets), [1, 1, 1]);
    }
}

#[test]
fn what_lies_outside_of_the_buffer_is_not_looked_at() {
    let mut coalescer = Coalescer::new(ALL);
    coalescer.push(&[0x45; 40], 20..41);
    let backwards = core::ops::Range { start: 30, end: 20 };
    coalescer.push(&[0x45; 40], backwards);
    assert!(coalescer.is_empty());
}

#[test]
fn a_cleared_coalescer_begins_anew() {
    let packets = train(&flow(true, true), 2);
    let mut coalescer = Coalescer::new(ALL);
    for packet in &packets {
        coalescer.clear();
        coalescer.push(packet, 0..packet.len());
        assert_eq!(coalescer.len(), 1);
    }
}

fn any_packet() -> impl Strategy<Value = (Flow, usize, u8, u32)> {
    (
        (
            0_usize..4,
            1_u16..3,
            prop::sample::select(vec![0_u8, 2]),
            any::<bool>(),
        ),
        prop::sample::select(vec![0_usize, 1, 99, 100]),
        prop::sample::select(vec![ACK, ACK, ACK, ACK | PSH, ACK | FIN]),
        prop::sample::select(vec![0_u32, 0, 0, 1]),
    )
        .prop_map(|((kind, port, tos, dont_fragment), size, flags, gap)| {
            let flow = Flow {
                port,
                tos,
                dont_fragment,
                ..flows()[kind].clone()
            };
            (flow, size, flags, gap)
        })
}

/// Protocol, addresses and ports.
fn identity(packet: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        [&packet[9..10], &packet[12..24]].concat()
    } else {
        [&packet[6..7], &packet[8..44]].concat()
    }
}

proptest! {
    #[test]
    fn every_flow_comes_out_as_it_went_in(
        plan in prop::collection::vec(any_packet(), 0..60), partial: bool
    ) {
        let mut sequences = std::collections::HashMap::new();
        let packets: Vec<_> = plan
            .into_iter()
            .map(|(flow, size, flags, gap)| {
                let sequence = sequences.entry(format!("{flow:?}")).or_insert(0_u32);
                let at = sequence.wrapping_add(gap);
                *sequence = at.wrapping_add(size as u32);
                flow.packet(&payload(size), at, flags)
            })
            .collect();
        let writes = merge(&packets, Offers { partial, ..ALL });
        let out: Vec<_> = writes.iter().flat_map(|(frame, _)| unmerge(frame)).collect();
        prop_assert_eq!(out.len(), packets.len());
        for packet in &packets {
            let own = |other: &&Vec<u8>| identity(other) == identity(packet);
            let before: Vec<_> = packets.iter().filter(own).collect();
            let after: Vec<_> = out.iter().filter(own).collect();
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn no_bytes_do_more_than_stay_apart(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..120), 0..8),
        (tso, uso, partial) in any::<(bool, bool, bool)>(),
    ) {
        merge(&packets, Offers { tso, uso, partial });
    }
}
