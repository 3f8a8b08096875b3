//! Packets in any order: all are written, once, each flow in its order, and what is merged
//! is what the code for the other direction takes apart again.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use nvpn_core::checksum::{complement, word_sum};
use nvpn_core::coalesce::{Coalescer, HEAD_BYTES, MAX_PACKET, Offers};
use nvpn_core::inner::parse_inner;
use nvpn_core::split::{SEND_BYTES, Split};
use nvpn_core::virtio::{NO_OFFLOAD, VIRTIO_HEADER_SIZE, VirtioHeader};

#[derive(Arbitrary, Debug)]
struct Plan {
    tso: bool,
    uso: bool,
    partial: bool,
    packets: Vec<Kind>,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    /// Whatever the bytes say.
    Bytes(Vec<u8>),
    /// Of a few flows, so that they meet.
    Segment {
        is_ipv4: bool,
        is_tcp: bool,
        flow: bool,
        flags: u8,
        sequence: u8,
        size: u8,
        options: u8,
        damage: Option<(u8, u8)>,
    },
    /// So many of them, one after the other.
    Train {
        is_ipv4: bool,
        is_tcp: bool,
        count: u8,
        size: u16,
    },
}

impl Kind {
    fn make(&self, sequence: &mut u32, out: &mut Vec<Vec<u8>>) {
        match *self {
            Self::Bytes(ref bytes) => out.push(bytes.clone()),
            Self::Segment {
                is_ipv4,
                is_tcp,
                flow,
                flags,
                sequence: gap,
                size,
                options,
                damage,
            } => {
                let flags = if flags & 3 == 0 {
                    flags
                } else {
                    0x10 | flags & 8
                };
                let at = sequence.wrapping_add(u32::from(gap / 64));
                let options = usize::from(options % 4) * 4;
                let mut packet = segment(
                    is_ipv4,
                    is_tcp,
                    flow.into(),
                    flags,
                    at,
                    size.into(),
                    options,
                );
                *sequence = at.wrapping_add(size.into());
                if let Some((place, byte)) = damage {
                    let place = usize::from(place) % packet.len();
                    packet[place] = byte;
                }
                out.push(packet);
            }
            Self::Train {
                is_ipv4,
                is_tcp,
                count,
                size,
            } => {
                // Long ones now and then: they are what is slow here.
                let size = usize::from(if size > 65_000 {
                    size % 1453
                } else {
                    size % 50
                });
                for _ in 0..count.min(160) {
                    out.push(segment(is_ipv4, is_tcp, 0, 0x10, *sequence, size, 12));
                    *sequence = sequence.wrapping_add(size as u32);
                }
            }
        }
    }
}

fn segment(
    is_ipv4: bool,
    is_tcp: bool,
    port: u16,
    flags: u8,
    sequence: u32,
    size: usize,
    options: usize,
) -> Vec<u8> {
    let mut transport = vec![0x9C, 0x40];
    transport.extend(port.to_be_bytes());
    if is_tcp {
        transport.extend(sequence.to_be_bytes());
        transport.extend([
            0,
            0,
            0,
            7,
            ((20 + options) * 4) as u8,
            flags,
            1,
            0,
            1,
            2,
            0,
            0,
        ]);
        transport.resize(20 + options, 1);
    } else {
        transport.extend(((8 + size) as u16).to_be_bytes());
        transport.extend([1, 2]);
    }
    transport.resize(transport.len() + size, sequence as u8);
    let protocol = if is_tcp { 6 } else { 17 };
    let mut packet;
    if is_ipv4 {
        packet = vec![0x45, 0];
        packet.extend(((20 + transport.len()) as u16).to_be_bytes());
        packet.extend([1, 2, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = complement(word_sum(&packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet = vec![0x60, 0, 0, 0];
        packet.extend((transport.len() as u16).to_be_bytes());
        packet.extend([protocol, 64]);
        packet.resize(40, 0xFD);
    }
    packet.extend(transport);
    packet
}

fn take_apart(frame: &[u8], out: &mut [u8; SEND_BYTES]) -> Vec<Vec<u8>> {
    let header = VirtioHeader::parse(frame).expect("a header");
    let packet = &frame[VIRTIO_HEADER_SIZE..];
    if header.gso_type == 0 {
        return vec![packet.to_vec()];
    }
    let mut split = Split::new(&header, packet, 1, 128).expect("a superpacket");
    let mut packets = Vec::new();
    while let Some(datagrams) = split.fill(out) {
        packets.extend(
            datagrams
                .ranges()
                .map(|range| out[range.start + 16..range.end - 16].to_vec()),
        );
    }
    packets
}

/// Without what merging may change: number and checksums; and whether they count, what
/// the flow is that must be in order.
fn essence(packet: &[u8]) -> Vec<u8> {
    let mut rest = packet.to_vec();
    let (protocol, start) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            rest[4..6].fill(0);
            rest[10..12].fill(0);
            (packet[9], usize::from(packet[0] & 15) * 4)
        }
        Some(6) if packet.len() >= 40 => (packet[6], 40),
        _ => return rest,
    };
    let field = start + if protocol == 6 { 16 } else { 6 };
    if (protocol == 6 || protocol == 17) && rest.len() >= field + 2 {
        rest[field..field + 2].fill(0);
    }
    rest
}

fn flow(packet: &[u8]) -> Vec<u8> {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 28 => [&packet[9..10], &packet[12..24]].concat(),
        Some(6) if packet.len() >= 48 => [&packet[6..7], &packet[8..44]].concat(),
        _ => Vec::new(),
    }
}

fn look(plan: &Plan, out: &mut [u8; SEND_BYTES]) {
    let (mut packets, mut sequence) = (Vec::new(), u32::MAX - 1000);
    for kind in &plan.packets {
        kind.make(&mut sequence, &mut packets);
    }
    packets.truncate(160);
    // What does not come past the parser never gets here.
    packets.retain_mut(|packet| {
        parse_inner(packet)
            .map(|inner| packet.truncate(inner.length))
            .is_some()
    });
    let buffer = packets.concat();
    let (tso, uso, partial) = (plan.tso, plan.uso, plan.partial);
    let mut coalescer = Coalescer::new(Offers { tso, uso, partial });
    let mut start = 0;
    for packet in &packets {
        coalescer.push(&buffer, start..start + packet.len());
        start += packet.len();
    }
    let (mut written, mut as_they_came) = (Vec::new(), Vec::new());
    for index in 0..coalescer.len() {
        let mut head = [0xEE; HEAD_BYTES];
        let write = coalescer.write(index, &buffer, &mut head).expect("a write");
        let mut frame = write.head.to_vec();
        frame.extend(write.pieces().flatten());
        assert!(write.count == 1 || frame.len() <= VIRTIO_HEADER_SIZE + MAX_PACKET);
        assert!(write.count == 1 || tso || uso);
        if write.count == 1 && !partial {
            assert!(frame[..10] == NO_OFFLOAD);
            assert!(Some(&frame[10..]) == write.packets().next());
        }
        let parts = take_apart(&frame, out);
        assert_eq!(parts.len(), write.count);
        assert_eq!(write.packets().count(), write.count);
        as_they_came.extend(write.packets().map(<[u8]>::to_vec));
        written.extend(parts);
    }
    assert!(
        as_they_came
            .iter()
            .map(|one| essence(one))
            .eq(written.iter().map(|one| essence(one)))
    );
    assert_eq!(as_they_came.len(), packets.len());
    // Sorting by flow alone is stable: what was in order within a flow stays so.
    as_they_came.sort_by_key(|packet| flow(packet));
    packets.sort_by_key(|packet| flow(packet));
    assert!(as_they_came == packets);
}

fuzz_target!(|data: &[u8]| {
    if let Ok(plan) = Plan::arbitrary_take_rest(Unstructured::new(data)) {
        OUT.with_borrow_mut(|out| look(&plan, out));
    }
});

thread_local! {
    static OUT: std::cell::RefCell<Box<[u8; SEND_BYTES]>> =
        std::cell::RefCell::new(Box::new([0xEE; SEND_BYTES]));
}
