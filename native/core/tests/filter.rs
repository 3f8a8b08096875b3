//! The port filter's rules, and what is lifted out of the stream.
//!
//! The cases are those of `tests/datapath/test_filter.py`.

mod support;

use nvpn_core::filter::LastVerdict;
use nvpn_core::flow::{Ports, TCP, UDP, flow_hash, flow_of};
use nvpn_core::inner::parse_inner;
use nvpn_core::{Command, Diversion, DropReason, Event, PeerId, PeerRef, PortFilter, Rule};
use proptest::prelude::*;
use support::*;

const SCTP: u8 = 132;
const ICMP: u8 = 1;
const FIRST: [u8; 8] = [UDP, 0, 0, 1, 0, 0, 0, 7];
const LATER: [u8; 8] = [UDP, 0, 0, 9, 0, 0, 0, 7];
const ATOMIC: [u8; 8] = [UDP, 0, 0, 0, 0, 0, 0, 7];
const INTO_FRAGMENT: [u8; 8] = [44, 0, 0, 1, 0, 0, 0, 7];
const OPTIONS: [u8; 8] = [60, 0, 0, 0, 0, 0, 0, 0];
const LAST_OPTIONS: [u8; 8] = [TCP, 0, 0, 0, 0, 0, 0, 0];
const HOP_BY_HOP: [u8; 16] = [TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut payload = source.to_be_bytes().to_vec();
    payload.extend(destination.to_be_bytes());
    payload.extend([0; 16]);
    payload
}

fn v4(protocol: u8, payload: &[u8], fragment: u16) -> Vec<u8> {
    Ip {
        protocol,
        payload,
        fragment,
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
fn each_packet_shows_its_flow() {
    let shown = |source, destination| Ports::Shown {
        source,
        destination,
    };
    let with_first = |first: u8| {
        let mut packet = v4(TCP, &ports(1, 2), 0);
        packet[0] = first;
        packet
    };
    let behind = |head: &[u8]| [head, &ports(1, 2)].concat();
    let table = [
        (v4(TCP, &ports(1, 2), 0), TCP, shown(1, 2)),
        (v4(UDP, &ports(0xFFFF, 53), 0), UDP, shown(0xFFFF, 53)),
        (v4(SCTP, &ports(3, 4), 0), SCTP, shown(3, 4)),
        (v4(ICMP, &ports(1, 2), 0), ICMP, Ports::None),
        (v4(TCP, b"abc", 0), TCP, Ports::CutOff),
        (with_first(0x4F), TCP, Ports::CutOff),
        (with_first(0x41), TCP, shown(1, 2)),
        (v4(UDP, &ports(1, 2), 0x2000), UDP, shown(1, 2)),
        (v4(UDP, &ports(1, 2), 1), UDP, Ports::Elsewhere),
        (v6(TCP, &ports(1, 2)), TCP, shown(1, 2)),
        (v6(0, &behind(&HOP_BY_HOP)), TCP, shown(1, 2)),
        (v6(0, &HOP_BY_HOP[..7]), 0, Ports::CutOff),
        (v6(0, &HOP_BY_HOP[..8]), TCP, Ports::CutOff),
        (v6(44, &FIRST), UDP, Ports::CutOff),
        (v6(44, &FIRST[..7]), 44, Ports::CutOff),
        (v6(44, &behind(&FIRST)), UDP, shown(1, 2)),
        (v6(44, &LATER), UDP, Ports::Elsewhere),
        (v6(59, &[]), 59, Ports::None),
        (v6(51, &behind(&FIRST)), 51, Ports::CutOff),
        (v6(44, &behind(&ATOMIC)), UDP, shown(1, 2)),
        (
            v6(44, &[&INTO_FRAGMENT[..], &FIRST, &ports(1, 2)].concat()),
            44,
            Ports::CutOff,
        ),
        (
            v6(
                60,
                &[&OPTIONS.repeat(7)[..], &LAST_OPTIONS, &ports(1, 2)].concat(),
            ),
            TCP,
            shown(1, 2),
        ),
        (
            v6(
                60,
                &[&OPTIONS.repeat(8)[..], &LAST_OPTIONS, &ports(1, 2)].concat(),
            ),
            60,
            Ports::CutOff,
        ),
    ];
    for (packet, protocol, ports) in table {
        let flow = flow_of(&packet);
        assert_eq!(
            (flow.protocol, flow.ports),
            (protocol, ports),
            "{packet:02x?}"
        );
    }
}

#[test]
fn the_fragments_of_a_datagram_are_of_one_flow() {
    let whole = v4(UDP, &ports(1, 2), 0);
    let first = v4(UDP, &ports(1, 2), 0x2000);
    let later = v4(UDP, &ports(3, 4), 9);
    assert_eq!(flow_hash(&first), flow_hash(&later));
    assert_ne!(flow_hash(&first), flow_hash(&whole));
    let first = v6(44, &[&FIRST[..], &ports(1, 2)].concat());
    let later = v6(44, &[&LATER[..], &ports(3, 4)].concat());
    assert_eq!(flow_hash(&first), flow_hash(&later));
}

const ANY: Rule = Rule {
    accept: true,
    peer: None,
    source: None,
    destination: None,
    protocol: None,
    source_ports: None,
    destination_ports: None,
};
const ACCEPT_SSH: Rule = Rule {
    protocol: Some(TCP),
    destination_ports: Some((22, 22)),
    ..ANY
};
const DROP_HIGH: Rule = Rule {
    accept: false,
    source_ports: Some((1024, 65535)),
    ..ANY
};
const DROP_TCP: Rule = Rule {
    accept: false,
    protocol: Some(TCP),
    ..ANY
};

#[test]
fn the_first_rule_that_matches_decides() {
    let ssh = v4(TCP, &ports(40000, 22), 0);
    let web = v4(TCP, &ports(40000, 443), 0);
    let ping = v4(ICMP, &[0; 8], 0);
    let later_tcp = v4(TCP, &[0; 8], 9);
    let later_udp = v4(UDP, &[0; 8], 9);
    // What a later fragment could complete, past the rules.
    let hidden_tcp = v6(
        44,
        &[[60, 0, 0, 1, 0, 0, 0, 7], [TCP, 0, 0, 0, 0, 0, 0, 0]].concat(),
    );
    let hidden_protocol = v6(44, &[60, 0, 0, 1, 0, 0, 0, 7]);
    let from = |text| Rule {
        source: Some(prefix(text)),
        ..ANY
    };
    let to = |text| Rule {
        destination: Some(prefix(text)),
        ..ANY
    };
    let of = |peer| Rule {
        peer: Some(peer),
        ..ANY
    };
    let at = |range| Rule {
        destination_ports: Some(range),
        ..ANY
    };
    let out_of = |range| Rule {
        source_ports: Some(range),
        ..ANY
    };
    let cases = [
        (vec![], true, &ssh, true),
        (vec![], false, &ssh, false),
        (vec![ACCEPT_SSH], false, &ssh, true),
        (vec![ACCEPT_SSH], false, &web, false),
        (vec![ACCEPT_SSH], false, &ping, false),
        (vec![ACCEPT_SSH], false, &later_tcp, true),
        (vec![ACCEPT_SSH], false, &later_udp, false),
        (vec![DROP_HIGH], true, &ssh, false),
        (vec![DROP_HIGH], true, &ping, true),
        (vec![DROP_HIGH], true, &later_tcp, true),
        (vec![ACCEPT_SSH, DROP_HIGH], true, &ssh, true),
        (vec![ACCEPT_SSH, DROP_HIGH], true, &web, false),
        (vec![DROP_TCP], true, &later_tcp, false),
        (vec![DROP_HIGH], true, &hidden_tcp, false),
        (vec![DROP_TCP], true, &hidden_protocol, false),
        (vec![of(THEM)], false, &ssh, true),
        (vec![of(PeerId(9))], false, &ssh, false),
        (vec![from("10.0.0.0/24")], false, &ssh, true),
        (vec![from("10.0.1.0/24")], false, &ssh, false),
        (vec![to("10.0.0.2/32")], false, &ssh, true),
        (vec![to("10.0.0.3/32")], false, &ssh, false),
        (vec![to("::/0")], false, &ssh, false),
        (vec![at((20, 25))], false, &ssh, true),
        (vec![at((23, 25))], false, &ssh, false),
        (vec![out_of((40000, 40000))], false, &ssh, true),
    ];
    for (number, (rules, otherwise, packet, passes)) in cases.into_iter().enumerate() {
        let inner = parse_inner(packet).unwrap();
        let mut filter = PortFilter::new(&rules, otherwise, false);
        let mut last = LastVerdict::default();
        let who = (PeerRef::from(0), THEM);
        // Once more: what was found the first time may be used.
        for _ in 0..2 {
            let verdict = filter.accepts(who, &inner, packet, 0, &mut last);
            assert_eq!(verdict, passes, "case {number}");
        }
    }
}

fn set_filter(rules: &[Rule]) -> Command {
    Command::SetFilter {
        filter: Some(PortFilter::new(rules, false, false)),
    }
}

#[test]
fn what_is_filtered_is_counted_and_goes_nowhere() {
    let mut ends = Ends::new();
    ends.bob.tell(ends.now, set_filter(&[ACCEPT_SSH]));
    let ssh = v4(TCP, &ports(40000, 22), 0);
    let web = v4(TCP, &ports(40000, 443), 0);
    for packet in [&ssh, &web] {
        ends.alice.send(packet, ends.now);
    }
    ends.carry_to_bob();
    assert_eq!(ends.bob.take_inner(), [ssh]);
    assert_eq!(ends.bob.drops(), [(DropReason::Filtered, 1)]);
    ends.bob.tell(ends.now, Command::SetFilter { filter: None });
    ends.alice.send(&web, ends.now);
    ends.carry_to_bob();
    assert_eq!(ends.bob.take_inner(), [web]);
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = 5000_u16.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

fn divert() -> Command {
    let place = |text, port| Diversion {
        prefix: prefix(text),
        port,
    };
    Command::Divert {
        diversions: Box::new([place("10.0.0.2/32", 7), place("fd00::/64", 9)]),
    }
}

#[test]
fn only_whole_datagrams_to_such_a_place_are_diverted() {
    let control = udp(7, b"control");
    // By its own word its header ends within: checksum and address would be port and length.
    let mut headless = v4(UDP, &[0; 10 * 256 - 12], 0);
    headless[0] = 0x42;
    headless[10..12].copy_from_slice(&[0, 7]);
    let table = [
        (v4(UDP, &control, 0), true),
        (v6(UDP, &udp(9, b"control")), true),
        (v4(UDP, &udp(7, b""), 0), true),
        (v4(UDP, &udp(9, b"control"), 0), false),
        (v6(UDP, &control), false),
        (v4(TCP, &control, 0), false),
        (v4(UDP, &control[..14], 0), false),
        (v4(UDP, &control[..6], 0), false),
        (v4(UDP, &control[..12], 0x2000), false),
        (v4(UDP, &control, 1), false),
        (v4(UDP, &control, 0x2000), false),
        (v6(44, &[&FIRST, &udp(9, b"control")[..]].concat()), false),
        (headless, false),
    ];
    for (packet, diverted) in table {
        let mut ends = Ends::new();
        ends.bob.tell(ends.now, divert());
        ends.alice.send(&packet, ends.now);
        ends.carry_to_bob();
        let event = Event::InnerReceived {
            peer: THEM,
            packet: packet.clone().into(),
        };
        assert_eq!(ends.bob.take_events().contains(&event), diverted);
        assert_eq!(ends.bob.take_inner().is_empty(), diverted);
        assert_eq!(ends.bob.drops(), []);
    }
}

#[test]
fn diverted_packets_are_bounded() {
    let mut ends = Ends::new();
    ends.bob.tell(ends.now, divert());
    for _ in 0..300 {
        ends.alice.send(&v4(UDP, &udp(7, b"control"), 0), ends.now);
    }
    ends.carry_to_bob();
    let is_inner = |event: &Event| matches!(event, Event::InnerReceived { .. });
    assert_eq!(
        ends.bob.take_events().into_iter().filter(is_inner).count(),
        32
    );
    assert_eq!(ends.bob.drops(), [(DropReason::QueueFull, 300 - 32)]);
}

#[test]
fn from_where_only_what_is_diverted_may_come_nothing_else_comes_and_goes() {
    let mut ends = Ends::new();
    ends.bob.tell(ends.now, divert());
    for end in [&mut ends.alice, &mut ends.bob] {
        let route = |text| Command::InsertPrefix {
            peer: THEM,
            prefix: prefix(text),
            diverted: true,
        };
        end.tell(ends.now, route("10.0.9.1/32"));
        end.tell(ends.now, route("10.0.9.2/32"));
    }
    let from_there = |payload: &[u8]| {
        Ip {
            source: "10.0.9.1",
            payload,
            protocol: UDP,
            ..V4
        }
        .make()
    };
    let control = from_there(&udp(7, b"control"));
    ends.alice.send(&control, ends.now);
    ends.alice.send(&from_there(&udp(8, b"stray")), ends.now);
    ends.carry_to_bob();
    let event = Event::InnerReceived {
        peer: THEM,
        packet: control.into(),
    };
    assert!(ends.bob.take_events().contains(&event));
    assert!(ends.bob.take_inner().is_empty());
    assert_eq!(ends.bob.drops(), [(DropReason::SourceNotAllowed, 1)]);

    let back = Ip {
        destination: "10.0.9.2",
        ..V4
    }
    .make();
    ends.alice.send(&back, ends.now);
    assert_eq!(ends.alice.drops(), [(DropReason::NoRoute, 1)]);
    let packet = back.clone().into();
    ends.alice.tell(ends.now, Command::SendInner { packet });
    ends.carry_to_bob();
    assert_eq!(ends.bob.take_inner(), [back]);
}

#[test]
fn an_inner_packet_that_is_sent_takes_the_way_of_all_others() {
    let mut ends = Ends::new();
    let lost = Ip {
        destination: "10.9.9.9",
        ..V4
    }
    .make();
    for packet in [ipv4(b"hello"), lost, vec![]] {
        let packet = packet.into();
        ends.alice.tell(ends.now, Command::SendInner { packet });
    }
    ends.carry_to_bob();
    assert_eq!(ends.bob.take_inner(), [ipv4(b"hello")]);
    assert_eq!(
        ends.alice.drops(),
        [(DropReason::BadInner, 1), (DropReason::NoRoute, 1)]
    );
}

proptest! {
    #[test]
    fn no_packet_is_too_odd(
        head in prop_oneof![
            Just(vec![0x45, 0, 0, 40]),
            Just(vec![0x60, 0, 0, 0, 0, 0, 0, 64]),
            Just(vec![0x60, 0, 0, 0, 0, 40, 44, 64]),
            Just(vec![0x60, 0, 0, 0, 0, 40, 0, 64]),
        ],
        tail in proptest::collection::vec(any::<u8>(), 0..120),
        remembers: bool,
    ) {
        let packet = [head, tail].concat();
        let mut ends = Ends::new();
        let filter = Some(PortFilter::new(&[DROP_HIGH, ANY], false, remembers));
        ends.bob.tell(ends.now, Command::SetFilter { filter });
        ends.bob.send(&packet, ends.now);
        ends.bob.tell(ends.now, divert());
        let datagram = ends.sealed_raw(&packet, 9);
        ends.receive(&datagram);
        if let Some(inner) = parse_inner(&packet) {
            let _ = flow_of(&packet[..inner.length]);
        }
    }
}
