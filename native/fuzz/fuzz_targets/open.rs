//! Datagrams of every kind into a device: each is delivered, counted or handed up, once,
//! and nothing is delivered that was not sealed under the key, or that came before.
#![no_main]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use nvpn_core::aead::{BatchAead, RingAead};
use nvpn_core::constants::SECOND;
use nvpn_core::datagrams::Datagrams;
use nvpn_core::inner::parse_inner;
use nvpn_core::{
    AdmissionKeys, Command, Device, Diversion, Drops, Endpoint, Event, EventQueue, NewKeypair,
    Outbox, PeerId, PeerShared, PortFilter, Prefix, Role, Rule, Secret,
};

const PEER: PeerId = PeerId(1);
const INDEX: u32 = 0xA000_0001;
const OURS: [u8; 32] = [1; 32];
const THEIRS: [u8; 32] = [2; 32];

#[derive(Arbitrary, Debug)]
enum Step {
    /// Whatever the bytes say.
    Datagram {
        bytes: Vec<u8>,
        from: u8,
        tos: u8,
    },
    /// A handshake message as far as its type, size and receiver go.
    Handshake {
        kind: u8,
        known: bool,
        fill: u8,
        from: u8,
    },
    /// Sealed under the peer's key, then damaged if so.
    Message {
        counter: u64,
        ahead: bool,
        plain: Plain,
        from: u8,
        tos: u8,
        damage: Option<(u16, u8)>,
    },
    /// The one before, once more.
    Again,
    /// From the TUN device.
    Send(Plain),
    /// So many seconds later.
    Later(u8),
    Install {
        is_initiator: bool,
        index: u8,
    },
    /// A rule of some shape, or none.
    Filter {
        accept: bool,
        otherwise: bool,
        remember: bool,
        protocol: Option<u8>,
        ports: Option<(u16, u16)>,
        off: bool,
    },
    Divert {
        port: u16,
        all: bool,
    },
    Command(u8),
}

#[derive(Arbitrary, Debug)]
enum Plain {
    Empty,
    Bytes(Vec<u8>),
    Ipv4 {
        allowed: bool,
        more: Vec<u8>,
        padding: u8,
    },
    Ipv6 {
        allowed: bool,
        more: Vec<u8>,
        padding: u8,
    },
}

impl Plain {
    fn make(&self) -> Vec<u8> {
        match self {
            Self::Empty => Vec::new(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Ipv4 {
                allowed,
                more,
                padding,
            } => {
                let end = if *allowed { 2 } else { 3 };
                let mut packet = vec![0x45, 0];
                packet.extend(((20 + more.len()) as u16).to_be_bytes());
                packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, end, 10, 0, 0, end]);
                packet.extend(more);
                packet.resize(packet.len() + usize::from(padding % 16), 0);
                packet
            }
            Self::Ipv6 {
                allowed,
                more,
                padding,
            } => {
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend((more.len() as u16).to_be_bytes());
                packet.extend([17, 64]);
                for _ in 0..2 {
                    packet.extend([0xFD; 15]);
                    packet.push(if *allowed { 2 } else { 3 });
                }
                packet.extend(more);
                packet.resize(packet.len() + usize::from(padding % 16), 0);
                packet
            }
        }
    }
}

#[derive(Default)]
struct Out {
    datagrams: usize,
    inner: Vec<Vec<u8>>,
}

impl Outbox for Out {
    fn datagram(&mut self, _: &Endpoint, datagram: &[u8], _: u8, _: Option<PeerId>) {
        assert!(datagram.len() >= 32);
        self.datagrams += 1;
    }

    fn inner(&mut self, packet: &mut [u8]) {
        assert_eq!(
            parse_inner(packet).map(|inner| inner.length),
            Some(packet.len())
        );
        self.inner.push(packet.to_vec());
    }
}

fn at(from: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from(([192, 0, 2, from % 4 + 1], 1001)))
}

fn secret(bytes: &[u8; 32]) -> Secret {
    Secret::copy_from(bytes).expect("32 bytes")
}

struct World {
    device: Device,
    out: Out,
    events: Arc<EventQueue>,
    drops: Arc<Drops>,
    now: u64,
    counter: u64,
    last: Vec<u8>,
    sealed: HashSet<(u32, u64)>,
    delivered: HashSet<(u32, u64)>,
    index: u32,
}

impl World {
    fn new() -> Self {
        let (events, drops) = (Arc::new(EventQueue::new()), Arc::new(Drops::new()));
        let zeros = Box::new(|bytes: &mut [u8]| {
            bytes.fill(0);
            true
        });
        let mut world = Self {
            device: Device::new(1420, events.clone(), drops.clone(), zeros),
            out: Out::default(),
            events,
            drops,
            now: 1000 * SECOND,
            counter: 0,
            last: Vec::new(),
            sealed: HashSet::new(),
            delivered: HashSet::new(),
            index: INDEX,
        };
        world.tell(Command::CreatePeer {
            peer: PEER,
            shared: Arc::new(PeerShared::new()),
        });
        for prefix in ["10.0.0.2/32", "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fd02/128"] {
            let (address, length) = prefix.split_once('/').expect("a prefix");
            let address = address.parse().expect("an address");
            let prefix = Prefix::new(address, length.parse().expect("a length"));
            world.tell(Command::InsertPrefix {
                peer: PEER,
                prefix: prefix.expect("a prefix"),
                diverted: false,
            });
        }
        world.tell(Command::SetPeerEndpoint {
            peer: PEER,
            endpoint: Some(at(0)),
        });
        world.install(true, INDEX);
        world.tell(Command::SetAdmission {
            keys: Some(AdmissionKeys {
                mac1_key: secret(&[3; 32]),
                cookie_key: secret(&[4; 32]),
                secret: secret(&[5; 32]),
            }),
        });
        world
    }

    fn tell(&mut self, command: Command) {
        self.device.apply(command, self.now, &mut self.out);
    }

    fn install(&mut self, is_initiator: bool, our_index: u32) {
        self.index = our_index;
        self.tell(Command::InstallKeypair {
            peer: PEER,
            keypair: NewKeypair {
                role: if is_initiator {
                    Role::Initiator
                } else {
                    Role::Responder
                },
                our_index,
                their_index: 7,
                send_key: secret(&OURS),
                receive_key: secret(&THEIRS),
                born_at: self.now,
            },
        });
    }

    fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, count)| count).sum()
    }

    /// One datagram: it must come to exactly one end.
    fn receive(&mut self, mut datagram: Vec<u8>, from: u8, tos: u8) {
        self.last.clone_from(&datagram);
        let name = (datagram.len() >= 16).then(|| {
            let index = u32::from_le_bytes(datagram[4..8].try_into().expect("4"));
            (
                index,
                u64::from_le_bytes(datagram[8..16].try_into().expect("8")),
            )
        });
        let (before, inner) = (self.dropped(), self.out.inner.len());
        let is_empty = datagram.len() == 32;
        self.events.take(usize::MAX);
        self.device
            .receive(&mut datagram, &at(from), tos, self.now, &mut self.out);
        let (mut handed_up, mut lifted) = (0, 0);
        for event in self.events.take(usize::MAX) {
            match event {
                Event::HandshakeReceived { .. } => handed_up += 1,
                Event::InnerReceived { .. } => lifted += 1,
                _ => {}
            }
        }
        let written = self.out.inner.len() - inner + lifted;
        let ends = (self.dropped() - before) as usize + handed_up + written;
        assert!(ends == 1 || (is_empty && ends == 0), "{ends}");
        if written > 0 {
            let name = name.expect("a message");
            assert!(self.sealed.contains(&name), "nobody sealed it");
            assert!(self.delivered.insert(name), "it came before");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Datagram { bytes, from, tos } => self.receive(bytes, from, tos),
            Step::Handshake {
                kind,
                known,
                fill,
                from,
            } => {
                let kind = kind % 3 + 1;
                let size = [148, 92, 64][usize::from(kind - 1)];
                let mut datagram = vec![fill; size];
                datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
                if known {
                    let place = if kind == 2 { 8 } else { 4 };
                    datagram[place..place + 4].copy_from_slice(&self.index.to_le_bytes());
                }
                self.receive(datagram, from, 0);
            }
            Step::Message {
                counter,
                ahead,
                plain,
                from,
                tos,
                damage,
            } => {
                self.counter = if ahead {
                    self.counter.wrapping_add(counter % 9000)
                } else {
                    counter
                };
                let mut datagram = vec![0; 16];
                datagram.extend(plain.make());
                datagram.resize(datagram.len() + 16, 0);
                let size = datagram.len();
                let one = Datagrams::covering(size, size).expect("one");
                let mut head = [4, 0, 0, 0, 0, 0, 0, 0];
                head[4..].copy_from_slice(&self.index.to_le_bytes());
                RingAead
                    .seal(&THEIRS, &head, self.counter, &mut datagram, &one)
                    .expect("room");
                self.sealed.insert((self.index, self.counter));
                if let Some((place, bits)) = damage {
                    let place = usize::from(place) % size;
                    // What is left of a name may be that of another message.
                    if place >= 16 && bits != 0 {
                        datagram[place] ^= bits;
                        let before = self.out.inner.len();
                        self.receive(datagram, from, tos);
                        assert_eq!(self.out.inner.len(), before, "forged, and delivered");
                        return;
                    }
                }
                self.receive(datagram, from, tos);
            }
            Step::Again => {
                let again = self.last.clone();
                let before = self.out.inner.len();
                self.receive(again, 0, 0);
                assert_eq!(self.out.inner.len(), before.max(self.out.inner.len()));
            }
            Step::Send(plain) => {
                let packet = plain.make();
                self.device.send_inner(&packet, self.now, &mut self.out);
            }
            Step::Later(seconds) => self.now += u64::from(seconds) * SECOND,
            Step::Install {
                is_initiator,
                index,
            } => {
                // An index is never used twice: that is the protocol's to keep.
                let index = self.index.wrapping_add(1 + u32::from(index % 2));
                self.install(is_initiator, index);
            }
            Step::Filter {
                accept,
                otherwise,
                remember,
                protocol,
                ports,
                off,
            } => {
                let rule = Rule {
                    accept,
                    peer: None,
                    source: None,
                    destination: Prefix::new([10, 0, 0, 2].into(), 32),
                    protocol,
                    source_ports: None,
                    destination_ports: ports,
                };
                let filter = (!off).then(|| PortFilter::new(&[rule], otherwise, remember));
                self.tell(Command::SetFilter { filter });
            }
            Step::Divert { port, all } => {
                let length = if all { 0 } else { 32 };
                let prefix = Prefix::new([10, 0, 0, 2].into(), length);
                let diversions = prefix
                    .map(|prefix| Diversion { prefix, port })
                    .into_iter()
                    .collect();
                self.tell(Command::Divert { diversions });
            }
            Step::Command(8) => {
                let packet = self.last.clone().into();
                self.tell(Command::SendInner { packet });
            }
            Step::Command(0) => self.tell(Command::EraseKeys { peer: PEER }),
            Step::Command(1) => self.tell(Command::StopSending { peer: PEER }),
            Step::Command(2) => self.tell(Command::DropStaged { peer: PEER }),
            Step::Command(3) => self.tell(Command::SendKeepalive { peer: PEER }),
            Step::Command(4) => self.tell(Command::SetPeerEndpoint {
                peer: PEER,
                endpoint: None,
            }),
            Step::Command(5) => self.tell(Command::SetMtu { mtu: 0 }),
            Step::Command(6) => self.tell(Command::SetAdmission { keys: None }),
            Step::Command(7) => self.device.forget_source(PEER),
            Step::Command(_) => {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some((&[size, stride], rest)) = data.split_first_chunk()
        && let Some(messages) = Datagrams::covering(usize::from(size) * 7, stride.into())
    {
        // Nobody has sealed this; nothing may open, and nothing be read that is not there.
        let mut bytes = rest.to_vec();
        assert_eq!(RingAead.open(&THEIRS, &mut bytes, &messages, u128::MAX), 0);
    }
    let mut world = World::new();
    let mut input = Unstructured::new(data);
    while !input.is_empty() {
        match Step::arbitrary(&mut input) {
            Ok(step) => world.step(step),
            Err(_) => break,
        }
    }
    world.device.close();
});
