//! Packets of every kind past a port filter that remembers: nothing passes that neither a rule
//! nor anything said before lets pass, and to keep a verdict for the next of a flow changes
//! nothing.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nvpn_core::constants::SECOND;
use nvpn_core::filter::LastVerdict;
use nvpn_core::flow::{Ports, flow_of};
use nvpn_core::inner::parse_inner;
use nvpn_core::{PeerId, PeerRef, PortFilter, Rule};

#[derive(Arbitrary, Debug)]
enum Step {
    /// The host sends.
    Sent {
        peer: u8,
        packet: Packet,
    },
    /// Peers send, together.
    Received {
        peer: u8,
        packets: Vec<Packet>,
    },
    Later(u8),
    Gone(u8),
    /// The rules change, and what is remembered stays.
    Rules {
        port: u16,
        accept: bool,
        own: bool,
    },
}

#[derive(Arbitrary, Debug)]
enum Packet {
    Bytes(Vec<u8>),
    /// Between two hosts that are always the same.
    Ours {
        is_ipv4: bool,
        back: bool,
        protocol: u8,
        place: u16,
        ports: [u8; 2],
        more: Vec<u8>,
    },
    /// An ICMP error about a packet, which is cut off.
    About(Box<Packet>, u8, u8),
}

impl Packet {
    fn make(&self, depth: u8) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Ours {
                is_ipv4,
                back,
                protocol,
                place,
                ports,
                more,
            } => {
                let ends = if *back { [2, 1] } else { [1, 2] };
                let mut body = vec![0, ports[usize::from(*back)] % 4];
                body.extend([0, ports[usize::from(!*back)] % 4]);
                body.extend(more);
                make(*is_ipv4, ends, *protocol, *place, &body)
            }
            Self::About(_, ..) if depth == 0 => Vec::new(),
            Self::About(about, kind, cut) => {
                let about = about.make(depth - 1);
                let is_ipv4 = about.first().is_some_and(|first| first >> 4 == 4);
                let mut body = vec![*kind, 0, 0, 0, 0, 0, 0, 0];
                body.extend(&about[..about.len().min(usize::from(*cut))]);
                make(is_ipv4, [2, 1], if is_ipv4 { 1 } else { 58 }, 0, &body)
            }
        }
    }
}

fn make(is_ipv4: bool, [from, to]: [u8; 2], protocol: u8, place: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    if is_ipv4 {
        packet.extend([0x45, 0]);
        packet.extend(((20 + body.len()) as u16).to_be_bytes());
        packet.extend([0, 7]);
        packet.extend((place & 0x3FFF).to_be_bytes());
        packet.extend([64, protocol, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([protocol, 64]);
        for end in [from, to] {
            packet.extend([0xFD; 15]);
            packet.push(end);
        }
    }
    packet.extend(body);
    packet
}

fn peer(number: u8) -> (PeerRef, PeerId) {
    let number = number % 2;
    (PeerRef::from(u32::from(number)), PeerId(number.into()))
}

fn closed_but_for(port: u16, accept: bool, own: bool) -> PortFilter {
    let rule = Rule {
        accept,
        peer: own.then_some(PeerId(1)),
        source: None,
        destination: None,
        protocol: None,
        source_ports: None,
        destination_ports: Some((port, port)),
    };
    PortFilter::new(&[rule], false, true)
}

fuzz_target!(|steps: Vec<Step>| {
    let mut filters = [(); 2].map(|()| closed_but_for(1, true, false));
    let (mut open_port, mut now) = (Some(1), 1000 * SECOND);
    let mut has_said = [false; 2];
    for step in steps {
        match step {
            Step::Sent { peer: who, packet } => {
                let packet = packet.make(3);
                let Some(inner) = parse_inner(&packet) else {
                    continue;
                };
                let (packet, ends) = (&packet[..inner.length], (inner.source, inner.destination));
                for filter in &mut filters {
                    filter.note_sent(peer(who), ends, packet, now);
                }
                has_said[usize::from(who % 2)] = true;
            }
            Step::Received { peer: who, packets } => {
                let mut last = LastVerdict::default();
                for packet in &packets {
                    // Several of one flow come together.
                    for _ in 0..2 {
                        let packet = packet.make(3);
                        let Some(inner) = parse_inner(&packet) else {
                            break;
                        };
                        let packet = &packet[..inner.length];
                        let [kept, anew] = &mut filters;
                        let passes = kept.accepts(peer(who), &inner, packet, now, &mut last);
                        let none = &mut LastVerdict::default();
                        let once_more = anew.accepts(peer(who), &inner, packet, now, none);
                        assert_eq!(passes, once_more);
                        let flow = flow_of(packet);
                        assert!(!passes || flow.ports != Ports::CutOff);
                        let is_open = matches!(
                            (flow.ports, open_port),
                            (Ports::Shown { destination, .. }, Some(port)) if destination == port
                        );
                        let is_later = flow.ports == Ports::Elsewhere;
                        let may_pass = is_open || is_later || has_said[usize::from(who % 2)];
                        assert!(!passes || may_pass);
                    }
                }
            }
            Step::Later(seconds) => now += u64::from(seconds) * SECOND,
            Step::Gone(who) => {
                for filter in &mut filters {
                    filter.forget(peer(who).0);
                }
                has_said[usize::from(who % 2)] = false;
            }
            Step::Rules { port, accept, own } => {
                filters =
                    filters.map(|before| closed_but_for(port, accept, own).after(Some(before)));
                open_port = accept.then_some(port);
            }
        }
    }
});
