//! Frames from the TUN device: refused, or cut into packets that hold every byte of the
//! payload once, in their order, with lengths and sums that are right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nvpn_core::checksum::{MODULUS, word_sum};
use nvpn_core::inner::{padded_size, parse_inner};
use nvpn_core::split::{SEND_BYTES, Split};
use nvpn_core::virtio::{MAX_UDP_PAYLOAD, VIRTIO_HEADER_SIZE, VirtioHeader, complete_checksum};

/// MTU, `UDP_MAX_SEGMENTS`, then a frame.
fn look(data: &[u8], out: &mut [u8; SEND_BYTES]) -> Option<()> {
    let (&[m0, m1, most], frame) = data.split_first_chunk()?;
    let mtu = usize::from(u16::from_le_bytes([m0, m1]));
    let header = VirtioHeader::parse(frame).ok()?;
    let packet = &frame[VIRTIO_HEADER_SIZE..];

    let mut whole = packet.to_vec();
    let _ = complete_checksum(&header, &mut whole);

    let mut split = Split::new(&header, packet, mtu, most.into()).ok()?;
    let is_tcp = header.gso_type & 0x7F != 5;
    let start = usize::from(header.csum_start);
    let head_size = start
        + if is_tcp {
            usize::from(packet[start + 12] >> 4) * 4
        } else {
            8
        };
    let payload = &packet[head_size..];
    let (largest, count) = (split.largest(), split.count());
    // Zero if the field held the pseudo header's sum, and something else, but one thing, if
    // it did not: each segment must be off by as much.
    let mut off = None;
    let (mut seen, mut made) = (0, 0);
    while let Some(datagrams) = split.fill(out) {
        assert!(datagrams.count() == 1 || datagrams.size() <= MAX_UDP_PAYLOAD);
        assert!(datagrams.count() <= usize::from(most).max(1));
        assert!(datagrams.stride() <= largest);
        for range in datagrams.ranges() {
            let plain = &out[range.start + 16..range.end - 16];
            let inner = parse_inner(plain).expect("a packet");
            assert_eq!(plain.len(), padded_size(inner.length, mtu));
            assert!(plain[inner.length..].iter().all(|byte| *byte == 0));
            let segment = &plain[..inner.length];
            if plain[0] >> 4 == 4 {
                assert_eq!(word_sum(&segment[..start]) % MODULUS, 0);
            }
            let piece = &segment[head_size..];
            assert_eq!(piece, &payload[seen..seen + piece.len()]);
            assert_eq!(
                piece.len(),
                usize::from(header.gso_size).min(payload.len() - seen)
            );
            // With the length of the segment, as the pseudo header has it.
            let sum = (word_sum(&segment[start..]) + (segment.len() - start) as u32) % MODULUS;
            assert_eq!(*off.get_or_insert(sum), sum);
            seen += piece.len();
            made += 1;
        }
    }
    assert_eq!((seen, made), (payload.len(), count));
    Some(())
}

fuzz_target!(init: { OUT.with(|_| ()) }, |data: &[u8]| {
    OUT.with_borrow_mut(|out| look(data, out));
});

thread_local! {
    static OUT: std::cell::RefCell<Box<[u8; SEND_BYTES]>> =
        std::cell::RefCell::new(Box::new([0xEE; SEND_BYTES]));
}
