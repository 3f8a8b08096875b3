//! Two devices with a session between them, the packets to put through it, and vectors.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use nvpn_core::aead::{BatchAead, RingAead};
use nvpn_core::checksum::{complement, word_sum};
use nvpn_core::constants::SECOND;
use nvpn_core::datagrams::Datagrams;
use nvpn_core::{
    AdmissionKeys, Command, Device, DropReason, Drops, Endpoint, Event, EventQueue, Instant,
    NewKeypair, Outbox, PeerId, PeerShared, Prefix, Role, Secret,
};
use serde_json::Value;

pub const START: Instant = 1_000 * SECOND;
pub const MTU: u32 = 1420;
pub const THEM: PeerId = PeerId(1);

// --- packets --------------------------------------------------------------------------

/// An IP packet to be made.
pub struct Ip<'a> {
    pub source: &'a str,
    pub destination: &'a str,
    pub payload: &'a [u8],
    pub protocol: u8,
    pub tos: u8,
    pub fragment: u16,
}

impl Ip<'_> {
    pub fn make(&self) -> Vec<u8> {
        let mut packet = if self.source.contains(':') {
            self.ipv6_header()
        } else {
            self.ipv4_header()
        };
        packet.extend(self.payload);
        packet
    }

    fn ipv4_header(&self) -> Vec<u8> {
        let mut header = vec![0x45, self.tos];
        header.extend((20 + self.payload.len() as u16).to_be_bytes());
        header.extend([0, 7]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        for address in [self.source, self.destination] {
            header.extend(address.parse::<std::net::Ipv4Addr>().unwrap().octets());
        }
        let sum = complement(word_sum(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6_header(&self) -> Vec<u8> {
        let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        header.extend((self.payload.len() as u16).to_be_bytes());
        header.extend([self.protocol, 64]);
        for address in [self.source, self.destination] {
            header.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
        header
    }
}

pub const V4: Ip<'static> = Ip {
    source: "10.0.0.1",
    destination: "10.0.0.2",
    payload: &[],
    protocol: 253,
    tos: 0,
    fragment: 0,
};
pub const V6: Ip<'static> = Ip {
    source: "fd00::1",
    destination: "fd00::2",
    protocol: 59,
    ..V4
};

pub fn ipv4(payload: &[u8]) -> Vec<u8> {
    Ip { payload, ..V4 }.make()
}

pub fn ipv6(payload: &[u8]) -> Vec<u8> {
    Ip { payload, ..V6 }.make()
}

/// From Bob to Alice.
pub fn back(payload: &[u8]) -> Vec<u8> {
    Ip {
        source: V4.destination,
        destination: V4.source,
        payload,
        ..V4
    }
    .make()
}

// --- values ---------------------------------------------------------------------------

pub fn endpoint(text: &str) -> Endpoint {
    Endpoint::new(text.parse::<SocketAddr>().unwrap())
}

pub fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
}

pub fn secret(bytes: &[u8]) -> Secret {
    Secret::copy_from(bytes).unwrap()
}

pub fn alice_at() -> Endpoint {
    endpoint("192.0.2.1:1001")
}

pub fn bob_at() -> Endpoint {
    endpoint("192.0.2.2:1002")
}

pub fn elsewhere() -> Endpoint {
    endpoint("198.51.100.7:4242")
}

// --- devices --------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub endpoint: Endpoint,
    pub datagram: Vec<u8>,
    pub tos: u8,
    pub peer: Option<PeerId>,
}

#[derive(Default)]
pub struct Out {
    pub datagrams: Vec<Sent>,
    pub inner: Vec<Vec<u8>>,
}

impl Outbox for Out {
    fn datagram(&mut self, endpoint: &Endpoint, datagram: &[u8], tos: u8, peer: Option<PeerId>) {
        self.datagrams.push(Sent {
            endpoint: *endpoint,
            datagram: datagram.to_vec(),
            tos,
            peer,
        });
    }

    fn inner(&mut self, packet: &mut [u8]) {
        self.inner.push(packet.to_vec());
    }
}

/// A device and all that is around it.
pub struct End {
    pub device: Device,
    pub out: Out,
    pub events: Arc<EventQueue>,
    pub drops: Arc<Drops>,
    pub shared: Arc<PeerShared>,
}

impl End {
    pub fn new(mtu: u32) -> Self {
        let events = Arc::new(EventQueue::new());
        let drops = Arc::new(Drops::new());
        let zeros = Box::new(|bytes: &mut [u8]| {
            bytes.fill(0);
            true
        });
        Self {
            device: Device::new(mtu, events.clone(), drops.clone(), zeros),
            out: Out::default(),
            events,
            drops,
            shared: Arc::new(PeerShared::new()),
        }
    }

    /// One that knows the other as peer 1.
    fn meet(mtu: u32, ipv4: &str, ipv6: &str, at: Endpoint) -> Self {
        let mut end = Self::new(mtu);
        let shared = end.shared.clone();
        end.tell(START, Command::CreatePeer { peer: THEM, shared });
        end.tell(START, set_endpoint(Some(at)));
        for text in [ipv4, ipv6] {
            end.tell(START, insert_prefix(THEM, text));
        }
        end
    }

    pub fn tell(&mut self, now: Instant, command: Command) {
        self.device.apply(command, now, &mut self.out);
    }

    pub fn send(&mut self, packet: &[u8], now: Instant) {
        self.device.send_inner(packet, now, &mut self.out);
    }

    /// Take a datagram; returns what is written to the TUN device.
    pub fn receive(
        &mut self,
        datagram: &[u8],
        at: Endpoint,
        tos: u8,
        now: Instant,
    ) -> Vec<Vec<u8>> {
        let mut buffer = datagram.to_vec();
        self.device
            .receive(&mut buffer, &at, tos, now, &mut self.out);
        self.take_inner()
    }

    pub fn take_datagrams(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.out.datagrams)
    }

    pub fn take_inner(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.out.inner)
    }

    pub fn take_events(&self) -> Vec<Event> {
        self.events.take(usize::MAX)
    }

    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        self.drops.iter().collect()
    }

    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, count)| count).sum()
    }
}

/// Alice, who began the handshake, and Bob. Each knows the other as peer 1.
///
/// Alice owns 10.0.0.1 and fd00::1, Bob 10.0.0.2 and fd00::2. `now` is theirs to share;
/// nothing moves unless a test moves it.
pub struct Ends {
    pub now: Instant,
    pub alice: End,
    pub bob: End,
    pub sessions: u8,
}

impl Ends {
    pub fn strangers(mtu: u32) -> Self {
        Self {
            now: START,
            alice: End::meet(mtu, "10.0.0.2/32", "fd00::2/128", bob_at()),
            bob: End::meet(mtu, "10.0.0.1/32", "fd00::1/128", alice_at()),
            sessions: 0,
        }
    }

    pub fn new() -> Self {
        Self::with_mtu(MTU)
    }

    pub fn with_mtu(mtu: u32) -> Self {
        let mut ends = Self::strangers(mtu);
        ends.establish();
        ends.settle();
        ends
    }

    /// A fresh session: Alice's half, as initiator, and Bob's.
    pub fn keypairs(&mut self) -> (NewKeypair, NewKeypair) {
        self.sessions += 1;
        let number = self.sessions;
        let (one, other) = ([number; 32], [number + 100; 32]);
        let ours = 0xA000_0000 + u32::from(number);
        let theirs = 0xB000_0000 + u32::from(number);
        let make = |role, our_index, their_index, send: &[u8], receive: &[u8]| NewKeypair {
            role,
            our_index,
            their_index,
            send_key: secret(send),
            receive_key: secret(receive),
            born_at: self.now,
        };
        (
            make(Role::Initiator, ours, theirs, &one, &other),
            make(Role::Responder, theirs, ours, &other, &one),
        )
    }

    /// Install a fresh session on both sides; Alice's keepalive is on its way.
    pub fn establish(&mut self) {
        let (for_alice, for_bob) = self.keypairs();
        self.bob.tell(self.now, install(for_bob));
        self.alice.tell(self.now, install(for_alice));
    }

    /// Let everything arrive, and forget what was said meanwhile.
    pub fn settle(&mut self) {
        self.carry_to_bob();
        self.carry_to_alice();
        self.alice.take_events();
        self.bob.take_events();
    }

    pub fn carry_to_bob(&mut self) -> Vec<Sent> {
        carry(&mut self.alice, &mut self.bob, alice_at(), self.now)
    }

    pub fn carry_to_alice(&mut self) -> Vec<Sent> {
        carry(&mut self.bob, &mut self.alice, bob_at(), self.now)
    }

    /// The one datagram that Alice makes of a packet.
    pub fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        self.alice.send(packet, self.now);
        one(self.alice.take_datagrams()).datagram
    }

    /// The one datagram that Bob makes of a packet.
    pub fn seal_back(&mut self, packet: &[u8]) -> Vec<u8> {
        self.bob.send(packet, self.now);
        one(self.bob.take_datagrams()).datagram
    }

    /// Hand Bob a datagram of Alice's; returns what he writes to his TUN device.
    pub fn receive(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.bob.receive(datagram, alice_at(), 0, self.now)
    }

    /// Alice's datagram around any plaintext, well-formed or not, under any counter.
    pub fn sealed_raw(&self, plain: &[u8], counter: u64) -> Vec<u8> {
        let index = 0xB000_0000 + u32::from(self.sessions);
        sealed(&[self.sessions; 32], index, counter, plain)
    }
}

fn carry(sender: &mut End, receiver: &mut End, from: Endpoint, now: Instant) -> Vec<Sent> {
    let sent = sender.take_datagrams();
    for one in &sent {
        let mut datagram = one.datagram.clone();
        let out = &mut receiver.out;
        receiver
            .device
            .receive(&mut datagram, &from, one.tos, now, out);
    }
    sent
}

/// A transport message.
pub fn sealed(key: &[u8; 32], index: u32, counter: u64, plain: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; 16];
    datagram.extend(plain);
    datagram.extend([0; 16]);
    let mut head = [4, 0, 0, 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&index.to_le_bytes());
    let whole = Datagrams::covering(datagram.len(), datagram.len()).unwrap();
    RingAead
        .seal(key, &head, counter, &mut datagram, &whole)
        .unwrap();
    datagram
}

pub fn one<T>(mut things: Vec<T>) -> T {
    assert_eq!(things.len(), 1);
    things.remove(0)
}

// --- commands -------------------------------------------------------------------------

pub fn install(keypair: NewKeypair) -> Command {
    Command::InstallKeypair {
        peer: THEM,
        keypair,
    }
}

pub fn set_endpoint(endpoint: Option<Endpoint>) -> Command {
    Command::SetPeerEndpoint {
        peer: THEM,
        endpoint,
    }
}

pub fn insert_prefix(peer: PeerId, text: &str) -> Command {
    Command::InsertPrefix {
        peer,
        prefix: prefix(text),
        diverted: false,
    }
}

pub fn handshake(datagram: &[u8]) -> Command {
    Command::SendHandshake {
        peer: THEM,
        datagram: datagram.into(),
        forget_source: false,
        also: Box::default(),
    }
}

pub const KEEPALIVE: Command = Command::SendKeepalive { peer: THEM };
pub const ERASE: Command = Command::EraseKeys { peer: THEM };
pub const DESTROY: Command = Command::DestroyPeer { peer: THEM };

/// 148 bytes that begin like an initiation.
pub fn initiation(index: u32) -> Vec<u8> {
    let mut message = vec![1, 0, 0, 0];
    message.extend(index.to_le_bytes());
    message.resize(148, 0);
    message
}

// --- vectors --------------------------------------------------------------------------

pub fn vectors() -> &'static Value {
    static VECTORS: OnceLock<Value> = OnceLock::new();
    VECTORS.get_or_init(|| {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/vectors/wireguard-vectors.json"
        );
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    })
}

pub fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

pub fn hex(value: &Value, key: &str) -> Vec<u8> {
    text(value, key)
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The handshake with a preshared key.
pub fn session(vectors: &Value) -> &Value {
    &vectors["handshakes"][1]
}

/// The keys by which the responder (or initiator) of a handshake judges messages.
pub fn admission_keys(handshake: &Value, whose: &str, secret_bytes: &[u8]) -> AdmissionKeys {
    AdmissionKeys {
        mac1_key: secret(&hex(handshake, &format!("mac1_key_of_{whose}"))),
        cookie_key: secret(&hex(handshake, &format!("cookie_key_of_{whose}"))),
        secret: secret(secret_bytes),
    }
}

/// Bob is the responder of the vectors, in session with their initiator.
pub fn session_of_the_vectors() -> Ends {
    let vectors = vectors();
    let session = session(vectors);
    let mut ends = Ends::strangers(MTU);
    let keys = Some(admission_keys(session, "responder", &[0; 32]));
    let now = ends.now;
    ends.bob.tell(now, Command::SetAdmission { keys });
    ends.bob.tell(now, insert_prefix(THEM, "10.9.0.1/32"));
    let keypair = NewKeypair {
        role: Role::Responder,
        our_index: 0xAABB_CCDD,
        their_index: 0x1122_3344,
        send_key: secret(&hex(session, "transport_key_responder_to_initiator")),
        receive_key: secret(&hex(session, "transport_key_initiator_to_responder")),
        born_at: now,
    };
    ends.bob.tell(now, install(keypair));
    ends
}
