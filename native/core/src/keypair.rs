//! Session keys and the three slots that a peer keeps them in.
//!
//! A keypair knows its counter, its replay window and how long it may be used; the slots
//! know which keypair sends, which still receives, and which waits for its first packet.
//!
//! Source: WireGuard paper, sections 5.4.6 and 6; slots as in the Linux kernel module.

use core::fmt;

use crate::Instant;
use crate::command::{NewKeypair, Role};
use crate::constants::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
};
use crate::event::Why;
use crate::message::MessageType;
use crate::replay::ReplayWindow;
use crate::secret::{KEY_SIZE, SecretPair};

/// One session: a key to send with, one to receive with, and their limits.
///
/// Only the keys are kept; a cipher is built for each batch, which costs nanoseconds, and
/// memory for every idle session otherwise.
///
/// Counters are handed out by [`Keypair::reserve`] only, and each is handed out once:
/// nothing else stands between two packets and one nonce.
pub struct Keypair {
    window: ReplayWindow,
    /// To send with, to receive with.
    keys: SecretPair,
    born_at: Instant,
    next_counter: u64,
    our_index: u32,
    their_index: u32,
    role: Role,
    may_send: bool,
    asked: u8,
}

// What a peer may have three of at most, within the 4 KiB that are a peer's in all.
const _: () = assert!(size_of::<Keypair>() <= 1100);

impl Keypair {
    /// A session that a handshake gave.
    pub fn new(new: NewKeypair) -> Self {
        Self {
            window: ReplayWindow::new(),
            keys: SecretPair::new(&new.send_key, &new.receive_key),
            born_at: new.born_at,
            next_counter: 0,
            our_index: new.our_index,
            their_index: new.their_index,
            role: new.role,
            may_send: true,
            asked: 0,
        }
    }

    /// What the peer puts into the header of what it sends to us.
    pub const fn our_index(&self) -> u32 {
        self.our_index
    }

    /// The first eight bytes of every packet that we send under it.
    pub const fn header(&self) -> [u8; 8] {
        header(MessageType::Transport, self.their_index)
    }

    /// The key to seal with. Do not copy.
    pub const fn send_key(&self) -> &[u8; KEY_SIZE] {
        self.keys.first()
    }

    /// The key to open with. Do not copy.
    pub const fn receive_key(&self) -> &[u8; KEY_SIZE] {
        self.keys.second()
    }

    /// The counters that were received under it.
    pub const fn window(&self) -> &ReplayWindow {
        &self.window
    }

    /// To mark counters whose packets are authentic.
    pub const fn window_mut(&mut self) -> &mut ReplayWindow {
        &mut self.window
    }

    /// The next counter that `reserve` gives.
    pub const fn next_counter(&self) -> u64 {
        self.next_counter
    }

    /// Whether a packet may be sealed: age, counter, and not stopped.
    pub fn may_send_at(&self, now: Instant) -> bool {
        self.may_send && self.next_counter < REJECT_AFTER_MESSAGES && self.may_receive_at(now)
    }

    /// Whether a packet may be opened: age only.
    pub fn may_receive_at(&self, now: Instant) -> bool {
        self.age(now) < REJECT_AFTER_TIME
    }

    /// Hand out `count` consecutive counters, all or none: the first of them.
    ///
    /// `None` when the key is too old, stopped, or has fewer left. They are gone even if
    /// nothing is sent with them.
    pub fn reserve(&mut self, count: u64, now: Instant) -> Option<u64> {
        let first = self.next_counter;
        let end = first.checked_add(count)?;
        if !self.may_send || !self.may_receive_at(now) || end > REJECT_AFTER_MESSAGES {
            return None;
        }
        self.next_counter = end;
        Some(first)
    }

    /// Why this key should be renewed, having just sent; each reason is given once.
    pub fn wants_after_sending(&mut self, now: Instant) -> Option<Why> {
        if self.role == Role::Initiator && self.age(now) >= REKEY_AFTER_TIME {
            return self.ask(Why::OldSending);
        }
        if self.next_counter > REKEY_AFTER_MESSAGES {
            return self.ask(Why::ManyMessages);
        }
        None
    }

    /// Why this key should be renewed, having just received; given once.
    ///
    /// Not one that was stopped: what replaces it depends on who we are now.
    pub fn wants_after_receiving(&mut self, now: Instant) -> Option<Why> {
        let old = self.role == Role::Initiator && self.age(now) >= REKEY_AFTER_TIME_RECEIVING;
        if old && self.may_send {
            return self.ask(Why::OldReceiving);
        }
        None
    }

    fn age(&self, now: Instant) -> Instant {
        now.saturating_sub(self.born_at)
    }

    fn ask(&mut self, why: Why) -> Option<Why> {
        let bit = 1 << why as u8;
        let asked = self.asked & bit != 0;
        self.asked |= bit;
        (!asked).then_some(why)
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Keypair({:?}, our_index {:#010x})",
            self.role, self.our_index
        )
    }
}

/// Type and index, as a datagram begins.
pub(crate) const fn header(kind: MessageType, index: u32) -> [u8; 8] {
    ((index as u64) << 32 | kind as u64).to_le_bytes()
}

/// Keypairs that left their last slot: two at most, except when all are forgotten.
pub type Gone = [Option<Box<Keypair>>; 3];

/// `previous`, `current` and `next` of one peer (protocol rules 15 and 16).
///
/// Each change returns the keypairs that left their last slot. Dropped, they are zeroed.
///
/// INVARIANT: `next` only receives. The first packet under it proves that the initiator
/// holds the key, and `confirm` promotes it.
#[derive(Debug, Default)]
pub struct KeypairSlots {
    previous: Option<Box<Keypair>>,
    current: Option<Box<Keypair>>,
    next: Option<Box<Keypair>>,
}

impl KeypairSlots {
    /// The one that we send with.
    pub fn current(&self) -> Option<&Keypair> {
        self.current.as_deref()
    }

    /// The one that we send with, to reserve counters.
    pub fn current_mut(&mut self) -> Option<&mut Keypair> {
        self.current.as_deref_mut()
    }

    /// Whether this index is that of the keypair which waits for its first packet.
    pub fn is_next(&self, our_index: u32) -> bool {
        self.next
            .as_ref()
            .is_some_and(|next| next.our_index == our_index)
    }

    /// The keypair that the peer names so.
    pub fn find(&self, our_index: u32) -> Option<&Keypair> {
        [&self.next, &self.current, &self.previous]
            .into_iter()
            .flatten()
            .map(|keypair| &**keypair)
            .find(|keypair| keypair.our_index == our_index)
    }

    /// The keypair that the peer names so.
    pub fn find_mut(&mut self, our_index: u32) -> Option<&mut Keypair> {
        [&mut self.next, &mut self.current, &mut self.previous]
            .into_iter()
            .flatten()
            .map(|keypair| &mut **keypair)
            .find(|keypair| keypair.our_index == our_index)
    }

    /// Take a keypair that a handshake gave, into the slot that its role says.
    pub fn install(&mut self, new: Box<Keypair>) -> Gone {
        if new.role == Role::Responder {
            return [self.previous.take(), self.next.replace(new), None];
        }
        let current = self.current.replace(new);
        match self.next.take() {
            Some(next) => [self.previous.replace(next), current, None],
            None => [core::mem::replace(&mut self.previous, current), None, None],
        }
    }

    /// Promote `next`: its first authentic packet has come.
    pub fn confirm(&mut self) -> Gone {
        let current = core::mem::replace(&mut self.current, self.next.take());
        [core::mem::replace(&mut self.previous, current), None, None]
    }

    /// Send nothing more under `current`, forget `next`.
    pub fn stop_sending(&mut self) -> Gone {
        if let Some(current) = &mut self.current {
            current.may_send = false;
        }
        [self.next.take(), None, None]
    }

    /// Forget all three.
    pub fn clear(&mut self) -> Gone {
        [self.previous.take(), self.current.take(), self.next.take()]
    }
}
