//! Which handshake messages are worth a Diffie-Hellman: macs, cookies and the limiter.
//!
//! Knows no peers. Its state is three keys, the instant until which we count as loaded, and
//! two bounded tables of sources; its inputs are the datagram, where it came from, how much
//! work is queued, the time and randomness. `nvpn/wire/admission.py` is the same, judged by
//! the same vectors.
//!
//! Load is judged by queued work and by nothing else: a count per source would let a flood
//! from many addresses through, a count of all messages would put every honest peer into
//! cookie mode.
//!
//! Source: WireGuard paper, sections 5.3, 5.4.4 and 5.4.7.

use core::net::IpAddr;
use std::collections::HashMap;

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{CtOutput, FixedOutput, KeyInit, Update};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::Instant;
use crate::command::AdmissionKeys;
use crate::constants::{
    COOKIE_NONCE_SIZE, COOKIE_REPLY_BURST, COOKIE_REPLY_INTERVAL, COOKIE_REPLY_SIZE, LIMITED_BURST,
    LIMITED_INTERVAL, LIMITER_SWEEP_INTERVAL, MAC_SIZE, MAX_LIMITED_SOURCES, UNDER_LOAD_QUEUED,
    UNDER_LOAD_TIME,
};
use crate::drop_reason::DropReason;
use crate::endpoint::Endpoint;
use crate::message::{MessageType, message_type};

type Mac = [u8; MAC_SIZE];

/// Fills a buffer with random bytes; false when there are none (yet).
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> bool;

/// What becomes of a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Queue the message for the protocol.
    Accepted,
    /// Forget the message, and count it. Nobody gets an answer.
    Dropped(DropReason),
    /// Forget the message, count it as `CookieRequired`, and send this back.
    ///
    /// When there are too many to answer, a message that needs a cookie is merely dropped,
    /// for the same reason.
    Answered([u8; COOKIE_REPLY_SIZE]),
}

/// Judges each datagram of type 1, 2 or 3. Until it is configured it drops them all.
#[derive(Debug, Default)]
pub struct Admission {
    keys: Option<AdmissionKeys>,
    load: Load,
    limiter: SourceLimiter,
    ration: ReplyRation,
}

impl Admission {
    /// One that knows no keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Take the keys that follow from our public key, and the secret of our cookies.
    ///
    /// `None` when we have no private key.
    pub fn configure(&mut self, keys: Option<AdmissionKeys>) {
        self.keys = keys;
    }

    /// What to do with a handshake message, whatever bytes it is made of.
    ///
    /// `queued` is how many handshake messages wait already; `random` is asked only for a
    /// cookie reply's nonce. The caller has made sure that a cookie reply answers a message
    /// of ours.
    pub fn judge(
        &mut self,
        datagram: &[u8],
        endpoint: &Endpoint,
        queued: usize,
        now: Instant,
        random: Random<'_>,
    ) -> Verdict {
        let Some(kind) = message_type(datagram).filter(|&kind| kind != MessageType::Transport)
        else {
            return Verdict::Dropped(DropReason::Malformed);
        };
        let Some(keys) = &self.keys else {
            return Verdict::Dropped(DropReason::NotExpected);
        };
        if kind == MessageType::CookieReply {
            // Carries no macs, and opening one costs no Diffie-Hellman.
            return Verdict::Accepted;
        }
        let Some(parts) = MacParts::of(datagram) else {
            return Verdict::Dropped(DropReason::Malformed);
        };
        if !verify(keys.mac1_key.expose(), &[parts.before_mac1], parts.mac1) {
            return Verdict::Dropped(DropReason::BadMac1);
        }
        if !self.load.is_on(queued, now) {
            return Verdict::Accepted; // mac2 may hold anything
        }

        let cookie = cookie_for(keys.secret.expose(), endpoint);
        let shown = [parts.before_mac1, parts.mac1];
        if *parts.mac2 == [0; MAC_SIZE] || !verify(&cookie, &shown, parts.mac2) {
            if !self.ration.admit(endpoint, now) {
                return Verdict::Dropped(DropReason::CookieRequired);
            }
            return ask_for_cookie(keys.cookie_key.expose(), &cookie, datagram, &parts, random)
                .map_or(
                    Verdict::Dropped(DropReason::CookieRequired),
                    Verdict::Answered,
                );
        }
        if !self.limiter.admit(endpoint, now) {
            return Verdict::Dropped(DropReason::RateLimited);
        }
        Verdict::Accepted
    }
}

/// Whether senders must prove their address: the queue is an eighth full, or was within the
/// last second.
#[derive(Debug, Default)]
struct Load {
    until: Instant,
}

impl Load {
    fn is_on(&mut self, queued: usize, now: Instant) -> bool {
        if queued >= UNDER_LOAD_QUEUED {
            self.until = now.saturating_add(UNDER_LOAD_TIME);
            return true;
        }
        now < self.until
    }
}

/// An initiation or response, cut at its macs.
struct MacParts<'a> {
    before_mac1: &'a [u8],
    mac1: &'a Mac,
    mac2: &'a Mac,
}

impl<'a> MacParts<'a> {
    fn of(datagram: &'a [u8]) -> Option<Self> {
        let (rest, mac2) = datagram.split_last_chunk()?;
        let (before_mac1, mac1) = rest.split_last_chunk()?;
        Some(Self {
            before_mac1,
            mac1,
            mac2,
        })
    }
}

/// The paper's MAC: keyed BLAKE2s, 16 bytes. The key is 16 or 32 bytes.
fn mac(key: &[u8], parts: &[&[u8]]) -> Option<CtOutput<Blake2sMac<U16>>> {
    let mut state = Blake2sMac::<U16>::new_from_slice(key).ok()?;
    for part in parts {
        state.update(part);
    }
    Some(CtOutput::new(state.finalize_fixed()))
}

/// Whether this is the MAC, in a time that does not depend on where it differs.
fn verify(key: &[u8], parts: &[&[u8]], claimed: &Mac) -> bool {
    let claimed = CtOutput::new((*claimed).into());
    mac(key, parts).is_some_and(|right| right == claimed)
}

/// The 16 bytes that whoever receives at `source` can show us.
///
/// Bound to the port as well as to the address: behind one NAT live many.
pub fn cookie_for(secret: &[u8], source: &Endpoint) -> Mac {
    let port = source.remote.port().to_be_bytes();
    let cookie = match source.remote.ip() {
        IpAddr::V4(address) => mac(secret, &[&address.octets(), &port]),
        IpAddr::V6(address) => mac(secret, &[&address.octets(), &port]),
    };
    // Secrets are 32 bytes, so there always is one.
    cookie.map_or([0; MAC_SIZE], |cookie| cookie.into_bytes().into())
}

fn ask_for_cookie(
    cookie_key: &[u8; 32],
    cookie: &Mac,
    datagram: &[u8],
    parts: &MacParts<'_>,
    random: Random<'_>,
) -> Option<[u8; COOKIE_REPLY_SIZE]> {
    let mut reply = [0; COOKIE_REPLY_SIZE];
    reply[0] = MessageType::CookieReply as u8;
    reply[4..8].copy_from_slice(datagram.get(4..8)?);
    // Without randomness the sender tries again, and so do we.
    let nonce = &mut reply[8..8 + COOKIE_NONCE_SIZE];
    if !random(nonce) {
        return None;
    }
    let nonce = *XNonce::from_slice(nonce);
    let (sealed, tag) = reply[8 + COOKIE_NONCE_SIZE..].split_at_mut(MAC_SIZE);
    sealed.copy_from_slice(cookie);
    let made = XChaCha20Poly1305::new(cookie_key.into())
        .encrypt_in_place_detached(&nonce, parts.mac1, sealed)
        .ok()?;
    tag.copy_from_slice(&made);
    Some(reply)
}

/// An IPv4 address, or an IPv6 /64, on one path.
type LimitedSource = (u32, bool, [u8; 8]);

fn limited_source(endpoint: &Endpoint) -> LimitedSource {
    let mut network = [0; 8];
    match endpoint.remote.ip() {
        IpAddr::V4(address) => network[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => network.copy_from_slice(&address.octets()[..8]),
    }
    (endpoint.path, endpoint.remote.is_ipv6(), network)
}

/// So many messages a second from one source, in a table of bounded size.
///
/// For each source the table holds a single number: the instant at which its allowance is
/// whole again. That is a token bucket (the "generic cell rate algorithm"), and an instant
/// that has passed says no more than a missing entry.
#[derive(Debug, Default)]
pub struct SourceLimiter {
    whole_again: HashMap<LimitedSource, Instant>,
    next_sweep: Instant,
}

impl SourceLimiter {
    /// How many sources it knows at present.
    pub fn len(&self) -> usize {
        self.whole_again.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.whole_again.is_empty()
    }

    /// Whether one more message from there is within its rate; if so it is counted.
    ///
    /// When the table is full, sources that are not in it are refused.
    pub fn admit(&mut self, endpoint: &Endpoint, now: Instant) -> bool {
        if now >= self.next_sweep {
            self.sweep(now);
        }
        let source = limited_source(endpoint);
        let known = self.whole_again.get(&source).copied();
        let whole_again = known.unwrap_or(0).max(now);
        if whole_again - now > (LIMITED_BURST - 1) * LIMITED_INTERVAL {
            return false;
        }
        if known.is_none() && self.len() >= MAX_LIMITED_SOURCES {
            return false;
        }
        self.whole_again
            .insert(source, whole_again.saturating_add(LIMITED_INTERVAL));
        true
    }

    fn sweep(&mut self, now: Instant) {
        self.next_sweep = now.saturating_add(LIMITER_SWEEP_INTERVAL);
        self.whole_again.retain(|_, instant| *instant > now);
        // Memory of a flood goes when the flood does.
        let room = self.whole_again.len() * 2;
        if self.whole_again.capacity() > room.max(1024) * 2 {
            self.whole_again.shrink_to(room);
        }
    }
}

/// How many cookie replies we make, first of all for sources that ask moderately.
///
/// A source has the same allowance as a sender with a cookie. Beyond it, it is served as
/// long as more than half of the ration is left: anybody can ask in anybody's name here, and
/// must not be able to use up a victim's share by asking a little more than it.
#[derive(Debug, Default)]
pub struct ReplyRation {
    sources: SourceLimiter,
    whole_again: Instant,
}

impl ReplyRation {
    /// Whether one more reply there is within the ration; if so it is counted.
    pub fn admit(&mut self, endpoint: &Endpoint, now: Instant) -> bool {
        let mut room = COOKIE_REPLY_BURST * COOKIE_REPLY_INTERVAL;
        if !self.sources.admit(endpoint, now) {
            room /= 2;
        }
        let whole_again = self
            .whole_again
            .max(now)
            .saturating_add(COOKIE_REPLY_INTERVAL);
        if whole_again - now > room {
            return false;
        }
        self.whole_again = whole_again;
        true
    }
}
