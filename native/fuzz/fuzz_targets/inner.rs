//! What is read from a packet: never beyond its end, and the same however much follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nvpn_core::inner::{
    merge_ecn, outer_tos, padded_size, parse_inner, traffic_class, udp_payload,
};

fuzz_target!(|data: &[u8]| {
    let (Some((&[tos, m0, m1], packet)), mut copy) = (data.split_first_chunk(), data.to_vec())
    else {
        return;
    };
    assert!(outer_tos(traffic_class(packet)) < 3);
    let payload = udp_payload(packet);
    if let Some(inner) = parse_inner(packet) {
        assert!(inner.length >= 20 && inner.length <= packet.len());
        assert_eq!(parse_inner(&packet[..inner.length]), Some(inner));
        assert_eq!(inner.source.is_ipv4(), inner.destination.is_ipv4());
        let mtu = usize::from(u16::from_le_bytes([m0, m1]));
        let padded = padded_size(inner.length, mtu);
        assert!((inner.length..inner.length + 16).contains(&padded));
        assert!(payload.is_none_or(|at| at >= 8));
    }
    let changed = &mut copy[3..];
    let kept = merge_ecn(changed, tos);
    assert_eq!(parse_inner(changed), parse_inner(packet));
    assert!(kept || changed == packet);
    assert_eq!(changed.len(), packet.len());
    // Twice changes no more than once.
    let once = changed.to_vec();
    assert_eq!(merge_ecn(changed, tos), kept);
    assert!(changed == once);
});
