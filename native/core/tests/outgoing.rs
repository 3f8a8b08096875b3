//! Packets from the TUN device: where they go, how they are sealed, what waits.

mod support;

use std::net::IpAddr;

use nvpn_core::constants::{REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES, SECOND};
use nvpn_core::icmp::unreachable;
use nvpn_core::inner::parse_inner;
use nvpn_core::{Command, DropReason, Endpoint, Event, NewKeypair, PeerId, Role, Source, Why};
use proptest::prelude::*;
use support::*;

const NO_KEY: Event = Event::HandshakeWanted {
    peer: THEM,
    why: Why::NoKey,
};
const DROP_STAGED: Command = Command::DropStaged { peer: THEM };
const STOP: Command = Command::StopSending { peer: THEM };
const DATA_SENT: Event = Event::DataSent { peer: THEM };

fn wanted(events: &[Event]) -> Vec<Why> {
    let why = |event: &Event| match event {
        Event::HandshakeWanted { why, .. } => Some(*why),
        _ => None,
    };
    events.iter().filter_map(why).collect()
}

/// Use up counters as if so many packets had been sent.
fn skip(end: &mut End, count: u64, now: u64) {
    let inner = parse_inner(&ipv4(&[])).unwrap();
    let inner = if end.device.route(&ipv4(&[]), &inner).is_ok() {
        inner
    } else {
        parse_inner(&back(&[])).unwrap()
    };
    let peer = end.device.route(&[], &inner).unwrap();
    assert!(
        end.device
            .begin_send(peer, count, now, &mut [0; 32])
            .is_some()
    );
}

// --- sealing --------------------------------------------------------------------------

#[test]
fn each_transport_vector_leaves_byte_for_byte() {
    let vectors = vectors();
    let session = session(vectors);
    for vector in list(vectors, "transport") {
        if text(vector, "direction") != "i->r" {
            continue;
        }
        let mut ends = Ends::strangers(MTU);
        let now = ends.now;
        let (inner, message) = (hex(vector, "inner"), hex(vector, "message"));
        let counter = vector["counter"].as_u64().unwrap();
        ends.alice.tell(now, insert_prefix(THEM, "10.9.0.2/32"));
        let mtu = vector["mtu"].as_u64().unwrap() as u32;
        ends.alice.tell(now, Command::SetMtu { mtu });
        let keypair = NewKeypair {
            role: Role::Initiator,
            our_index: 1,
            their_index: 0xAABB_CCDD,
            send_key: secret(&hex(session, "transport_key_initiator_to_responder")),
            receive_key: secret(&hex(session, "transport_key_responder_to_initiator")),
            born_at: now,
        };
        ends.alice.tell(now, install(keypair));
        if counter == 0 {
            // The keepalive that confirms the session is the vector.
            assert_eq!(one(ends.alice.take_datagrams()).datagram, message);
            continue;
        }
        ends.alice.take_datagrams();
        skip(&mut ends.alice, counter - 1, now);
        assert_eq!(ends.seal(&inner), message, "{}", text(vector, "what"));
    }
}

#[test]
fn what_alice_sends_bob_gets() {
    for size in [0, 1, 15, 16, 1371, 1372, 1379, 1380, 2000, 65_000] {
        let payload: Vec<u8> = (0..size).map(|n| n as u8).collect();
        for packet in [ipv4(&payload), ipv6(&payload)] {
            let mut ends = Ends::new();
            ends.alice.send(&packet, ends.now);
            ends.carry_to_bob();
            assert_eq!(ends.bob.take_inner(), [packet]);
            assert_eq!((ends.alice.dropped(), ends.bob.dropped()), (0, 0));
        }
    }
}

#[test]
fn lengths_on_the_wire_are_padded_within_the_mtu() {
    for vector in list(vectors(), "padding") {
        let [size, mtu, padded] = [0, 1, 2].map(|n| vector[n].as_u64().unwrap() as usize);
        if size < 20 {
            continue;
        }
        let mut ends = Ends::with_mtu(mtu as u32);
        let sealed = ends.seal(&ipv4(&vec![0; size - 20]));
        assert_eq!(sealed.len(), padded + 32, "{size} at {mtu}");
    }
}

#[test]
fn data_hides_its_class_and_shows_its_mark() {
    for (inner, outer) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
        let mut ends = Ends::new();
        for base in [V4, V6] {
            let tos = 0xB8 | inner;
            ends.alice.send(&Ip { tos, ..base }.make(), ends.now);
        }
        let marks: Vec<u8> = ends
            .alice
            .take_datagrams()
            .iter()
            .map(|sent| sent.tos)
            .collect();
        assert_eq!(marks, [outer, outer]);
    }
}

#[test]
fn handshakes_are_marked_af41_and_keepalives_are_not() {
    let mut ends = Ends::new();
    ends.alice.tell(ends.now, handshake(&[0; 148]));
    ends.alice.tell(ends.now, KEEPALIVE);
    let sent = ends.alice.take_datagrams();
    assert_eq!(
        sent[0],
        Sent {
            endpoint: bob_at(),
            datagram: vec![0; 148],
            tos: 0x88,
            peer: Some(THEM)
        }
    );
    assert_eq!((sent[1].datagram.len(), sent[1].tos), (32, 0));
}

// --- nowhere to go --------------------------------------------------------------------

#[test]
fn without_a_route_the_sender_is_told() {
    let packets = [
        Ip {
            destination: "10.0.0.3",
            ..V4
        },
        Ip {
            destination: "fd00::3",
            ..V6
        },
    ];
    for packet in packets.map(|packet| packet.make()) {
        let mut ends = Ends::new();
        ends.alice.send(&packet, ends.now);
        assert!(ends.alice.take_datagrams().is_empty());
        assert_eq!(ends.alice.take_inner(), [unreachable(&packet).unwrap()]);
        assert_eq!(ends.alice.drops(), [(DropReason::NoRoute, 1)]);
    }
}

#[test]
fn without_an_endpoint_the_sender_is_told_and_nothing_waits() {
    let mut ends = Ends::new();
    ends.alice.tell(ends.now, set_endpoint(None));
    ends.alice.send(&ipv4(&[]), ends.now);
    assert_eq!(ends.alice.take_inner(), [unreachable(&ipv4(&[])).unwrap()]);
    assert_eq!(ends.alice.drops(), [(DropReason::NoEndpoint, 1)]);
    assert_eq!(ends.alice.take_events(), []);
    ends.alice.tell(ends.now, KEEPALIVE);
    ends.alice.tell(ends.now, handshake(&[0; 148]));
    assert!(ends.alice.take_datagrams().is_empty());
    assert_eq!(ends.alice.drops(), [(DropReason::NoEndpoint, 2)]);
}

#[test]
fn unreachables_are_rationed_and_drops_are_all_counted() {
    let mut ends = Ends::new();
    let packet = Ip {
        destination: "10.9.9.9",
        ..V4
    }
    .make();
    for _ in 0..500 {
        ends.alice.send(&packet, ends.now);
    }
    assert_eq!(ends.alice.take_inner().len(), 50);
    assert_eq!(ends.alice.drops(), [(DropReason::NoRoute, 500)]);
}

#[test]
fn what_is_not_ip_is_dropped() {
    for packet in [&[][..], &[0x45], &[0; 100], &[0xFF; 100], &ipv4(&[])[..19]] {
        let mut ends = Ends::new();
        ends.alice.send(packet, ends.now);
        assert_eq!(ends.alice.drops(), [(DropReason::BadInner, 1)]);
        assert!(ends.alice.take_datagrams().is_empty());
    }
}

#[test]
fn what_no_datagram_can_hold_is_dropped() {
    let mut ends = Ends::with_mtu(65_535);
    assert_eq!(ends.seal(&ipv4(&vec![0; 65_472 - 20])).len(), 65_472 + 32);
    ends.alice
        .send(&ipv4(&vec![0; 65_507 - 32 + 1 - 20]), ends.now);
    assert!(ends.alice.take_datagrams().is_empty());
    assert_eq!(ends.alice.drops(), [(DropReason::TooBig, 1)]);
    let ipv6_endpoint = endpoint("[2001:db8::2]:1").learned(ends.now);
    ends.alice.tell(ends.now, set_endpoint(Some(ipv6_endpoint)));
    assert_eq!(ends.seal(&ipv4(&vec![0; 65_488 - 20])).len(), 65_488 + 32);
}

// --- waiting for a key ----------------------------------------------------------------

#[test]
fn without_a_key_packets_wait_and_a_handshake_is_wanted_once() {
    let mut ends = Ends::strangers(MTU);
    let packets: Vec<_> = (0..5).map(|n| ipv4(&[n])).collect();
    for packet in &packets {
        ends.alice.send(packet, ends.now);
    }
    assert!(ends.alice.take_datagrams().is_empty());
    assert_eq!(ends.alice.take_events(), [NO_KEY]);

    ends.establish();
    assert_eq!(ends.carry_to_bob().len(), 5);
    assert_eq!(ends.bob.take_inner(), packets);
    assert_eq!(ends.alice.take_events(), [DATA_SENT]);
}

#[test]
fn with_nothing_staged_a_new_session_is_confirmed_by_one_keepalive() {
    let mut ends = Ends::strangers(MTU);
    ends.establish();
    assert_eq!(one(ends.alice.take_datagrams()).datagram.len(), 32);
    assert_eq!(ends.alice.take_events(), []);
    assert!(ends.bob.take_datagrams().is_empty());
}

#[test]
fn of_200_packets_the_newest_128_leave_in_order() {
    let mut ends = Ends::strangers(MTU);
    let packets: Vec<_> = (0..200).map(|n| ipv4(&[n])).collect();
    for packet in &packets {
        ends.alice.send(packet, ends.now);
    }
    ends.establish();
    ends.carry_to_bob();
    assert_eq!(ends.bob.take_inner(), packets[72..]);
    assert_eq!(ends.alice.drops(), [(DropReason::StagingFull, 72)]);
}

#[test]
fn a_responder_does_not_send_before_the_session_is_confirmed() {
    let mut ends = Ends::strangers(MTU);
    ends.bob.send(&back(b"1"), ends.now);
    assert_eq!(ends.bob.take_events(), [NO_KEY]);
    ends.establish();
    ends.bob.send(&back(b"2"), ends.now);
    assert!(ends.bob.take_datagrams().is_empty());

    ends.carry_to_bob();
    assert_eq!(ends.carry_to_alice().len(), 2);
    assert_eq!(ends.alice.take_inner(), [back(b"1"), back(b"2")]);
}

#[test]
fn giving_up_drops_what_waits_and_the_next_packet_asks_again() {
    let mut ends = Ends::strangers(MTU);
    for _ in 0..3 {
        ends.alice.send(&ipv4(&[]), ends.now);
    }
    assert_eq!(ends.alice.take_events(), [NO_KEY]);
    ends.alice.tell(ends.now, DROP_STAGED);
    assert_eq!(ends.alice.drops(), [(DropReason::HandshakeFailed, 3)]);
    ends.alice.send(&ipv4(b"anew"), ends.now);
    assert_eq!(ends.alice.take_events(), [NO_KEY]);
    ends.establish();
    ends.carry_to_bob();
    assert_eq!(ends.bob.take_inner(), [ipv4(b"anew")]);
}

#[test]
fn giving_up_settles_what_was_sent() {
    let mut ends = Ends::new();
    ends.alice.send(&ipv4(&[]), ends.now);
    assert_eq!(ends.alice.shared.activity().data_sent_at, ends.now);
    ends.alice.take_events();
    ends.alice.tell(ends.now, DROP_STAGED);
    assert_eq!(ends.alice.shared.activity().data_sent_at, 0);
    ends.alice.send(&ipv4(&[]), ends.now);
    assert_eq!(ends.alice.take_events(), [DATA_SENT]);
}

#[test]
fn a_keepalive_without_a_key_wants_a_handshake() {
    let mut ends = Ends::strangers(MTU);
    ends.alice.tell(ends.now, KEEPALIVE);
    ends.alice.tell(ends.now, KEEPALIVE);
    assert_eq!(ends.alice.take_events(), [NO_KEY]);
    assert!(ends.alice.take_datagrams().is_empty());
}

#[test]
fn an_endpoint_that_comes_late_sets_waiting_packets_free() {
    let mut ends = Ends::strangers(MTU);
    ends.alice.send(&ipv4(&[]), ends.now);
    ends.alice.tell(ends.now, set_endpoint(None));
    ends.establish();
    assert!(ends.alice.take_datagrams().is_empty());
    ends.alice.tell(ends.now, set_endpoint(Some(bob_at())));
    ends.carry_to_bob();
    assert_eq!(ends.bob.take_inner(), [ipv4(&[])]);
}

// --- the age of a key, and its counter ------------------------------------------------

#[test]
fn at_180_seconds_packets_are_staged_and_a_handshake_is_wanted() {
    let mut ends = Ends::new();
    ends.now += 180 * SECOND - 1;
    ends.alice.send(&ipv4(&[]), ends.now);
    assert_eq!(ends.alice.take_datagrams().len(), 1);
    ends.alice.take_events();
    ends.now += 1;
    ends.alice.send(&ipv4(&[]), ends.now);
    assert!(ends.alice.take_datagrams().is_empty());
    assert_eq!(ends.alice.take_events(), [NO_KEY]);
}

#[test]
fn only_the_initiator_renews_at_the_first_send_after_120_seconds() {
    let mut ends = Ends::new();
    let mut told = Vec::new();
    for second in [119, 120, 121, 130, 150] {
        let at = START + second * SECOND;
        ends.alice.send(&ipv4(&[]), at);
        told.push((second, wanted(&ends.alice.take_events())));
        ends.bob.send(&back(&[]), at);
        assert_eq!(wanted(&ends.bob.take_events()), []);
    }
    told.retain(|(_, whys)| !whys.is_empty());
    assert_eq!(told, [(120, vec![Why::OldSending])]);
}

#[test]
fn a_keepalive_counts_as_sending() {
    let mut ends = Ends::new();
    ends.now += 120 * SECOND;
    ends.alice.tell(ends.now, KEEPALIVE);
    assert_eq!(wanted(&ends.alice.take_events()), [Why::OldSending]);
}

#[test]
fn after_2_to_the_60_messages_either_side_renews_once() {
    let mut ends = Ends::new();
    let now = ends.now;
    // Alice has sent one already, the keepalive.
    skip(&mut ends.alice, REKEY_AFTER_MESSAGES - 2, now);
    skip(&mut ends.bob, REKEY_AFTER_MESSAGES - 1, now);
    for (end, packet) in [(&mut ends.alice, ipv4(&[])), (&mut ends.bob, back(&[]))] {
        let told: Vec<_> = (0..4)
            .map(|_| {
                end.send(&packet, now);
                wanted(&end.take_events())
            })
            .collect();
        assert_eq!(told, [vec![], vec![Why::ManyMessages], vec![], vec![]]);
    }
}

#[test]
fn at_the_last_counter_nothing_is_sealed_any_more() {
    let mut ends = Ends::new();
    let now = ends.now;
    skip(&mut ends.alice, REJECT_AFTER_MESSAGES - 2, now);
    for _ in 0..3 {
        ends.alice.send(&ipv4(&[]), now);
    }
    let last = one(ends.alice.take_datagrams()).datagram;
    assert_eq!(last[8..16], (REJECT_AFTER_MESSAGES - 1).to_le_bytes());
    assert!(ends.alice.take_events().contains(&NO_KEY));
    ends.alice.tell(now, DROP_STAGED);
    assert_eq!(ends.alice.drops(), [(DropReason::HandshakeFailed, 2)]);
}

#[test]
fn a_batch_gets_all_its_counters_or_none() {
    let mut ends = Ends::new();
    let now = ends.now;
    let packet = ipv4(&[]);
    let peer = ends
        .alice
        .device
        .route(&packet, &parse_inner(&packet).unwrap())
        .unwrap();
    skip(&mut ends.alice, REJECT_AFTER_MESSAGES - 3, now);
    assert!(
        ends.alice
            .device
            .begin_send(peer, 3, now, &mut [0; 32])
            .is_none()
    );
    let mut key = [0; 32];
    let sending = ends
        .alice
        .device
        .begin_send(peer, 2, now, &mut key)
        .unwrap();
    assert_eq!(sending.first_counter, REJECT_AFTER_MESSAGES - 2);
    assert_eq!(sending.header, [4, 0, 0, 0, 1, 0, 0, 0xB0]);
    assert_eq!((sending.endpoint, sending.peer), (bob_at(), THEM));
    assert_eq!(key, [1; 32]);
    assert!(
        ends.alice
            .device
            .begin_send(peer, 1, now, &mut [0; 32])
            .is_none()
    );
    assert!(
        ends.alice
            .device
            .begin_send(peer, 1, now + 180 * SECOND, &mut [0; 32])
            .is_none()
    );
}

#[test]
fn when_our_key_changes_sending_stops_and_receiving_goes_on() {
    let mut ends = Ends::new();
    let late = ends.seal_back(&back(&[]));
    let (_, for_next) = ends.keypairs();
    let our_index = for_next.our_index;
    ends.alice.tell(ends.now, install(for_next));
    ends.alice.tell(ends.now, STOP);
    let gone = Event::KeypairGone {
        peer: THEM,
        our_index,
    };
    assert_eq!(ends.alice.take_events(), [gone]);
    ends.alice.send(&ipv4(&[]), ends.now);
    assert!(ends.alice.take_datagrams().is_empty());
    assert_eq!(ends.alice.take_events(), [NO_KEY]);
    assert_eq!(ends.alice.receive(&late, bob_at(), 0, ends.now).len(), 1);
}

#[test]
fn erased_keys_are_reported_and_a_new_one_is_asked_for() {
    let mut ends = Ends::new();
    ends.alice.tell(ends.now, ERASE);
    let gone = Event::KeypairGone {
        peer: THEM,
        our_index: 0xA000_0001,
    };
    assert_eq!(ends.alice.take_events(), [gone]);
    assert!(ends.alice.device.lookup(0xA000_0001).is_none());
    ends.alice.send(&ipv4(&[]), ends.now);
    assert_eq!(ends.alice.take_events(), [NO_KEY]);
}

#[test]
fn a_destroyed_peer_leaves_nothing() {
    let mut ends = Ends::strangers(MTU);
    ends.alice.send(&ipv4(&[]), ends.now);
    let (for_alice, _) = ends.keypairs();
    let (_, for_next) = ends.keypairs();
    let indices = [for_alice.our_index, for_next.our_index];
    ends.alice.tell(ends.now, install(for_alice));
    ends.alice.tell(ends.now, install(for_next));
    ends.alice.take_events();
    ends.alice.take_datagrams();
    ends.alice.tell(ends.now, DESTROY);
    assert_eq!(ends.alice.take_events(), []);
    assert!(
        indices
            .iter()
            .all(|&index| ends.alice.device.lookup(index).is_none())
    );
    ends.alice.send(&ipv4(&[]), ends.now);
    assert_eq!(ends.alice.drops(), [(DropReason::NoRoute, 1)]);
}

#[test]
fn what_names_an_unknown_peer_is_ignored() {
    let mut ends = Ends::strangers(MTU);
    let (keypair, _) = ends.keypairs();
    let peer = PeerId(99);
    let datagram: Box<[u8]> = Box::new([0; 148]);
    for command in [
        Command::InstallKeypair { peer, keypair },
        Command::SendKeepalive { peer },
        Command::SendHandshake {
            peer,
            datagram,
            forget_source: false,
            also: Box::default(),
        },
        insert_prefix(peer, "10.9.0.0/16"),
        Command::DeletePrefix {
            peer,
            prefix: prefix("10.9.0.0/16"),
            diverted: false,
        },
        Command::SetPeerEndpoint {
            peer,
            endpoint: None,
        },
        Command::StopSending { peer },
        Command::EraseKeys { peer },
        Command::DropStaged { peer },
        Command::Touch {
            peer,
            received_bytes: 1,
            at: 1,
        },
        Command::DestroyPeer { peer },
    ] {
        ends.alice.tell(ends.now, command);
    }
    assert!(ends.alice.take_datagrams().is_empty());
    assert_eq!(ends.alice.take_events(), []);
    ends.alice.send(
        &Ip {
            destination: "10.9.0.1",
            ..V4
        }
        .make(),
        ends.now,
    );
    assert_eq!(ends.alice.drops(), [(DropReason::NoRoute, 1)]);
}

#[test]
fn closing_forgets_everything() {
    let mut ends = Ends::new();
    ends.alice.device.close();
    assert!(ends.alice.device.lookup(0xA000_0001).is_none());
    ends.alice.send(&ipv4(&[]), ends.now);
    assert_eq!(ends.alice.drops(), [(DropReason::NoRoute, 1)]);
}

#[test]
fn a_prefix_that_is_taken_away_routes_nowhere() {
    let mut ends = Ends::new();
    let command = Command::DeletePrefix {
        peer: THEM,
        prefix: prefix("10.0.0.2/32"),
        diverted: false,
    };
    ends.alice.tell(ends.now, command);
    ends.alice.send(&ipv4(&[]), ends.now);
    ends.alice.send(&ipv6(&[]), ends.now);
    assert_eq!(ends.alice.drops(), [(DropReason::NoRoute, 1)]);
    assert_eq!(ends.alice.take_datagrams().len(), 1);
}

// --- our own address ------------------------------------------------------------------

#[test]
fn a_sticky_source_is_given_up() {
    for how in ["retry", "sockets", "error"] {
        let mut ends = Ends::new();
        let now = ends.now;
        let source = Some(Source {
            address: IpAddr::from([192, 0, 2, 1]),
            interface: 3,
        });
        let sticky = Endpoint { source, ..bob_at() }.learned(now);
        ends.alice.tell(now, set_endpoint(Some(sticky)));
        ends.alice.tell(now, handshake(&[0; 148]));
        assert_eq!(one(ends.alice.take_datagrams()).endpoint, sticky);
        let retry = Command::SendHandshake {
            peer: THEM,
            datagram: Box::new([0; 148]),
            forget_source: how == "retry",
            also: Box::default(),
        };
        match how {
            "sockets" => ends
                .alice
                .tell(now, Command::ReplaceSockets { ipv4: -1, ipv6: -1 }),
            "error" => ends.alice.device.forget_source(THEM),
            _ => {}
        }
        ends.alice.tell(now, retry);
        let sent = one(ends.alice.take_datagrams());
        assert_eq!(sent.endpoint.source, None, "{how}");
        assert!(sent.endpoint.same_remote(&bob_at()));
    }
}

#[test]
fn copies_of_a_handshake_message_go_elsewhere_too_and_move_nothing() {
    let mut ends = Ends::new();
    let now = ends.now;
    let elsewhere = [endpoint("198.51.100.7:7"), endpoint("[2001:db8::7]:7")];
    let racing = Command::SendHandshake {
        peer: THEM,
        datagram: initiation(7).into(),
        forget_source: false,
        also: elsewhere.into(),
    };
    let before = ends.alice.shared.counters();
    ends.alice.tell(now, racing);
    let sent = ends.alice.take_datagrams();
    let places: Vec<_> = sent.iter().map(|out| out.endpoint.remote).collect();
    assert_eq!(
        places,
        [bob_at().remote, elsewhere[0].remote, elsewhere[1].remote]
    );
    assert!(sent.iter().all(|out| out.datagram == initiation(7)));
    let after = ends.alice.shared.counters();
    assert_eq!(after.tx_bytes, before.tx_bytes + 3 * 148);
    ends.alice.tell(now, handshake(&[0; 148]));
    let next = one(ends.alice.take_datagrams());
    assert!(next.endpoint.same_remote(&bob_at()));
}

// --- a route that bites its tail ------------------------------------------------------

/// Alice's route to Bob's endpoint leads to Bob.
fn looping(at: &str) -> Ends {
    let mut ends = Ends::new();
    let inside = endpoint(at).learned(ends.now);
    ends.alice.tell(ends.now, set_endpoint(Some(inside)));
    ends
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0xCA, 0x6C];
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

fn carrying(version: u8, port: u16, payload: &[u8], fragment: bool) -> Vec<u8> {
    let datagram = udp(port, payload);
    if version == 4 {
        let fragment = if fragment { 0x2000 } else { 0 };
        return Ip {
            payload: &datagram,
            protocol: 17,
            fragment,
            ..V4
        }
        .make();
    }
    if !fragment {
        return Ip {
            payload: &datagram,
            protocol: 17,
            ..V6
        }
        .make();
    }
    let mut extended = vec![17, 0, 0, 1, 0, 0, 0, 7];
    extended.extend(datagram);
    Ip {
        payload: &extended,
        protocol: 44,
        ..V6
    }
    .make()
}

const INSIDE: [(u8, &str); 2] = [(4, "10.0.0.2:1002"), (6, "[fd00::2]:1002")];

#[test]
fn our_own_datagram_goes_round_once() {
    for (version, at) in INSIDE {
        for fragment in [false, true] {
            let mut ends = looping(at);
            let datagram = ends.seal(&ipv4(b"ping"));
            ends.alice
                .send(&carrying(version, 1002, &datagram, fragment), ends.now);
            assert!(ends.alice.take_datagrams().is_empty());
            assert!(ends.alice.take_inner().is_empty());
            assert_eq!(ends.alice.drops(), [(DropReason::RoutingLoop, 1)]);
        }
    }
}

#[test]
fn initiations_do_not_wait_for_themselves() {
    for (version, at) in INSIDE {
        let mut ends = looping(at);
        ends.alice.tell(ends.now, ERASE);
        ends.alice.tell(ends.now, handshake(&initiation(77)));
        ends.alice.take_datagrams();
        ends.alice.take_events();
        ends.alice
            .send(&carrying(version, 1002, &initiation(77), false), ends.now);
        assert_eq!(ends.alice.drops(), [(DropReason::RoutingLoop, 1)]);
        assert_eq!(ends.alice.take_events(), []);
    }
}

#[test]
fn what_others_send_to_the_same_place_passes() {
    for (version, at) in INSIDE {
        let mut ends = looping(at);
        let datagram = ends.seal(&ipv4(b"ping"));
        let mut theirs = datagram.clone();
        theirs[4] ^= 1;
        for (port, payload) in [(1002, &theirs[..]), (1003, &datagram), (1002, &[])] {
            ends.alice
                .send(&carrying(version, port, payload, false), ends.now);
        }
        assert_eq!(ends.alice.take_datagrams().len(), 3);
        assert_eq!(ends.alice.drops(), []);
    }
}

#[test]
fn our_datagrams_to_another_place_pass() {
    let mut ends = Ends::new();
    let datagram = ends.seal(&ipv4(b"ping"));
    ends.alice
        .send(&carrying(4, 1002, &datagram, false), ends.now);
    assert_eq!(ends.alice.take_datagrams().len(), 1);
}

#[test]
fn what_is_over_is_no_loop() {
    let mut ends = looping("10.0.0.2:1002");
    let datagram = ends.seal(&ipv4(b"ping"));
    ends.alice.tell(ends.now, handshake(&initiation(77)));
    ends.alice.tell(ends.now, ERASE);
    ends.alice
        .send(&carrying(4, 1002, &datagram, false), ends.now);
    assert_eq!(ends.alice.drops(), []);
    ends.alice
        .send(&carrying(4, 1002, &initiation(77), false), ends.now);
    assert_eq!(ends.alice.drops(), [(DropReason::RoutingLoop, 1)]);
}

// --- whatever comes -------------------------------------------------------------------

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #[test]
    fn no_bytes_from_the_network_have_an_effect(
        head in prop_oneof![
            Just(vec![]),
            Just(vec![4, 0, 0, 0, 1, 0, 0, 0xB0]),
            Just(vec![1, 0, 0, 0]),
            Just(vec![2, 0, 0, 0]),
        ],
        tail in bytes(300),
        tos: u8,
    ) {
        let mut ends = Ends::new();
        let before = (ends.bob.shared.counters(), ends.bob.shared.activity());
        let mut datagram = head;
        datagram.extend(tail);
        let now = ends.now;
        prop_assert!(ends.bob.receive(&datagram, elsewhere(), tos, now).is_empty());
        prop_assert_eq!(before, (ends.bob.shared.counters(), ends.bob.shared.activity()));
        prop_assert!(ends.bob.take_datagrams().is_empty());
        prop_assert!(ends.bob.take_events().is_empty());
        prop_assert_eq!(ends.bob.dropped(), 1);
    }

    #[test]
    fn no_authentic_bytes_are_too_odd(
        mut plain in bytes(200),
        first in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        tos: u8,
        now: u64,
    ) {
        if let Some(byte) = plain.first_mut() {
            *byte = first;
        }
        let mut ends = Ends::new();
        let datagram = ends.sealed_raw(&plain, 9);
        let at = ends.now;
        ends.bob.receive(&datagram, elsewhere(), tos, at);
        if !plain.is_empty() {
            let received = Event::DataReceived { peer: THEM };
            prop_assert!(ends.bob.take_events().contains(&received));
        }
        ends.alice.send(&plain, at);
        ends.alice.send(&plain, now);
        ends.bob.receive(&datagram, elsewhere(), tos, now);
    }

    #[test]
    fn every_packet_that_leaves_arrives(payload in bytes(1500), tos in 0_u8..=255) {
        let mut ends = Ends::new();
        for base in [V4, V6] {
            let packet = Ip { payload: &payload, tos, ..base }.make();
            ends.alice.send(&packet, ends.now);
            ends.carry_to_bob();
            prop_assert_eq!(ends.bob.take_inner(), [packet]);
        }
    }
}
