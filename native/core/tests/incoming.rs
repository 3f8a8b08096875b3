//! Datagrams from the socket: what is accepted, in which order it is judged, what follows.

mod support;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use nvpn_core::constants::{COOKIE_REPLY_BURST, REJECT_AFTER_MESSAGES, SECOND};
use nvpn_core::message::message_type;
use nvpn_core::{
    Activity, Command, Counters, DropReason, Endpoint, Event, PeerId, PeerShared, Source, Watch,
    Why,
};
use support::*;

fn is_wanted(event: &Event) -> bool {
    matches!(event, Event::HandshakeWanted { .. })
}

// --- what is accepted -----------------------------------------------------------------

#[test]
fn each_transport_vector_is_opened_and_trimmed_once() {
    for vector in list(vectors(), "transport") {
        if text(vector, "direction") != "i->r" {
            continue;
        }
        let mut ends = session_of_the_vectors();
        let (inner, message) = (hex(vector, "inner"), hex(vector, "message"));
        let expected: Vec<Vec<u8>> = if inner.is_empty() {
            vec![]
        } else {
            vec![inner]
        };
        assert_eq!(ends.receive(&message), expected, "{}", text(vector, "what"));
        assert_eq!(ends.bob.drops(), []);
        assert!(ends.receive(&message).is_empty());
        assert_eq!(ends.bob.drops(), [(DropReason::Replayed, 1)]);
    }
}

#[test]
fn what_must_be_dropped_has_no_effect() {
    for vector in list(vectors(), "must_drop") {
        let what = text(vector, "what");
        let packet = hex(vector, "packet");
        let mut ends = session_of_the_vectors();
        let now = ends.now;
        let delivered = ends.bob.receive(&packet, elsewhere(), 0, now);
        assert!(delivered.is_empty(), "{what}");
        assert!(ends.bob.take_datagrams().is_empty(), "{what}");
        // With a good mac1 it takes the protocol to tell; everything else ends here.
        let is_for_protocol = what.contains("mac1 valid") || what.contains("mac1 made valid");
        let is_ours = what != "response, empty tag flipped, mac1 valid";
        let events = ends.bob.take_events();
        if is_for_protocol && is_ours {
            let endpoint = elsewhere().learned(now);
            let datagram = packet.into();
            assert_eq!(
                events,
                [Event::HandshakeReceived {
                    datagram,
                    endpoint,
                    received_at: now
                }],
                "{what}"
            );
        } else {
            assert_eq!(events, [], "{what}");
            assert_eq!(ends.bob.dropped(), 1, "{what}");
        }
        assert_eq!(ends.bob.shared.counters(), Counters::default());
        assert_eq!(ends.bob.shared.activity(), Activity::default());
        // Bob answers as before, to where the peer was before.
        ends.bob.tell(now, handshake(&[0; 148]));
        assert_eq!(one(ends.bob.take_datagrams()).endpoint, alice_at());
    }
}

#[test]
fn a_keepalive_is_counted_and_delivers_nothing() {
    let mut ends = Ends::new();
    let before = ends.bob.shared.counters();
    ends.alice.tell(ends.now, KEEPALIVE);
    ends.carry_to_bob();
    assert!(ends.bob.take_inner().is_empty());
    assert_eq!(ends.bob.take_events(), []);
    let after = Counters {
        rx_bytes: before.rx_bytes + 32,
        rx_packets: before.rx_packets + 1,
        ..before
    };
    assert_eq!(ends.bob.shared.counters(), after);
}

#[test]
fn a_handshake_and_ten_pings_count_as_in_the_kernel() {
    let mut ends = Ends::strangers(MTU);
    let now = ends.now;
    let touch = |received_bytes| Command::Touch {
        peer: THEM,
        received_bytes,
        at: now,
    };
    ends.bob.tell(now, touch(148));
    ends.alice.tell(now, handshake(&[0; 148]));
    let (for_alice, for_bob) = ends.keypairs();
    ends.bob.tell(now, install(for_bob));
    ends.bob.tell(now, handshake(&[0; 92]));
    ends.alice.send(&ipv4(&[0; 64]), now);
    ends.alice.tell(now, touch(92));
    ends.alice.tell(now, install(for_alice));
    for _ in 0..9 {
        ends.alice.send(&ipv4(&[0; 64]), now);
    }
    // 84-byte pings become 96 + 32 on the wire.
    let alice = ends.alice.shared.counters();
    assert_eq!((alice.tx_bytes, alice.rx_bytes), (148 + 10 * 128, 92));
    let bob = ends.bob.shared.counters();
    assert_eq!((bob.rx_bytes, bob.tx_bytes), (148, 92));
}

// --- the order of the checks ----------------------------------------------------------

#[test]
fn what_is_no_whole_message_is_malformed() {
    let mut ends = Ends::new();
    let mut short = vec![4, 0, 0, 0];
    short.resize(31, 0);
    let mut reserved = vec![4, 1, 0, 0];
    reserved.resize(64, 0);
    for datagram in [&[][..], &[4], &[4, 0, 0, 0], &short, &reserved] {
        ends.receive(datagram);
    }
    assert_eq!(ends.bob.drops(), [(DropReason::Malformed, 5)]);
}

#[test]
fn the_index_is_looked_up_first() {
    let mut ends = Ends::new();
    let mut datagram = ends.seal(&ipv4(&[]));
    datagram[4..8].fill(0xFF);
    ends.now += 500 * SECOND;
    ends.receive(&datagram);
    assert_eq!(ends.bob.drops(), [(DropReason::UnknownIndex, 1)]);
}

#[test]
fn age_is_judged_before_the_tag() {
    let mut ends = Ends::new();
    let good = ends.seal(&ipv4(b"1"));
    let mut late = ends.seal(&ipv4(b"2"));
    ends.now += 180 * SECOND - 1;
    assert_eq!(ends.receive(&good).len(), 1);
    ends.now += 1;
    ends.receive(&late);
    *late.last_mut().unwrap() ^= 1;
    ends.receive(&late);
    assert_eq!(ends.bob.drops(), [(DropReason::KeyExpired, 2)]);
}

#[test]
fn a_counter_at_the_limit_is_refused_though_it_is_authentic() {
    for counter in [REJECT_AFTER_MESSAGES, u64::MAX] {
        let mut ends = Ends::new();
        let beyond = ends.sealed_raw(&ipv4(&[]), counter);
        ends.receive(&beyond);
        assert_eq!(ends.bob.drops(), [(DropReason::KeyExpired, 1)]);
        let last = ends.sealed_raw(&ipv4(&[]), REJECT_AFTER_MESSAGES - 1);
        assert_eq!(ends.receive(&last).len(), 1);
    }
}

#[test]
fn a_replay_is_judged_before_the_tag() {
    let mut ends = Ends::new();
    let mut datagram = ends.seal(&ipv4(&[]));
    ends.receive(&datagram);
    *datagram.last_mut().unwrap() ^= 1;
    ends.receive(&datagram);
    assert_eq!(ends.bob.drops(), [(DropReason::Replayed, 1)]);
}

#[test]
fn a_forged_counter_does_not_move_the_window() {
    let mut ends = Ends::new();
    let mut forged = ends.seal(&ipv4(&[]));
    forged[8..16].copy_from_slice(&(REJECT_AFTER_MESSAGES - 1).to_le_bytes());
    ends.receive(&forged);
    assert_eq!(ends.bob.drops(), [(DropReason::BadTag, 1)]);
    let good = ends.seal(&ipv4(&[]));
    assert_eq!(ends.receive(&good).len(), 1);
}

#[test]
fn no_flipped_bit_is_accepted() {
    for bit in 0..8 * (32 + 32) {
        let mut ends = Ends::new();
        let mut datagram = ends.seal(&ipv4(&[]));
        datagram[bit / 8] ^= 1 << (bit % 8);
        let before = (ends.bob.shared.counters(), ends.bob.shared.activity());
        let now = ends.now;
        let delivered = ends.bob.receive(&datagram, elsewhere(), 0, now);
        assert!(delivered.is_empty());
        assert_eq!(ends.bob.dropped(), 1, "bit {bit}");
        let after = (ends.bob.shared.counters(), ends.bob.shared.activity());
        assert_eq!(before, after);
        assert_eq!(ends.bob.take_events(), []);
        assert!(ends.bob.take_datagrams().is_empty());
    }
}

#[test]
fn reordered_packets_are_each_delivered_once() {
    for step in [7, 63, 997] {
        let mut ends = Ends::new();
        let datagrams: Vec<_> = (0..2000_u16)
            .map(|number| ends.seal(&ipv4(&number.to_be_bytes())))
            .collect();
        // A walk through all of them: 2000 and the step have no common divisor.
        let order = (0..2000).map(|n| n * step % 2000);
        let mut seen = HashSet::new();
        for n in order.clone() {
            seen.extend(ends.receive(&datagrams[n]));
        }
        assert_eq!(seen.len(), 2000);
        assert!(
            order
                .into_iter()
                .all(|n| ends.receive(&datagrams[n]).is_empty())
        );
        assert_eq!(ends.bob.drops(), [(DropReason::Replayed, 2000)]);
    }
}

// --- what is inside -------------------------------------------------------------------

#[test]
fn an_authentic_packet_with_a_bad_inside_is_dropped_but_counts() {
    let mut cut = ipv4(b"abc");
    cut.pop();
    let mut version_7 = ipv4(&[]);
    version_7[0] = 0x75;
    let mut no_length = vec![0x45];
    no_length.resize(32, 0);
    for plain in [&[0][..], &[0; 16], &no_length, &cut, &version_7] {
        let mut ends = Ends::new();
        let datagram = ends.sealed_raw(plain, 9);
        let now = ends.now;
        assert!(ends.bob.receive(&datagram, elsewhere(), 0, now).is_empty());
        assert_eq!(ends.bob.drops(), [(DropReason::BadInner, 1)]);
        let endpoint = elsewhere().learned(now);
        assert_eq!(
            ends.bob.take_events(),
            [
                Event::DataReceived { peer: THEM },
                Event::EndpointRoamed {
                    peer: THEM,
                    endpoint
                }
            ]
        );
    }
}

#[test]
fn a_source_that_is_not_the_peers_is_dropped() {
    let sources = [
        Ip {
            source: "10.0.0.3",
            ..V4
        },
        Ip {
            source: "10.0.0.2",
            ..V4
        },
        Ip {
            source: "fd00::3",
            ..V6
        },
    ];
    for packet in sources {
        let mut ends = Ends::new();
        let datagram = ends.sealed_raw(&packet.make(), 9);
        assert!(ends.receive(&datagram).is_empty());
        assert_eq!(ends.bob.drops(), [(DropReason::SourceNotAllowed, 1)]);
    }
}

#[test]
fn the_owner_of_a_supernet_cannot_speak_for_a_subnet_of_another() {
    let mut ends = Ends::new();
    let now = ends.now;
    let peer = PeerId(2);
    let shared = Arc::new(PeerShared::new());
    ends.bob.tell(now, Command::CreatePeer { peer, shared });
    ends.bob.tell(now, insert_prefix(THEM, "10.0.0.0/8"));
    ends.bob.tell(now, insert_prefix(peer, "10.7.0.0/16"));
    let allowed = Ip {
        source: "10.6.0.1",
        ..V4
    }
    .make();
    let not_allowed = Ip {
        source: "10.7.0.1",
        ..V4
    }
    .make();
    let datagram = ends.sealed_raw(&allowed, 9);
    assert_eq!(ends.receive(&datagram), [allowed]);
    let datagram = ends.sealed_raw(&not_allowed, 10);
    assert!(ends.receive(&datagram).is_empty());
    assert_eq!(ends.bob.drops(), [(DropReason::SourceNotAllowed, 1)]);
}

#[test]
fn a_packet_is_cut_to_its_own_length() {
    let mut ends = Ends::new();
    for (counter, packet) in [(9, ipv4(b"x")), (10, ipv6(&[b'y'; 9]))] {
        let mut plain = packet.clone();
        plain.extend([0xAA; 100]);
        let datagram = ends.sealed_raw(&plain, counter);
        assert_eq!(ends.receive(&datagram), [packet]);
    }
}

#[test]
fn congestion_outside_shows_inside_or_drops_the_packet() {
    let mut ends = Ends::new();
    let now = ends.now;
    for base in [V4, V6] {
        let marked = |tos| {
            Ip {
                tos,
                payload: b"data",
                ..base
            }
            .make()
        };
        let datagram = ends.seal(&marked(2));
        assert_eq!(ends.bob.receive(&datagram, alice_at(), 3, now), [marked(3)]);
    }
    let datagram = ends.seal(&ipv4(&[]));
    assert!(ends.bob.receive(&datagram, alice_at(), 3, now).is_empty());
    assert_eq!(ends.bob.drops(), [(DropReason::BadInner, 1)]);
}

// --- sessions -------------------------------------------------------------------------

#[test]
fn the_first_packet_under_next_promotes_it_and_sets_waiting_packets_free() {
    let mut ends = Ends::strangers(MTU);
    ends.bob.send(&back(&[]), ends.now);
    ends.bob.take_events();
    ends.establish();
    ends.carry_to_bob();
    assert_eq!(
        ends.bob.take_events(),
        [
            Event::KeypairConfirmed {
                peer: THEM,
                our_index: 0xB000_0001,
                at: ends.now
            },
            Event::DataSent { peer: THEM },
        ]
    );
    assert_eq!(ends.bob.take_datagrams().len(), 1);
    ends.alice.send(&ipv4(&[]), ends.now);
    ends.carry_to_bob();
    assert_eq!(ends.bob.take_events(), [Event::DataReceived { peer: THEM }]);
}

#[test]
fn a_forged_packet_under_next_promotes_nothing() {
    let mut ends = Ends::strangers(MTU);
    ends.establish();
    let mut confirming = one(ends.alice.take_datagrams()).datagram;
    *confirming.last_mut().unwrap() ^= 1;
    ends.receive(&confirming);
    assert_eq!(ends.bob.take_events(), []);
    ends.bob.send(&back(&[]), ends.now);
    assert!(ends.bob.take_datagrams().is_empty());
}

#[test]
fn packets_under_the_previous_key_are_still_accepted() {
    let mut ends = Ends::new();
    let old: Vec<_> = (0..3).map(|n| ends.seal(&ipv4(&[n]))).collect();
    ends.establish();
    assert_eq!(ends.receive(&old[0]).len(), 1);
    ends.settle();
    assert_eq!(ends.receive(&old[1]).len(), 1);
    ends.establish();
    ends.settle();
    assert!(ends.receive(&old[2]).is_empty());
    assert_eq!(ends.bob.drops(), [(DropReason::UnknownIndex, 1)]);
}

#[test]
fn each_keypair_is_reported_gone_exactly_once() {
    let mut ends = Ends::strangers(MTU);
    let mut gone = [Vec::new(), Vec::new()];
    for _ in 0..6 {
        ends.establish();
        ends.carry_to_bob();
        for (gone, end) in gone.iter_mut().zip([&ends.alice, &ends.bob]) {
            gone.extend(
                end.take_events()
                    .into_iter()
                    .filter_map(|event| match event {
                        Event::KeypairGone { our_index, .. } => Some(our_index),
                        _ => None,
                    }),
            );
        }
    }
    assert_eq!(
        gone[0],
        [0xA000_0001, 0xA000_0002, 0xA000_0003, 0xA000_0004]
    );
    assert_eq!(
        gone[1],
        [0xB000_0001, 0xB000_0002, 0xB000_0003, 0xB000_0004]
    );
    for (device, base) in [
        (&ends.alice.device, 0xA000_0000),
        (&ends.bob.device, 0xB000_0000),
    ] {
        let known = (0..10).filter(|n| device.lookup(base + n).is_some());
        assert_eq!(known.collect::<Vec<_>>(), [5, 6]);
    }
}

#[test]
fn an_initiator_that_only_receives_renews_once_at_165_seconds() {
    let mut ends = Ends::new();
    let mut told = Vec::new();
    for second in [100, 130, 164, 165, 166, 179] {
        ends.now = START + second * SECOND;
        let datagram = ends.seal_back(&back(&[]));
        ends.alice.receive(&datagram, bob_at(), 0, ends.now);
        if ends.alice.take_events().iter().any(is_wanted) {
            told.push(second);
        }
    }
    assert_eq!(told, [165]);
}

#[test]
fn a_responder_that_only_receives_renews_nothing() {
    let mut ends = Ends::new();
    ends.now += 170 * SECOND;
    let datagram = ends.seal(&ipv4(&[]));
    assert_eq!(ends.receive(&datagram).len(), 1);
    assert!(!ends.bob.take_events().iter().any(is_wanted));
}

#[test]
fn a_handshake_message_renews_nothing() {
    let mut ends = Ends::new();
    ends.now += 170 * SECOND;
    let touch = Command::Touch {
        peer: THEM,
        received_bytes: 148,
        at: ends.now,
    };
    ends.alice.tell(ends.now, touch);
    ends.alice.tell(ends.now, handshake(&[0; 92]));
    assert_eq!(ends.alice.take_events(), []);
}

// --- roaming --------------------------------------------------------------------------

#[test]
fn any_authentic_packet_moves_the_endpoint() {
    for plain in [&[][..], &ipv4(&[]), &[0; 16]] {
        let mut ends = Ends::new();
        let source = Some(Source {
            address: IpAddr::from([192, 0, 2, 2]),
            interface: 5,
        });
        let here = Endpoint {
            source,
            ..elsewhere()
        };
        let datagram = ends.sealed_raw(plain, 9);
        let now = ends.now;
        ends.bob.receive(&datagram, here, 0, now);
        let endpoint = here.learned(now);
        let roamed = Event::EndpointRoamed {
            peer: THEM,
            endpoint,
        };
        assert!(ends.bob.take_events().contains(&roamed));
        ends.bob.tell(now, KEEPALIVE);
        assert_eq!(one(ends.bob.take_datagrams()).endpoint, endpoint);
    }
}

#[test]
fn a_replayed_packet_does_not_move_the_endpoint() {
    let mut ends = Ends::new();
    let datagram = ends.seal(&ipv4(&[]));
    ends.receive(&datagram);
    ends.bob.take_events();
    let now = ends.now;
    ends.bob.receive(&datagram, elsewhere(), 0, now);
    assert_eq!(ends.bob.take_events(), []);
    ends.bob.tell(now, KEEPALIVE);
    assert!(
        one(ends.bob.take_datagrams())
            .endpoint
            .same_way(&alice_at())
    );
}

#[test]
fn our_own_address_follows_silently() {
    let mut ends = Ends::new();
    for number in [1, 2] {
        let source = Some(Source {
            address: IpAddr::from([192, 0, 2, number]),
            interface: 3,
        });
        let datagram = ends.seal(&ipv4(&[]));
        let now = ends.now;
        ends.bob.receive(
            &datagram,
            Endpoint {
                source,
                ..alice_at()
            },
            0,
            now,
        );
        ends.bob.tell(now, KEEPALIVE);
        assert_eq!(one(ends.bob.take_datagrams()).endpoint.source, source);
    }
    let events = ends.bob.take_events();
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::EndpointRoamed { .. }))
    );
}

#[test]
fn of_two_endpoints_the_one_learned_later_wins() {
    let mut ends = Ends::new();
    let told = endpoint("203.0.113.1:1");
    let seen_before = told.learned(ends.now);
    ends.now += SECOND;
    let datagram = ends.seal(&ipv4(&[]));
    ends.receive(&datagram);
    for (learned, wins) in [
        (seen_before, false),
        (told.learned(ends.now + SECOND), true),
    ] {
        ends.bob.tell(ends.now, set_endpoint(Some(learned)));
        ends.bob.tell(ends.now, KEEPALIVE);
        let sent = one(ends.bob.take_datagrams());
        assert_eq!(sent.endpoint.same_way(&told), wins);
    }
}

// --- instants and watches -------------------------------------------------------------

#[test]
fn instants_tell_what_is_unanswered() {
    let mut ends = Ends::new();
    let at = |second| START + second * SECOND;
    ends.alice.send(&ipv4(&[]), at(1));
    ends.alice.send(&ipv4(&[]), at(2));
    let alice = ends.alice.shared.activity();
    assert_eq!((alice.data_sent_at, alice.data_received_at), (at(1), 0));
    assert_eq!(alice.last_sent_at, at(2));
    ends.now = at(2);
    ends.carry_to_bob();
    let bob = ends.bob.shared.activity();
    assert_eq!(
        bob,
        Activity {
            data_received_at: at(2),
            last_data_received_at: at(2),
            last_received_at: at(2),
            ..Activity::default()
        }
    );
    ends.now = at(3);
    ends.bob.tell(ends.now, KEEPALIVE);
    assert_eq!(ends.bob.shared.activity().data_received_at, 0);
    assert_eq!(ends.bob.shared.activity().data_sent_at, 0);
    ends.carry_to_alice();
    assert_eq!(
        ends.alice.shared.activity(),
        Activity {
            last_sent_at: at(2),
            last_received_at: at(3),
            ..Activity::default()
        }
    );
    ends.alice.send(&ipv4(&[]), at(4));
    let touch = Command::Touch {
        peer: THEM,
        received_bytes: 148,
        at: at(4),
    };
    ends.alice.tell(at(4), touch);
    assert_eq!(ends.alice.shared.activity().data_sent_at, 0);
}

#[test]
fn each_direction_is_told_once_until_it_is_watched_or_answered() {
    let mut ends = Ends::new();
    let sent = [Event::DataSent { peer: THEM }];
    let received = [Event::DataReceived { peer: THEM }];
    let now = ends.now;
    for _ in 0..5 {
        ends.alice.send(&ipv4(&[]), now);
    }
    assert_eq!(ends.alice.take_events(), sent);
    ends.alice.shared.watch(Watch::DataSent, true);
    ends.alice.send(&ipv4(&[]), now);
    assert_eq!(ends.alice.take_events(), []);
    // The timer fired, and gave up its watch: the next packet must be told.
    ends.alice.shared.watch(Watch::DataSent, false);
    ends.alice.send(&ipv4(&[]), now);
    ends.alice.send(&ipv4(&[]), now);
    assert_eq!(ends.alice.take_events(), sent);

    ends.carry_to_bob();
    assert_eq!(ends.bob.take_events(), received);
    ends.bob.shared.watch(Watch::DataReceived, true);
    let more: Vec<_> = (0..3).map(|n| ends.seal(&ipv4(&[n]))).collect();
    ends.receive(&more[0]);
    assert_eq!(ends.bob.take_events(), []);
    ends.bob.shared.watch(Watch::DataReceived, false);
    ends.receive(&more[1]);
    ends.receive(&more[2]);
    assert_eq!(ends.bob.take_events(), received);
}

#[test]
fn a_keepalive_is_no_data_in_either_direction() {
    let mut ends = Ends::new();
    ends.alice.tell(ends.now, KEEPALIVE);
    ends.carry_to_bob();
    assert_eq!(ends.alice.take_events(), []);
    assert_eq!(ends.bob.take_events(), []);
    assert_eq!(ends.alice.shared.activity().data_sent_at, 0);
    assert_eq!(ends.bob.shared.activity().data_received_at, 0);
}

// --- handshake messages ---------------------------------------------------------------

fn genuine_initiation() -> Vec<u8> {
    hex(session(vectors()), "initiation")
}

#[test]
fn an_admitted_message_goes_up_with_where_it_came_from() {
    let mut ends = session_of_the_vectors();
    let now = ends.now;
    ends.bob.receive(&genuine_initiation(), elsewhere(), 0, now);
    assert_eq!(
        ends.bob.take_events(),
        [Event::HandshakeReceived {
            datagram: genuine_initiation().into(),
            endpoint: elsewhere().learned(now),
            received_at: now
        }]
    );
    assert_eq!(ends.bob.drops(), []);
}

#[test]
fn a_flood_is_asked_for_cookies_and_never_grows_the_queue() {
    let mut ends = session_of_the_vectors();
    let now = ends.now;
    for _ in 0..3000 {
        ends.bob.receive(&genuine_initiation(), elsewhere(), 0, now);
    }
    assert_eq!(ends.bob.events.queued_handshakes(), 128);
    let replies = ends.bob.take_datagrams();
    // One source has half of the ration.
    assert_eq!(replies.len() as u64, COOKIE_REPLY_BURST / 2);
    for reply in replies {
        assert_eq!(reply.datagram.len(), 64);
        assert_eq!(
            (reply.endpoint, reply.tos, reply.peer),
            (elsewhere(), 0, None)
        );
    }
    assert_eq!(ends.bob.drops(), [(DropReason::CookieRequired, 3000 - 128)]);
}

/// A response (2), past mac1, or a cookie reply (3), to the message with that index.
fn answer(kind: u8, index: u32) -> Vec<u8> {
    if kind == 3 {
        let mut reply = vec![3, 0, 0, 0];
        reply.extend(index.to_le_bytes());
        reply.resize(64, 0);
        return reply;
    }
    let mut response = vec![2, 0, 0, 0, 7, 0, 0, 0];
    response.extend(index.to_le_bytes());
    response.resize(60, 0);
    let key = hex(session(vectors()), "mac1_key_of_responder");
    response.extend(mac(&key, &response.clone()));
    response.resize(92, 0);
    response
}

fn mac(key: &[u8], data: &[u8]) -> [u8; 16] {
    use blake2::digest::{FixedOutput, KeyInit, Update, consts::U16};
    let mut state = blake2::Blake2sMac::<U16>::new_from_slice(key).unwrap();
    state.update(data);
    state.finalize_fixed().into()
}

#[test]
fn an_answer_to_no_message_of_ours_is_dropped_at_once() {
    for kind in [2, 3] {
        let mut ends = session_of_the_vectors();
        let now = ends.now;
        for index in 0..2000 {
            ends.bob.receive(&answer(kind, index), elsewhere(), 0, now);
        }
        assert_eq!(ends.bob.take_events(), []);
        assert_eq!(ends.bob.drops(), [(DropReason::UnknownIndex, 2000)]);
        // Nobody is under load.
        ends.bob.receive(&genuine_initiation(), elsewhere(), 0, now);
        assert_eq!(ends.bob.take_events().len(), 1);
    }
}

#[test]
fn only_the_latest_initiation_may_be_answered_and_only_until_it_is() {
    for kind in [2, 3] {
        let mut ends = session_of_the_vectors();
        let now = ends.now;
        for index in [11, 12] {
            ends.bob.tell(now, handshake(&initiation(index)));
        }
        ends.bob.receive(&answer(kind, 11), elsewhere(), 0, now);
        assert_eq!(ends.bob.take_events(), []);
        ends.bob.receive(&answer(kind, 12), elsewhere(), 0, now);
        assert_eq!(ends.bob.take_events().len(), 1);

        let (mut keypair, _) = ends.keypairs();
        keypair.our_index = 12;
        ends.bob.tell(now, install(keypair));
        ends.bob.tell(now, ERASE);
        ends.bob.take_events();
        ends.bob.receive(&answer(kind, 12), elsewhere(), 0, now);
        assert_eq!(ends.bob.take_events(), []);
    }
}

#[test]
fn a_removed_peer_expects_no_answer() {
    let mut ends = session_of_the_vectors();
    let now = ends.now;
    ends.bob.tell(now, handshake(&initiation(12)));
    ends.bob.tell(now, DESTROY);
    ends.bob.receive(&answer(3, 12), elsewhere(), 0, now);
    assert_eq!(ends.bob.take_events(), []);
}

#[test]
fn a_flood_of_cookie_replies_to_a_message_of_ours_is_no_load() {
    let mut ends = session_of_the_vectors();
    let now = ends.now;
    for _ in 0..2000 {
        ends.bob
            .receive(&answer(3, 0xAABB_CCDD), elsewhere(), 0, now);
    }
    assert_eq!(ends.bob.events.queued_handshakes(), 0);
    assert_eq!(ends.bob.drops(), [(DropReason::QueueFull, 2000 - 64)]);
    ends.bob.receive(&genuine_initiation(), elsewhere(), 0, now);
    let first: Vec<_> = ends.bob.events.take(1);
    let kinds = first.iter().map(|event| match event {
        Event::HandshakeReceived { datagram, .. } => message_type(datagram).map(|kind| kind as u8),
        _ => None,
    });
    assert_eq!(kinds.collect::<Vec<_>>(), [Some(3), Some(1)]);
}

#[test]
fn without_a_private_key_handshakes_are_dropped() {
    let mut ends = session_of_the_vectors();
    let now = ends.now;
    ends.bob.tell(now, Command::SetAdmission { keys: None });
    ends.bob.receive(&genuine_initiation(), elsewhere(), 0, now);
    assert_eq!(ends.bob.take_events(), []);
    assert_eq!(ends.bob.drops(), [(DropReason::NotExpected, 1)]);
}

#[test]
fn a_hostile_peer_cannot_grow_what_is_kept() {
    let mut ends = Ends::new();
    for counter in 1..5000_u64 {
        let at = endpoint(&format!("198.51.100.{}:{}", counter % 256, counter));
        let plain = match counter % 3 {
            0 => vec![],
            1 => ipv4(&[]),
            _ => vec![counter as u8; (counter % 64) as usize],
        };
        let datagram = ends.sealed_raw(&plain, counter);
        let now = ends.now;
        ends.bob.receive(&datagram, at, 0, now);
    }
    assert_eq!(ends.bob.take_events().len(), 2);
    assert!(ends.bob.take_datagrams().is_empty());
}

#[test]
fn batches_follow_the_rules_of_single_packets() {
    let mut ends = Ends::strangers(MTU);
    ends.establish();
    ends.alice.take_datagrams();
    let now = ends.now;
    let out = &mut ends.bob.out;
    let device = &mut ends.bob.device;
    assert!(device.lookup(0xB000_0002).is_none());
    let session = device.lookup(0xB000_0001).unwrap();
    let keypair = device.session(session).unwrap();
    assert!(keypair.may_receive_at(now));
    assert!(keypair.window().may_accept_run(0, 45));
    assert_eq!(keypair.receive_key(), &[1; 32]);
    assert!(device.accept_run(session, 0, 45));
    assert!(!device.accept(session, 44));
    assert!(device.accept(session, 45));
    let traffic = nvpn_core::Traffic {
        bytes: 46 * 1452,
        packets: 46,
        data: true,
    };
    device.note_authentic(session, &elsewhere(), now, traffic, out);
    // The session is the same one after its promotion.
    assert!(
        device
            .session(session)
            .is_some_and(|keypair| keypair.may_send_at(now))
    );
    assert!(device.source_allowed(session.peer, IpAddr::from([10, 0, 0, 1])));
    assert!(!device.source_allowed(session.peer, IpAddr::from([10, 0, 0, 2])));
    let counters = ends.bob.shared.counters();
    assert_eq!((counters.rx_bytes, counters.rx_packets), (46 * 1452, 46));
    assert_eq!(
        ends.bob.take_events(),
        [
            Event::KeypairConfirmed {
                peer: THEM,
                our_index: 0xB000_0001,
                at: now
            },
            Event::DataReceived { peer: THEM },
            Event::EndpointRoamed {
                peer: THEM,
                endpoint: elsewhere().learned(now)
            },
        ]
    );
    ends.bob.tell(now, ERASE);
    assert!(ends.bob.device.session(session).is_none());
    assert!(!ends.bob.device.accept(session, 46));
    let wanted = Event::HandshakeWanted {
        peer: THEM,
        why: Why::NoKey,
    };
    ends.bob.tell(now, KEEPALIVE);
    assert!(ends.bob.take_events().contains(&wanted));
}
