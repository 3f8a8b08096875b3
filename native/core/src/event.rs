//! What the datapath has to say, until somebody asks; bounded whatever the network does.

use core::fmt;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::constants::HANDSHAKE_QUEUE_SIZE;
use crate::endpoint::Endpoint;
use crate::message::{MessageType, message_type};
use crate::{Instant, PeerId};

/// Cookie replies that wait. A flood of them, which only somebody who sees our messages can
/// begin, costs nobody else a handshake.
pub const MAX_COOKIE_REPLIES: usize = 64;

/// Diverted packets that wait. What comes meanwhile is dropped, as a full socket would.
pub const MAX_DIVERTED: usize = 256;
/// Of one peer, so that one who floods leaves room to the others.
pub const MAX_DIVERTED_OF_ONE: usize = 32;

/// Why a handshake is wanted. Said once until keys or staging change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// There is something to send and no usable key.
    NoKey,
    /// The key is 120 s old: we were initiator, and just sent.
    OldSending,
    /// The key is 165 s old: we were initiator, and just received.
    OldReceiving,
    /// The counter passed 2^60.
    ManyMessages,
}

/// One event, for the protocol.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// A type 1, 2 or 3 message that passed admission; of types 2 and 3 only what answers a
    /// message of ours.
    HandshakeReceived {
        /// The message.
        datagram: Box<[u8]>,
        /// Where it came from, and to which address of ours.
        endpoint: Endpoint,
        /// When.
        received_at: Instant,
    },
    /// The peer needs a new session.
    HandshakeWanted {
        /// Its name.
        peer: PeerId,
        /// Why.
        why: Why,
    },
    /// The first authentic packet under `next` promoted it: we were responder.
    KeypairConfirmed {
        /// Its name.
        peer: PeerId,
        /// The keypair.
        our_index: u32,
        /// When.
        at: Instant,
    },
    /// A keypair left its last slot and is zeroed; its index may be used again.
    KeypairGone {
        /// Its name.
        peer: PeerId,
        /// The keypair.
        our_index: u32,
    },
    /// An authentic transport packet came from elsewhere; we send there already.
    EndpointRoamed {
        /// Its name.
        peer: PeerId,
        /// Where it is now.
        endpoint: Endpoint,
    },
    /// Data went out, nothing is unanswered since, and nobody watches.
    DataSent {
        /// To whom.
        peer: PeerId,
    },
    /// Data came in, nothing was sent since, and nobody watches.
    DataReceived {
        /// From whom.
        peer: PeerId,
    },
    /// A packet that `Divert` lifts out of the stream; its source is the peer's.
    InnerReceived {
        /// From whom.
        peer: PeerId,
        /// A whole IP packet.
        packet: Box<[u8]>,
    },
    /// The TUN device was deleted under us, or its descriptor failed for good.
    DeviceGone {
        /// As in `errno.h`.
        errno: i32,
    },
    /// The datapath itself failed: a mistake of ours. Nothing moves any more.
    Failed {
        /// What the thread said when it died.
        message: String,
    },
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HandshakeReceived { endpoint, .. } => {
                write!(f, "HandshakeReceived({endpoint:?})")
            }
            Self::HandshakeWanted { peer, why } => write!(f, "HandshakeWanted({peer:?}, {why:?})"),
            Self::KeypairConfirmed {
                peer,
                our_index,
                at,
            } => write!(f, "KeypairConfirmed({peer:?}, {our_index:#010x}, {at})"),
            Self::KeypairGone { peer, our_index } => {
                write!(f, "KeypairGone({peer:?}, {our_index:#010x})")
            }
            Self::EndpointRoamed { peer, endpoint } => {
                write!(f, "EndpointRoamed({peer:?}, {endpoint:?})")
            }
            Self::DataSent { peer } => write!(f, "DataSent({peer:?})"),
            Self::DataReceived { peer } => write!(f, "DataReceived({peer:?})"),
            Self::InnerReceived { peer, .. } => write!(f, "InnerReceived({peer:?})"),
            Self::DeviceGone { errno } => write!(f, "DeviceGone({errno})"),
            Self::Failed { message } => write!(f, "Failed({message:?})"),
        }
    }
}

/// Events on their way up: the datapath's thread adds, another one takes.
///
/// Initiations and responses wait in a queue of their own: its depth is the queued work by
/// which admission judges load, and few are taken at a time, so that neither a flood of
/// them nor the millisecond that each one costs delays anything else. Cookie replies are
/// no such work, and wait in another queue.
///
/// INVARIANT: the other events are as many as commands and peers allow: what packets can
/// repeat is kept once per peer.
#[derive(Debug, Default)]
pub struct EventQueue {
    waiting: Mutex<Waiting>,
    news: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Event>,
    once: Vec<Event>,
    once_known: HashSet<(PeerId, bool)>,
    roamed: Vec<(PeerId, Endpoint)>,
    roamed_known: HashMap<PeerId, usize>,
    diverted: Vec<Event>,
    cookie_replies: VecDeque<Event>,
    handshakes: VecDeque<Event>,
}

impl EventQueue {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Append an event that packets cannot repeat, without new keys or commands.
    pub fn add(&self, event: Event) {
        self.change(|waiting| waiting.events.push(event));
    }

    /// Append `DataSent` (or else `DataReceived`) of a peer, unless it waits already.
    pub fn add_data(&self, peer: PeerId, sent: bool) {
        self.change(|waiting| {
            if waiting.once_known.insert((peer, sent)) {
                waiting.once.push(if sent {
                    Event::DataSent { peer }
                } else {
                    Event::DataReceived { peer }
                });
            }
        });
    }

    /// Append a handshake message; false when the queue is full.
    pub fn add_handshake(&self, datagram: &[u8], endpoint: Endpoint, now: Instant) -> bool {
        self.change(|waiting| {
            let (queue, room) = match message_type(datagram) {
                Some(MessageType::CookieReply) => (&mut waiting.cookie_replies, MAX_COOKIE_REPLIES),
                _ => (&mut waiting.handshakes, HANDSHAKE_QUEUE_SIZE),
            };
            let has_room = queue.len() < room;
            if has_room {
                queue.push_back(Event::HandshakeReceived {
                    datagram: datagram.into(),
                    endpoint: endpoint.learned(now),
                    received_at: now,
                });
            }
            has_room
        })
    }

    /// The peer's latest endpoint; it replaces one that was not taken yet.
    pub fn set_roamed(&self, peer: PeerId, endpoint: Endpoint) {
        self.change(|waiting| match waiting.roamed_known.entry(peer) {
            Entry::Occupied(at) => waiting.roamed[*at.get()].1 = endpoint,
            Entry::Vacant(entry) => {
                entry.insert(waiting.roamed.len());
                waiting.roamed.push((peer, endpoint));
            }
        });
    }

    /// Append a packet that was lifted out of the stream; false when too many wait, of this
    /// peer or of all.
    pub fn add_diverted(&self, peer: PeerId, packet: &[u8]) -> bool {
        self.change(|waiting| {
            let has_room = waiting.diverted.len() < MAX_DIVERTED && {
                let is_its = |event: &&Event| matches!(event, Event::InnerReceived { peer: one, .. } if *one == peer);
                waiting.diverted.iter().filter(is_its).count() < MAX_DIVERTED_OF_ONE
            };
            if has_room {
                let packet = packet.into();
                waiting.diverted.push(Event::InnerReceived { peer, packet });
            }
            has_room
        })
    }

    /// Initiations and responses that wait.
    pub fn queued_handshakes(&self) -> usize {
        self.lock().handshakes.len()
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.events.is_empty()
            && waiting.once.is_empty()
            && waiting.roamed.is_empty()
            && waiting.diverted.is_empty()
            && waiting.cookie_replies.is_empty()
            && waiting.handshakes.is_empty()
    }

    /// Whether anything was added since the last call: whoever adds tells whoever takes.
    ///
    /// Cheap: meant for every turn of a loop.
    pub fn take_news(&self) -> bool {
        self.news.load(Ordering::Relaxed) && self.news.swap(false, Ordering::AcqRel)
    }

    /// Everything, but at most `max_handshakes` initiations and responses, and as many
    /// cookie replies.
    ///
    /// What concerns keys comes first, handshake messages last; each kind oldest first.
    pub fn take(&self, max_handshakes: usize) -> Vec<Event> {
        let mut waiting = self.lock();
        let waiting = &mut *waiting;
        let mut taken = core::mem::take(&mut waiting.events);
        taken.append(&mut waiting.once);
        waiting.once_known.clear();
        waiting.roamed_known.clear();
        let roamed = waiting.roamed.drain(..);
        taken.extend(roamed.map(|(peer, endpoint)| Event::EndpointRoamed { peer, endpoint }));
        taken.append(&mut waiting.diverted);
        for queue in [&mut waiting.cookie_replies, &mut waiting.handshakes] {
            let count = queue.len().min(max_handshakes);
            taken.extend(queue.drain(..count));
        }
        taken
    }

    fn change<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> R {
        let result = change(&mut self.lock());
        self.news.store(true, Ordering::Release);
        result
    }

    /// A panic elsewhere leaves the queue as it was, which is good enough to report it.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
