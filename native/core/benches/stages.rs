//! What each stage costs for one batch: 45 segments of TCP, 61,560 bytes of payload.
//!
//! `cargo bench -p nvpn-core`; a word on the command line picks stages whose names hold it.
//! Times are of warm caches. Quantiles and no mean: machines that are shared are interrupted.

use std::hint::black_box;
use std::time::Instant;

use nvpn_core::aead::{BatchAead, RingAead, plaintext};
use nvpn_core::checksum::{complement, word_sum};
use nvpn_core::coalesce::{Coalescer, HEAD_BYTES, Offers};
use nvpn_core::datagrams::Datagrams;
use nvpn_core::inner::parse_inner;
use nvpn_core::split::{SEND_BYTES, Split};
use nvpn_core::virtio::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader};

const MTU: usize = 1420;
const SEGMENTS: usize = 45;
const ROUNDS: usize = 3000;
const KEY: [u8; 32] = [0x42; 32];
const HEAD: [u8; 8] = [4, 0, 0, 0, 1, 2, 3, 4];
const OFFERS: Offers = Offers {
    tso: true,
    uso: true,
    partial: true,
};

fn main() {
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let measure = |name: &str, segments: usize, work: &mut dyn FnMut()| {
        if only
            .as_ref()
            .is_none_or(|word| name.contains(word.as_str()))
        {
            report(name, segments, work);
        }
    };
    println!(
        "{:34} {:>8} {:>8} {:>8} us/batch {:>8} ns/packet",
        "stage", "min", "p10", "p50", "p50"
    );
    let mut out = Box::new([0; SEND_BYTES]);
    for (name, frame) in [
        ("split, TCP over IPv4", tcp(4)),
        ("split, TCP over IPv6", tcp(6)),
        ("split, UDP over IPv4", udp()),
    ] {
        measure(name, SEGMENTS, &mut || {
            black_box(cut(black_box(&frame), &mut out));
        });
    }

    let frame = tcp(4);
    let datagrams = cut(&frame, &mut out);
    let payload = &frame.1[52..][..1368];
    measure("  of it: sums", SEGMENTS, &mut || {
        for _ in 0..SEGMENTS {
            black_box(word_sum(black_box(payload)));
        }
    });
    let mut copy = vec![0; 1368];
    measure("  of it: copies", SEGMENTS, &mut || {
        for _ in 0..SEGMENTS {
            black_box(&mut copy).copy_from_slice(black_box(payload));
        }
    });

    measure("seal (ring)", SEGMENTS, &mut || {
        let sealed = RingAead.seal(&KEY, &HEAD, 0, black_box(&mut out[..]), &datagrams);
        assert_eq!(sealed, Ok(()));
    });
    cut(&frame, &mut out);
    RingAead
        .seal(&KEY, &HEAD, 0, &mut out[..], &datagrams)
        .expect("room");
    let sealed = out.clone();
    measure("copy, to take off the next one", SEGMENTS, &mut || {
        out.copy_from_slice(&sealed[..]);
        black_box(&mut out);
    });
    measure("copy and open (ring)", SEGMENTS, &mut || {
        out.copy_from_slice(&sealed[..]);
        let opened = RingAead.open(&KEY, black_box(&mut out[..]), &datagrams, datagrams.all());
        assert_eq!(opened, datagrams.all());
    });
    let one = Datagrams::covering(96, 96).expect("one");
    measure("seal one of 64 bytes (ring)", 1, &mut || {
        let sealed = RingAead.seal(&KEY, &HEAD, 0, black_box(&mut copy[..]), &one);
        assert_eq!(sealed, Ok(()));
    });

    for (name, frame) in [
        ("coalesce, TCP over IPv4", tcp(4)),
        ("coalesce, TCP over IPv6", tcp(6)),
        ("coalesce, UDP over IPv4", udp()),
    ] {
        let datagrams = cut(&frame, &mut out);
        let mut coalescer = Coalescer::new(OFFERS);
        let mut lists = Vec::with_capacity(SEGMENTS + 1);
        measure(name, SEGMENTS, &mut || {
            merge(&mut coalescer, black_box(&out[..]), &datagrams);
            assert_eq!(coalescer.len(), 1);
            gather(&coalescer, &out[..], &mut lists);
        });
    }
    let datagrams = cut(&tcp(4), &mut out);
    measure("  of it: looks at inner headers", SEGMENTS, &mut || {
        for range in datagrams.ranges() {
            black_box(parse_inner(black_box(&out[range][16..])));
        }
    });
    let datagrams = weave(&mut out);
    let mut coalescer = Coalescer::new(OFFERS);
    let mut lists = Vec::with_capacity(2 * SEGMENTS);
    measure("coalesce, 45 flows", SEGMENTS, &mut || {
        merge(&mut coalescer, black_box(&out[..]), &datagrams);
        assert_eq!(coalescer.len(), SEGMENTS);
        gather(&coalescer, &out[..], &mut lists);
    });
}

fn report(name: &str, segments: usize, work: &mut dyn FnMut()) {
    for _ in 0..ROUNDS / 10 {
        work();
    }
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (least, tenth, half) = (times[0], times[ROUNDS / 10], times[ROUNDS / 2]);
    let each = half * 1e3 / segments as f64;
    println!("{name:34} {least:8.2} {tenth:8.2} {half:8.2} {:17.1}", each);
}

fn cut(frame: &(VirtioHeader, Vec<u8>), out: &mut [u8; SEND_BYTES]) -> Datagrams {
    let mut split = Split::new(&frame.0, &frame.1, MTU, 128).expect("a superpacket");
    split.fill(out).expect("datagrams")
}

fn merge(coalescer: &mut Coalescer, buffer: &[u8], datagrams: &Datagrams) {
    coalescer.clear();
    for range in datagrams.ranges() {
        let plain = plaintext(range.len());
        let at = range.start + plain.start..range.start + plain.end;
        if let Some(inner) = parse_inner(&buffer[at.clone()]) {
            coalescer.push(buffer, at.start..at.start + inner.length);
        }
    }
}

/// As `writev` wants it.
fn gather(coalescer: &Coalescer, buffer: &[u8], lists: &mut Vec<(*const u8, usize)>) {
    lists.clear();
    for index in 0..coalescer.len() {
        let mut head = [0; HEAD_BYTES];
        if let Some(write) = coalescer.write(index, buffer, &mut head) {
            lists.push((write.head.as_ptr(), write.head.len()));
            lists.extend(write.pieces().map(|piece| (piece.as_ptr(), piece.len())));
        }
    }
    black_box(lists);
}

/// Each of the packets in a flow of its own.
fn weave(out: &mut [u8; SEND_BYTES]) -> Datagrams {
    let datagrams = cut(&tcp(4), out);
    for (index, range) in datagrams.ranges().enumerate() {
        out[range.start + 16 + 20] = index as u8;
    }
    datagrams
}

fn tcp(version: u8) -> (VirtioHeader, Vec<u8>) {
    let start = if version == 4 { 20 } else { 40 };
    let gso_size = (MTU - start - 32) as u16;
    let mut packet = ip(version, 6, 32 + SEGMENTS * usize::from(gso_size));
    packet[start + 12] = 8 << 4;
    packet[start + 13] = 0x10;
    let gso_type = if version == 4 { GSO_TCPV4 } else { GSO_TCPV6 };
    (header(gso_type, gso_size, start, 16), packet)
}

fn udp() -> (VirtioHeader, Vec<u8>) {
    let gso_size = (MTU - 28) as u16;
    let size = 8 + SEGMENTS * usize::from(gso_size);
    let mut packet = ip(4, 17, size);
    packet[24..26].copy_from_slice(&(size as u16).to_be_bytes());
    (header(GSO_UDP_L4, gso_size, 20, 6), packet)
}

fn ip(version: u8, protocol: u8, size: usize) -> Vec<u8> {
    let start = if version == 4 { 20 } else { 40 };
    let mut packet: Vec<u8> = (0..start + size).map(|i| (i * 7) as u8).collect();
    packet[..start].fill(0);
    if version == 4 {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((start + size) as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[8..10].copy_from_slice(&[64, protocol]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = complement(word_sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(size as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&[protocol, 64]);
        packet[8] = 0xFD;
        packet[24] = 0xFD;
    }
    packet
}

fn header(gso_type: u8, gso_size: u16, start: usize, csum_offset: u16) -> VirtioHeader {
    VirtioHeader {
        flags: NEEDS_CSUM,
        gso_type,
        header_length: 0,
        gso_size,
        csum_start: start as u16,
        csum_offset,
    }
}
