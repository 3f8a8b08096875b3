//! What one read of a socket brings, taken in runs by one device and datagram by datagram by
//! its twin: both deliver the same packets, drop as many for the same reasons, and say and
//! send the same.
#![no_main]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use nvpn_core::aead::{BatchAead, RingAead, plaintext};
use nvpn_core::constants::SECOND;
use nvpn_core::datagrams::{Datagrams, MAX_DATAGRAMS};
use nvpn_core::runs::{Admitted, Run, chosen};
use nvpn_core::{
    AdmissionKeys, Command, Device, Diversion, DropReason, Drops, Endpoint, Event, EventQueue,
    NewKeypair, Outbox, PeerId, PeerShared, PortFilter, Prefix, Role, Rule, Secret, Seen,
};

const PEERS: [PeerId; 2] = [PeerId(1), PeerId(2)];
/// No read brings more.
const MAX_READ: usize = 65_535;
const REMEMBERED: usize = 300;

#[derive(Arbitrary, Debug)]
enum Step {
    Read(Read),
    Later(u8),
    Install {
        peer: u8,
        is_initiator: bool,
    },
    /// From the TUN device, to whichever peer has the address.
    Send(Inner),
    EraseKeys(u8),
    Filter {
        accept: bool,
        otherwise: bool,
        remember: bool,
        port: Option<u16>,
    },
    Divert(Option<u16>),
    Watch {
        peer: u8,
        is_watched: bool,
    },
}

#[derive(Arbitrary, Debug)]
struct Read {
    segment: u16,
    /// Of the last datagram, if that is shorter.
    last: Option<u16>,
    from: u8,
    tos: u8,
    longest: u8,
    /// Every run is opened before any is settled, and this happens in between: as it is
    /// with several workers.
    early: Option<Meanwhile>,
    trains: Vec<Train>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Meanwhile {
    Nothing,
    EraseKeys { peer: u8 },
    Install { peer: u8, is_initiator: bool },
}

/// Datagrams of one kind.
#[derive(Arbitrary, Debug)]
struct Train {
    count: u8,
    kind: Kind,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    /// Sealed by a peer, and damaged on the way if so.
    Sealed {
        session: u8,
        counter: Counter,
        inner: Inner,
        damage: Option<(u16, u8)>,
    },
    /// As it came before, so long ago.
    Again(u8),
    Handshake {
        kind: u8,
        is_known: bool,
    },
    /// Some bytes, over and over.
    Noise([u8; 20]),
}

#[derive(Arbitrary, Debug)]
enum Counter {
    Next,
    Skip(u16),
    Back(u16),
    Exactly(u64),
}

#[derive(Arbitrary, Clone, Debug)]
struct Inner {
    version: u8,
    /// Last byte of the address that it comes from, and goes to.
    host: u8,
    tos: u8,
    protocol: u8,
    port: u16,
    /// Behind the packet, or missing from it.
    padding: i8,
    fill: u8,
}

impl Inner {
    fn make(&self, size: usize) -> Vec<u8> {
        let mut packet = vec![self.fill; size];
        let length = size.saturating_add_signed(-isize::from(self.padding));
        let header = match self.version % 4 {
            0 | 1 => {
                let mut header = vec![0x45, self.tos];
                header.extend((length as u16).to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, self.protocol, 0, 0]);
                header.extend([10, 0, 0, self.host % 8, 10, 0, 0, self.host % 8]);
                header
            }
            2 => {
                let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
                header.extend((length.saturating_sub(40) as u16).to_be_bytes());
                header.extend([self.protocol, 64]);
                for _ in 0..2 {
                    header.extend([0xFD; 15]);
                    header.push(self.host % 8);
                }
                header
            }
            _ => Vec::new(),
        };
        let mut whole = header;
        if !whole.is_empty() {
            let udp = (length.saturating_sub(whole.len()) as u16).to_be_bytes();
            whole.extend(self.port.to_be_bytes());
            whole.extend(self.port.to_be_bytes());
            whole.extend(udp);
        }
        let known = whole.len().min(size);
        packet[..known].copy_from_slice(&whole[..known]);
        packet
    }
}

#[derive(Default)]
struct Out {
    datagrams: Vec<(Endpoint, Vec<u8>, u8, Option<PeerId>)>,
    inner: Vec<Vec<u8>>,
}

impl Outbox for Out {
    fn datagram(&mut self, to: &Endpoint, datagram: &[u8], tos: u8, peer: Option<PeerId>) {
        self.datagrams.push((*to, datagram.to_vec(), tos, peer));
    }

    fn inner(&mut self, packet: &mut [u8]) {
        self.inner.push(packet.to_vec());
    }
}

/// One of the twins.
struct Side {
    device: Device,
    out: Out,
    events: Arc<EventQueue>,
    drops: Arc<Drops>,
    shared: [Arc<PeerShared>; 2],
}

impl Side {
    fn new() -> Self {
        let (events, drops) = (Arc::new(EventQueue::new()), Arc::new(Drops::new()));
        let zeros = Box::new(|bytes: &mut [u8]| {
            bytes.fill(0);
            true
        });
        Self {
            device: Device::new(1420, events.clone(), drops.clone(), zeros),
            out: Out::default(),
            events,
            drops,
            shared: Default::default(),
        }
    }

    fn tell(&mut self, command: Command, now: u64) {
        self.device.apply(command, now, &mut self.out);
    }

    fn dropped(&self) -> Vec<u64> {
        DropReason::ALL
            .into_iter()
            .map(|reason| self.drops.get(reason))
            .collect()
    }

    /// Datagram by datagram.
    fn receive_singly(&mut self, mut bytes: Vec<u8>, arrival: &Arrival) {
        for datagram in bytes.chunks_mut(arrival.segment) {
            let Arrival { from, tos, now, .. } = arrival;
            self.device
                .receive(datagram, from, *tos, *now, &mut self.out);
        }
    }

    /// As the engine does it.
    fn receive_in_runs(&mut self, mut bytes: Vec<u8>, arrival: &Arrival, early: Option<Command>) {
        let is_early = early.is_some();
        let mut pieces = VecDeque::new();
        let mut start = 0;
        while start < bytes.len() {
            let piece = match Run::find(&bytes[start..], arrival.segment, arrival.longest) {
                Some(run) => {
                    let at = start..start + run.messages.size();
                    let admitted = self.open(&run, &mut bytes[at.clone()], arrival.now);
                    Piece::Run { run, at, admitted }
                }
                None => {
                    let end = bytes.len().min(start + arrival.segment);
                    Piece::Single(start..end)
                }
            };
            start = piece.range().end;
            pieces.push_back(piece);
            if !is_early {
                self.finish(&mut pieces, &mut bytes, arrival);
            }
        }
        if let Some(command) = early {
            self.tell(command, arrival.now);
        }
        self.finish(&mut pieces, &mut bytes, arrival);
    }

    fn open(&self, run: &Run, bytes: &mut [u8], now: u64) -> Option<(Admitted, u128)> {
        let mut key = [0; 32];
        let admitted = self.device.admit(run, now, &mut key)?;
        let wanted = admitted.wanted;
        assert!(wanted != 0 && wanted & !run.messages.all() == 0);
        let opened = RingAead.open(&key, bytes, &run.messages, wanted);
        assert_eq!(opened & !wanted, 0, "opened what nobody wanted");
        Some((admitted, opened))
    }

    fn finish(&mut self, pieces: &mut VecDeque<Piece>, bytes: &mut [u8], arrival: &Arrival) {
        let Arrival { from, tos, now, .. } = arrival;
        for piece in pieces.drain(..) {
            let (run, at, admitted, opened) = match piece {
                Piece::Single(at) => {
                    self.device
                        .receive(&mut bytes[at], from, *tos, *now, &mut self.out);
                    continue;
                }
                Piece::Run { admitted: None, .. } => continue,
                Piece::Run {
                    run,
                    at,
                    admitted: Some((admitted, opened)),
                } => (run, at, admitted, opened),
            };
            let accepted = self
                .device
                .settle(&run, &admitted, opened, from, *now, &mut self.out);
            assert_eq!(accepted & !opened, 0, "accepted what did not open");
            let mut seen = Seen::default();
            for range in chosen(&run.messages, accepted) {
                let body = plaintext(range.len());
                if body.is_empty() {
                    continue;
                }
                let message = &mut bytes[at.start + range.start..at.start + range.end];
                let plain = &mut message[body];
                let peer = admitted.session.peer;
                if let Some(size) = self.device.judge(peer, plain, *tos, *now, &mut seen) {
                    self.out.inner(&mut plain[..size]);
                }
            }
        }
    }
}

enum Piece {
    Run {
        run: Run,
        at: Range<usize>,
        /// With the set of those that opened.
        admitted: Option<(Admitted, u128)>,
    },
    Single(Range<usize>),
}

impl Piece {
    fn range(&self) -> &Range<usize> {
        match self {
            Self::Run { at, .. } | Self::Single(at) => at,
        }
    }
}

struct Arrival {
    segment: usize,
    from: Endpoint,
    tos: u8,
    now: u64,
    longest: usize,
}

/// What the peers seal with.
struct Session {
    our_index: u32,
    key: [u8; 32],
    next: u64,
}

struct World {
    runs: Side,
    singles: Side,
    now: u64,
    sessions: Vec<Session>,
    remembered: VecDeque<Vec<u8>>,
    /// Something was sent in the middle of a read. It answers what came before it: of runs
    /// all of it, of single messages those up to there. Either is true, and remembered.
    has_answered: bool,
}

fn at(from: u8) -> Endpoint {
    Endpoint::new(SocketAddr::from(([192, 0, 2, from % 4 + 1], 1001)))
}

fn secret(bytes: &[u8; 32]) -> Secret {
    Secret::copy_from(bytes).expect("32 bytes")
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            runs: Side::new(),
            singles: Side::new(),
            now: 1000 * SECOND,
            sessions: Vec::new(),
            remembered: VecDeque::new(),
            has_answered: false,
        };
        for (number, peer) in PEERS.into_iter().enumerate() {
            for side in [&mut world.runs, &mut world.singles] {
                let shared = side.shared[number].clone();
                side.tell(Command::CreatePeer { peer, shared }, world.now);
            }
        }
        // The second peer has a hole in its network, where the first one is.
        let routes = [
            (PEERS[0], [10, 0, 0, 2].into(), 32),
            (PEERS[0], [0xFDFD_u16; 8].into(), 126),
            (PEERS[1], [10, 0, 0, 0].into(), 30),
        ];
        for (peer, address, length) in routes {
            world.tell(|| Command::InsertPrefix {
                peer,
                prefix: Prefix::new(address, length).expect("a prefix"),
                diverted: false,
            });
        }
        for peer in PEERS {
            world.tell(|| Command::SetPeerEndpoint {
                peer,
                endpoint: Some(at(0)),
            });
        }
        // One with an old key, one with a new key that its first message confirms.
        world.install(0, true);
        world.install(0, true);
        world.install(1, true);
        world.install(1, false);
        world.tell(|| Command::SetAdmission {
            keys: Some(AdmissionKeys {
                mac1_key: secret(&[3; 32]),
                cookie_key: secret(&[4; 32]),
                secret: secret(&[5; 32]),
            }),
        });
        world
    }

    /// Both twins, the same.
    fn tell(&mut self, command: impl Fn() -> Command) {
        self.runs.tell(command(), self.now);
        self.singles.tell(command(), self.now);
    }

    /// The command for a new session, which is known to the peers afterwards.
    fn install_command(&self, peer: u8, is_initiator: bool) -> Command {
        let (our_index, key) = self.new_session();
        Command::InstallKeypair {
            peer: PEERS[usize::from(peer % 2)],
            keypair: NewKeypair {
                role: if is_initiator {
                    Role::Initiator
                } else {
                    Role::Responder
                },
                our_index,
                their_index: our_index,
                send_key: secret(&[0xEE; 32]),
                receive_key: secret(&key),
                born_at: self.now,
            },
        }
    }

    fn new_session(&self) -> (u32, [u8; 32]) {
        let number = self.sessions.len() as u32 + 1;
        (number, [number as u8; 32])
    }

    fn remember_session(&mut self) {
        let (our_index, key) = self.new_session();
        self.sessions.push(Session {
            our_index,
            key,
            next: 0,
        });
    }

    fn install(&mut self, peer: u8, is_initiator: bool) {
        let (one, other) = (
            self.install_command(peer, is_initiator),
            self.install_command(peer, is_initiator),
        );
        self.runs.tell(one, self.now);
        self.singles.tell(other, self.now);
        self.remember_session();
    }

    fn meanwhile(&self, what: Meanwhile) -> Command {
        match what {
            Meanwhile::Nothing => Command::SetMtu { mtu: 1420 },
            Meanwhile::EraseKeys { peer } => Command::EraseKeys {
                peer: PEERS[usize::from(peer % 2)],
            },
            Meanwhile::Install { peer, is_initiator } => self.install_command(peer, is_initiator),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Read(read) => self.read(&read),
            Step::Later(seconds) => self.now += u64::from(seconds) * SECOND,
            Step::Install { peer, is_initiator } => self.install(peer, is_initiator),
            Step::Send(inner) => {
                let packet = inner.make(60);
                for side in [&mut self.runs, &mut self.singles] {
                    side.device.send_inner(&packet, self.now, &mut side.out);
                }
            }
            Step::EraseKeys(peer) => self.tell(|| Command::EraseKeys {
                peer: PEERS[usize::from(peer % 2)],
            }),
            Step::Filter {
                accept,
                otherwise,
                remember,
                port,
            } => self.tell(|| {
                let rule = Rule {
                    accept,
                    peer: Some(PEERS[0]),
                    source: None,
                    destination: None,
                    protocol: port.map(|_| 17),
                    source_ports: None,
                    destination_ports: port.map(|port| (port, port)),
                };
                Command::SetFilter {
                    filter: Some(PortFilter::new(&[rule], otherwise, remember)),
                }
            }),
            Step::Divert(port) => self.tell(|| {
                let everywhere = Prefix::new([0, 0, 0, 0].into(), 0).expect("a prefix");
                let diversions = port
                    .map(|port| Diversion {
                        prefix: everywhere,
                        port,
                    })
                    .into_iter()
                    .collect();
                Command::Divert { diversions }
            }),
            Step::Watch { peer, is_watched } => {
                for side in [&self.runs, &self.singles] {
                    let shared = &side.shared[usize::from(peer % 2)];
                    shared.watch(nvpn_core::Watch::DataReceived, is_watched);
                }
            }
        }
    }

    /// Datagrams of `segment` bytes each, the last one maybe shorter.
    fn make(&mut self, read: &Read, segment: usize) -> Vec<u8> {
        let mut kinds: Vec<(&Kind, u8)> = Vec::new();
        for train in &read.trains {
            let room = (MAX_READ / segment).min(2 * MAX_DATAGRAMS) - kinds.len();
            let count = usize::from(train.count % 160).min(room);
            kinds.extend((0..count).map(|number| (&train.kind, number as u8)));
        }
        let mut bytes = Vec::new();
        let count = kinds.len();
        for (number, (kind, place)) in kinds.into_iter().enumerate() {
            let size = match read.last {
                Some(last) if number + 1 == count => usize::from(last) % segment + 1,
                _ => segment,
            };
            let datagram = self.make_one(kind, place, size);
            bytes.extend_from_slice(&datagram);
            self.remembered.push_front(datagram);
        }
        self.remembered.truncate(REMEMBERED);
        bytes
    }

    fn make_one(&mut self, kind: &Kind, place: u8, size: usize) -> Vec<u8> {
        let mut datagram = match kind {
            Kind::Sealed {
                session,
                counter,
                inner,
                damage,
            } if size >= 32 => {
                let which = usize::from(*session) % self.sessions.len();
                let session = &mut self.sessions[which];
                let counter = match counter {
                    // Only the first one of a train is out of the order.
                    _ if place > 0 => session.next,
                    Counter::Next => session.next,
                    Counter::Skip(some) => session.next.wrapping_add(u64::from(*some)),
                    Counter::Back(some) => session.next.wrapping_sub(u64::from(*some)),
                    Counter::Exactly(counter) => *counter,
                };
                session.next = counter.wrapping_add(1);
                let mut datagram = vec![0; 16];
                datagram.extend(inner.make(size - 32));
                datagram.resize(size, 0);
                let mut head = [4, 0, 0, 0, 0, 0, 0, 0];
                head[4..].copy_from_slice(&session.our_index.to_le_bytes());
                let one = Datagrams::covering(size, size).expect("one");
                RingAead
                    .seal(&session.key, &head, counter, &mut datagram, &one)
                    .expect("room");
                match damage {
                    // One in a train, so that there is something around it.
                    Some((where_, bits)) if *bits % 64 == place % 64 => {
                        datagram[usize::from(*where_) % size] ^= *bits | 1;
                    }
                    _ => {}
                }
                datagram
            }
            Kind::Sealed { .. } => vec![4, 0, 0, 0],
            Kind::Again(ago) => self
                .remembered
                .get(usize::from(*ago))
                .cloned()
                .unwrap_or_default(),
            Kind::Handshake { kind, is_known } => {
                let mut datagram = vec![0; size];
                let known = if *is_known { 1_u32 } else { 99 };
                let head = u32::from(kind % 3 + 1).to_le_bytes();
                for (room, byte) in datagram.iter_mut().zip(
                    head.into_iter()
                        .chain(known.to_le_bytes())
                        .chain(known.to_le_bytes()),
                ) {
                    *room = byte;
                }
                datagram
            }
            Kind::Noise(bytes) => bytes.iter().copied().cycle().take(size).collect(),
        };
        datagram.resize(size, 0);
        datagram
    }

    fn read(&mut self, read: &Read) {
        // Most are small, so that many fit; none is more than a jumbo frame.
        let segment = match read.segment {
            large @ 0xF000.. => usize::from(large) % 9000 + 1,
            small => usize::from(small) % 200 + 1,
        };
        let bytes = self.make(read, segment);
        let arrival = Arrival {
            segment,
            from: at(read.from),
            tos: read.tos,
            now: self.now,
            longest: usize::from(read.longest),
        };
        self.start_over();
        let before = (self.runs.dropped(), self.singles.dropped());
        let early = || read.early.map(|what| self.meanwhile(what));
        let (for_runs, for_singles) = (early(), early());
        if let Some(command) = for_singles {
            self.singles.tell(command, self.now);
        }
        self.singles.receive_singly(bytes.clone(), &arrival);
        self.runs.receive_in_runs(bytes, &arrival, for_runs);
        if let Some(Meanwhile::Install { .. }) = read.early {
            self.remember_session();
        }

        let (runs, singles) = (&self.runs, &self.singles);
        assert_eq!(runs.out.inner, singles.out.inner, "delivered");
        assert_eq!(runs.out.datagrams, singles.out.datagrams, "sent");
        let added = |now: Vec<u64>, before: &[u64]| -> Vec<u64> {
            now.iter()
                .zip(before)
                .map(|(now, then)| now - then)
                .collect()
        };
        let in_runs = added(runs.dropped(), &before.0);
        let singly = added(singles.dropped(), &before.1);
        if read.early.is_some() {
            // A forged one that is a replay by its turn was still worth opening before it.
            let sum = |drops: &[u64]| drops.iter().sum::<u64>();
            assert_eq!(sum(&in_runs), sum(&singly), "dropped");
        } else {
            assert_eq!(in_runs, singly, "dropped, by reason");
        }
        let told = |side: &Side| side.events.take(usize::MAX);
        let (mut by_runs, mut by_singles) = (told(runs), told(singles));
        self.has_answered |= !singles.out.datagrams.is_empty();
        if self.has_answered {
            for events in [&mut by_runs, &mut by_singles] {
                events.retain(|event| {
                    !matches!(event, Event::DataSent { .. } | Event::DataReceived { .. })
                });
            }
        }
        assert_eq!(by_runs, by_singles, "said");
        for (one, other) in runs.shared.iter().zip(&singles.shared) {
            assert_eq!(one.counters(), other.counters());
            let (one, other) = (one.activity(), other.activity());
            assert_eq!(one.last_received_at, other.last_received_at);
            assert_eq!(one.last_data_received_at, other.last_data_received_at);
            assert_eq!(one.last_sent_at, other.last_sent_at);
            assert!(self.has_answered || one == other, "{one:?} {other:?}");
        }
    }

    fn start_over(&mut self) {
        for side in [&mut self.runs, &mut self.singles] {
            side.out = Out::default();
            side.events.take(usize::MAX);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut world = World::new();
    let mut input = Unstructured::new(data);
    while !input.is_empty() {
        match Step::arbitrary(&mut input) {
            Ok(step) => world.step(step),
            Err(_) => break,
        }
    }
    world.runs.device.close();
    world.singles.device.close();
});
