//! The ICMP errors for packets with nowhere to go.

mod support;

use nvpn_core::checksum::{MODULUS, pseudo_sum, word_sum};
use nvpn_core::constants::SECOND;
use nvpn_core::icmp::{ErrorLimit, unreachable};
use nvpn_core::inner::parse_inner;
use proptest::prelude::*;
use support::*;

const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;

fn answer_to(packet: &[u8]) -> Vec<u8> {
    unreachable(packet).unwrap()
}

fn is_whole_ipv4(packet: &[u8]) -> bool {
    word_sum(&packet[..20]).is_multiple_of(MODULUS)
        && word_sum(&packet[20..]).is_multiple_of(MODULUS)
}

fn is_whole_ipv6(packet: &[u8]) -> bool {
    let pseudo = pseudo_sum(&packet[8..40], ICMPV6, packet.len() as u32 - 40);
    (pseudo + word_sum(&packet[40..])).is_multiple_of(MODULUS)
}

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    Ip {
        protocol,
        payload,
        ..V4
    }
    .make()
}

fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    Ip {
        protocol,
        payload,
        ..V6
    }
    .make()
}

#[test]
fn ipv4_says_host_unreachable_and_quotes_the_packet() {
    let packet = v4(17, &[b'q'; 100]);
    let answer = answer_to(&packet);
    assert_eq!(answer[9], ICMPV4);
    assert_eq!(answer[20..22], [3, 1]);
    assert_eq!(answer[28..], packet);
    assert_eq!(answer[12..16], [10, 0, 0, 2]);
    assert_eq!(answer[16..20], [10, 0, 0, 1]);
    assert!(is_whole_ipv4(&answer));
    assert_eq!(parse_inner(&answer).unwrap().length, answer.len());
}

#[test]
fn ipv6_says_address_unreachable_and_quotes_the_packet() {
    let packet = v6(17, &[b'q'; 101]);
    let answer = answer_to(&packet);
    assert_eq!(answer[6], ICMPV6);
    assert_eq!(answer[40..42], [1, 3]);
    assert_eq!(answer[48..], packet);
    assert_eq!(answer[8..24], packet[24..40]);
    assert_eq!(answer[24..40], packet[8..24]);
    assert!(is_whole_ipv6(&answer));
    assert_eq!(parse_inner(&answer).unwrap().length, answer.len());
}

#[test]
fn an_error_is_no_longer_than_hosts_must_take() {
    for size in [0, 8, 9, 547, 548, 1400, 65_000] {
        let ours4 = answer_to(&v4(6, &vec![0; size]));
        let ours6 = answer_to(&v6(6, &vec![0; size]));
        assert_eq!(ours4.len(), 576.min(28 + 20 + size));
        assert_eq!(ours6.len(), 1280.min(48 + 40 + size));
        assert!(is_whole_ipv4(&ours4) && is_whole_ipv6(&ours6));
    }
}

#[test]
fn what_follows_the_packet_is_not_quoted() {
    let packet = v4(17, b"x");
    let mut padded = packet.clone();
    padded.extend(b"secret padding");
    assert_eq!(answer_to(&padded)[28..], packet);
}

#[test]
fn errors_and_redirects_get_no_error() {
    for kind in [3, 4, 5, 11, 12] {
        assert_eq!(unreachable(&v4(ICMPV4, &[kind, 0, 0, 0, 0, 0, 0, 0])), None);
    }
    for kind in [1, 2, 3, 4, 127, 137] {
        assert_eq!(unreachable(&v6(ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0])), None);
    }
    assert_eq!(unreachable(&v4(ICMPV4, &[])), None);
    assert_eq!(unreachable(&v6(ICMPV6, &[])), None);
}

#[test]
fn an_icmpv6_error_behind_extension_headers_gets_no_error() {
    let mut headers = vec![60, 0, 0, 0, 0, 0, 0, 0];
    headers.extend([ICMPV6, 1]);
    headers.extend([0; 14]);
    let with = |kind: u8| {
        let mut payload = headers.clone();
        payload.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        v6(0, &payload)
    };
    assert_eq!(unreachable(&with(1)), None);
    assert_eq!(answer_to(&with(128))[48..], with(128));
}

#[test]
fn pings_are_answered() {
    assert!(unreachable(&v4(ICMPV4, &[8, 0, 0, 0, 0, 0, 0, 0])).is_some());
    assert!(unreachable(&v6(ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0])).is_some());
}

#[test]
fn only_the_first_fragment_gets_an_error() {
    for (fragment, answered) in [(0x2000, true), (0x2001, false), (1, false)] {
        let packet = Ip {
            payload: &[0; 16],
            fragment,
            ..V4
        }
        .make();
        assert_eq!(unreachable(&packet).is_some(), answered);
    }
    for (offset, answered) in [(1, true), (9, false)] {
        let mut payload = vec![17, 0, 0, offset, 0, 0, 0, 0];
        payload.extend([0; 8]);
        assert_eq!(unreachable(&v6(44, &payload)).is_some(), answered);
    }
}

#[test]
fn addresses_that_are_not_one_host_get_no_error() {
    for destination in ["224.0.0.1", "239.1.1.1", "255.255.255.255", "0.0.0.0"] {
        assert_eq!(unreachable(&Ip { destination, ..V4 }.make()), None);
    }
    for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        assert_eq!(unreachable(&Ip { source, ..V4 }.make()), None);
    }
    for address in ["::", "::1", "ff02::1"] {
        assert_eq!(
            unreachable(
                &Ip {
                    source: address,
                    ..V6
                }
                .make()
            ),
            None
        );
        assert_eq!(
            unreachable(
                &Ip {
                    destination: address,
                    ..V6
                }
                .make()
            ),
            None
        );
    }
}

#[test]
fn errors_are_rationed() {
    let mut limit = ErrorLimit::new();
    let mut allowed = |now, tries: u32| (0..tries).filter(|_| limit.allow(now)).count();
    assert_eq!(allowed(START, 200), 50);
    assert_eq!(allowed(START + SECOND / 100 - 1, 1), 0);
    assert_eq!(allowed(START + SECOND / 100, 2), 1);
    assert_eq!(allowed(START + 3600 * SECOND, 200), 50);
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd_and_every_answer_is_a_packet(
        head in prop_oneof![
            Just(vec![]),
            Just(vec![0x45, 0, 0, 64]),
            Just(vec![0x4F, 0, 0, 64]),
            Just(vec![0x60, 0, 0, 0, 0, 16, 0, 64]),
            Just(vec![0x60, 0, 0, 0, 0, 40, 44, 64]),
        ],
        tail in proptest::collection::vec(any::<u8>(), 0..120),
        now: u64,
    ) {
        let mut packet = head;
        packet.extend(tail);
        if let Some(answer) = unreachable(&packet) {
            prop_assert_eq!(parse_inner(&answer).unwrap().length, answer.len());
            // An error must never beget an error.
            prop_assert_eq!(unreachable(&answer), None);
        }
        ErrorLimit::new().allow(now);
    }
}
