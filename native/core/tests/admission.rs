//! Which handshake messages are worth a Diffie-Hellman.

mod support;

use std::net::{IpAddr, SocketAddr};

use blake2::digest::{FixedOutput, KeyInit, Update, consts::U16};
use nvpn_core::admission::{Admission, SourceLimiter, Verdict, cookie_for};
use nvpn_core::constants::{
    COOKIE_REPLY_BURST, LIMITED_BURST, MAX_LIMITED_SOURCES, SECOND, UNDER_LOAD_QUEUED,
};
use nvpn_core::{DropReason, Endpoint, Instant};
use proptest::prelude::*;
use serde_json::Value;
use support::*;

const IDLE: usize = 0;
const BUSY: usize = UNDER_LOAD_QUEUED;
const NOW: Instant = 1_000 * SECOND;
const MILLISECOND: Instant = SECOND / 1_000;
const SECRET: [u8; 32] = [b's'; 32];
const BAD_MAC1: Verdict = Verdict::Dropped(DropReason::BadMac1);
const NO_COOKIE: Verdict = Verdict::Dropped(DropReason::CookieRequired);

struct Judge {
    admission: Admission,
    nonce: [u8; 24],
    queued: usize,
    now: Instant,
    at: Endpoint,
}

impl Judge {
    /// As the responder or the initiator of a handshake of the vectors.
    fn of(handshake: &Value, whose: &str, secret: &[u8]) -> Self {
        let mut admission = Admission::new();
        admission.configure(Some(admission_keys(handshake, whose, secret)));
        Self {
            admission,
            nonce: [b'n'; 24],
            queued: IDLE,
            now: NOW,
            at: source(),
        }
    }

    fn responder() -> Self {
        Self::of(&vectors()["handshakes"][0], "responder", &SECRET)
    }

    fn initiator() -> Self {
        Self::of(&vectors()["handshakes"][0], "initiator", &SECRET)
    }

    fn busy(self) -> Self {
        Self {
            queued: BUSY,
            ..self
        }
    }

    fn judge(&mut self, datagram: &[u8]) -> Verdict {
        let nonce = self.nonce;
        let mut random = |bytes: &mut [u8]| {
            bytes.copy_from_slice(&nonce);
            true
        };
        self.admission
            .judge(datagram, &self.at, self.queued, self.now, &mut random)
    }

    /// How many of so many initiations, from so many addresses, get a cookie reply.
    fn asked(&mut self, count: u32, sources: u32) -> u64 {
        let initiation = initiation();
        (0..count)
            .filter(|number| {
                let address = IpAddr::from((0x0A00_0000 + number % sources).to_be_bytes());
                self.at = Endpoint::new(SocketAddr::new(address, 9));
                matches!(self.judge(&initiation), Verdict::Answered(_))
            })
            .count() as u64
    }
}

fn source() -> Endpoint {
    endpoint("192.0.2.7:51820")
}

fn initiation() -> Vec<u8> {
    hex(&vectors()["handshakes"][0], "initiation")
}

fn response() -> Vec<u8> {
    hex(&vectors()["handshakes"][0], "response")
}

fn with_cookie(message: &[u8], cookie: &[u8]) -> Vec<u8> {
    let before = &message[..message.len() - 16];
    let mut state = blake2::Blake2sMac::<U16>::new_from_slice(cookie).unwrap();
    state.update(before);
    let mut message = before.to_vec();
    message.extend(state.finalize_fixed());
    message
}

// --- macs -----------------------------------------------------------------------------

#[test]
fn messages_with_a_valid_mac1_are_accepted_when_idle() {
    assert_eq!(Judge::responder().judge(&initiation()), Verdict::Accepted);
    assert_eq!(Judge::initiator().judge(&response()), Verdict::Accepted);
}

#[test]
fn a_message_to_somebody_else_has_a_bad_mac1() {
    assert_eq!(Judge::initiator().judge(&initiation()), BAD_MAC1);
    assert_eq!(Judge::responder().judge(&response()), BAD_MAC1);
}

#[test]
fn every_byte_up_to_mac1_counts() {
    for position in 4..132 {
        let mut flipped = initiation();
        flipped[position] ^= 1;
        assert_eq!(Judge::responder().judge(&flipped), BAD_MAC1);
        assert_eq!(Judge::responder().busy().judge(&flipped), BAD_MAC1);
    }
}

#[test]
fn mac2_may_hold_anything_when_idle() {
    let mut message = initiation();
    message[132..].fill(b'x');
    assert_eq!(Judge::responder().judge(&message), Verdict::Accepted);
}

#[test]
fn without_a_private_key_everything_is_dropped() {
    let mut reply = vec![3, 0, 0, 0];
    reply.resize(64, 0);
    for queued in [IDLE, BUSY] {
        let mut judge = Judge::responder();
        judge.queued = queued;
        judge.admission.configure(None);
        for datagram in [&initiation(), &response(), &reply] {
            assert_eq!(
                judge.judge(datagram),
                Verdict::Dropped(DropReason::NotExpected)
            );
        }
    }
}

#[test]
fn what_must_be_dropped_gets_no_answer() {
    for vector in list(vectors(), "must_drop") {
        let what = text(vector, "what");
        let mut judge = if what.starts_with("response") {
            Judge::initiator()
        } else {
            Judge::responder()
        };
        let expected = if what.contains("mac1 valid") || what.contains("mac1 made valid") {
            Verdict::Accepted // nothing but opening it shows that it is forged
        } else if what.contains("mac1") && !what.contains("reserved") {
            BAD_MAC1
        } else {
            Verdict::Dropped(DropReason::Malformed)
        };
        assert_eq!(judge.judge(&hex(vector, "packet")), expected, "{what}");
    }
}

#[test]
fn cookie_replies_are_accepted_by_their_shape_alone() {
    let mut reply = vec![3, 0, 0, 0];
    reply.resize(64, 0);
    assert_eq!(Judge::responder().busy().judge(&reply), Verdict::Accepted);
    reply.push(0);
    let malformed = Verdict::Dropped(DropReason::Malformed);
    assert_eq!(Judge::responder().judge(&reply), malformed);
}

// --- under load -----------------------------------------------------------------------

#[test]
fn load_begins_at_an_eighth_of_the_queue_and_is_remembered_for_a_second() {
    let mut judge = Judge::responder();
    let message = initiation();
    // (queued, how long after the beginning, whether a cookie is asked for)
    for (queued, after, loaded) in [
        (127, 0, false),
        (128, 0, true),
        (0, SECOND - 1, true),
        (0, SECOND, false),
        (500, 2 * SECOND, true),
        (128, 2 * SECOND + SECOND / 2, true),
        (0, 3 * SECOND, true),
        (0, 3 * SECOND + SECOND / 2, false),
    ] {
        (judge.queued, judge.now) = (queued, NOW + after);
        let asked = matches!(judge.judge(&message), Verdict::Answered(_));
        assert_eq!(asked, loaded, "{queued} queued after {after} ns");
    }
}

#[test]
fn junk_does_not_count_as_load() {
    let mut judge = Judge::responder().busy();
    let mut junk = initiation();
    junk[116..].fill(0);
    assert_eq!(judge.judge(&junk), BAD_MAC1);
    judge.queued = IDLE;
    assert_eq!(judge.judge(&initiation()), Verdict::Accepted);
}

fn source_of(vector: &Value) -> Endpoint {
    let raw = hex(vector, "source_bytes");
    let (address, port) = raw.split_at(raw.len() - 2);
    let address = match <[u8; 4]>::try_from(address) {
        Ok(ipv4) => IpAddr::from(ipv4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(address).unwrap()),
    };
    let port = u16::from_be_bytes([port[0], port[1]]);
    Endpoint::new(SocketAddr::new(address, port))
}

#[test]
fn cookies_and_their_replies_are_those_of_the_vectors() {
    let vectors = vectors();
    for vector in list(vectors, "cookies") {
        let secret = hex(vector, "secret");
        assert_eq!(
            cookie_for(&secret, &source_of(vector)),
            *hex(vector, "cookie")
        );
        let to_response = vector.get("note").is_some();
        let (kind, whose) = if to_response {
            ("response", "initiator")
        } else {
            ("initiation", "responder")
        };
        let mac1 = hex(vector, "aad_mac1");
        let handshake = list(vectors, "handshakes")
            .iter()
            .find(|handshake| hex(handshake, kind).windows(16).any(|bytes| bytes == mac1))
            .unwrap();
        let mut judge = Judge::of(handshake, whose, &secret).busy();
        judge.nonce.copy_from_slice(&hex(vector, "nonce"));
        judge.at = source_of(vector);
        let reply = hex(vector, "reply").try_into().unwrap();
        assert_eq!(judge.judge(&hex(handshake, kind)), Verdict::Answered(reply));
    }
}

#[test]
fn a_retry_with_the_cookie_passes_from_its_own_source_only() {
    let vectors = vectors();
    let retries = list(vectors, "cookies")
        .iter()
        .filter(|vector| vector.get("retry").is_some());
    for vector in retries {
        let retry = hex(&vector["retry"], "initiation");
        let mut judge = Judge::of(&vector["retry"], "responder", &hex(vector, "secret")).busy();
        judge.at = source_of(vector);
        assert_eq!(judge.judge(&retry), Verdict::Accepted);
        judge.at.remote.set_port(judge.at.remote.port() ^ 1);
        assert!(matches!(judge.judge(&retry), Verdict::Answered(_)));
        judge.at = source_of(vector);
        judge
            .at
            .remote
            .set_ip(address_next_to(judge.at.remote.ip()));
        assert!(matches!(judge.judge(&retry), Verdict::Answered(_)));
    }
}

fn address_next_to(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => std::net::Ipv4Addr::from_bits(address.to_bits() ^ 1).into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() ^ 1).into(),
    }
}

#[test]
fn a_cookie_of_an_earlier_secret_is_answered_with_a_new_one() {
    let message = with_cookie(&initiation(), &cookie_for(&[7; 32], &source()));
    let verdict = Judge::responder().busy().judge(&message);
    assert!(matches!(verdict, Verdict::Answered(_)));
}

#[test]
fn a_source_with_a_cookie_is_still_limited() {
    let mut judge = Judge::responder().busy();
    let message = with_cookie(&initiation(), &cookie_for(&SECRET, &source()));
    for _ in 0..LIMITED_BURST {
        assert_eq!(judge.judge(&message), Verdict::Accepted);
    }
    assert_eq!(
        judge.judge(&message),
        Verdict::Dropped(DropReason::RateLimited)
    );
}

#[test]
fn a_flood_from_one_source_uses_up_half_of_the_cookie_replies() {
    let mut judge = Judge::responder().busy();
    assert_eq!(judge.asked(5_000, 1), COOKIE_REPLY_BURST / 2);
    judge.at = source();
    assert!(matches!(judge.judge(&initiation()), Verdict::Answered(_)));
}

#[test]
fn cookie_replies_are_rationed_over_all_sources() {
    let mut judge = Judge::responder().busy();
    assert_eq!(judge.asked(5_000, 5_000), COOKIE_REPLY_BURST);
    judge.at = source();
    assert_eq!(judge.judge(&initiation()), NO_COOKIE);
    judge.now += 10 * MILLISECOND;
    assert_eq!(judge.asked(5_000, 5_000), 50, "5,000 a second");
}

#[test]
fn a_source_whose_allowance_is_gone_is_served_while_there_is_plenty() {
    let mut judge = Judge::responder().busy();
    judge.asked(LIMITED_BURST as u32 + 50, 1);
    assert_eq!(judge.asked(1, 1), 1);
}

#[test]
fn without_randomness_there_is_silence() {
    let mut admission = Judge::responder().admission;
    let verdict = admission.judge(&initiation(), &source(), BUSY, NOW, &mut |_| false);
    assert_eq!(verdict, NO_COOKIE);
}

#[test]
fn admission_does_not_show_its_keys() {
    let shown = format!("{:?}", Judge::responder().admission);
    assert!(shown.contains("Secret(..)"));
    assert!(!shown.contains("115, 115"));
}

proptest! {
    #[test]
    fn no_stranger_is_answered_whatever_he_sends(
        kind in 0_u8..6,
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            proptest::collection::vec(any::<u8>(), 60),
            proptest::collection::vec(any::<u8>(), 88),
            proptest::collection::vec(any::<u8>(), 144),
        ],
        queued in 0..1025_usize,
        now: u64,
    ) {
        let mut judge = Judge::responder();
        (judge.queued, judge.now) = (queued, now);
        let mut datagram = vec![kind, 0, 0, 0];
        datagram.extend(body);
        prop_assert!(!matches!(judge.judge(&datagram), Verdict::Answered(_)));
        // At any instant at all.
        judge.judge(&initiation());
    }

    #[test]
    fn the_limiter_is_a_token_bucket(gaps in proptest::collection::vec(0_u64..200, 1..60)) {
        let mut limiter = SourceLimiter::default();
        let (mut tokens, mut now) = (250 * MILLISECOND, NOW);
        for gap in gaps {
            now += gap * MILLISECOND;
            tokens = (tokens + gap * MILLISECOND).min(250 * MILLISECOND);
            let allowed = tokens >= 50 * MILLISECOND;
            if allowed {
                tokens -= 50 * MILLISECOND;
            }
            prop_assert_eq!(limiter.admit(&source(), now), allowed);
        }
    }
}

// --- the limiter ----------------------------------------------------------------------

fn admitted(limiter: &mut SourceLimiter, at: &Endpoint, now: Instant, tries: u32) -> usize {
    (0..tries).filter(|_| limiter.admit(at, now)).count()
}

#[test]
fn five_at_once_then_one_each_fifty_milliseconds() {
    for at in [source(), endpoint("[2001:db8::7]:1")] {
        let mut limiter = SourceLimiter::default();
        assert_eq!(admitted(&mut limiter, &at, NOW, 6), 5);
        let later = NOW + 50 * MILLISECOND;
        assert_eq!(admitted(&mut limiter, &at, later, 2), 1);
        assert_eq!(admitted(&mut limiter, &at, later + 100 * MILLISECOND, 3), 2);
        assert_eq!(admitted(&mut limiter, &at, NOW + 3600 * SECOND, 100), 5);
    }
}

#[test]
fn sources_are_single_ipv4_addresses_and_ipv6_networks_of_64_bits() {
    let mut limiter = SourceLimiter::default();
    for text in ["192.0.2.7:51820", "[2001:db8::1]:1"] {
        admitted(&mut limiter, &endpoint(text), NOW, 9);
    }
    for (text, allowed) in [
        ("192.0.2.7:9", false),
        ("[2001:db8::ffff:1]:1", false),
        ("192.0.2.8:51820", true),
        ("[2001:db8:0:1::1]:1", true),
        ("[c000:207::1]:1", true),
    ] {
        assert_eq!(limiter.admit(&endpoint(text), NOW), allowed, "{text}");
    }
    let other_path = Endpoint {
        path: 1,
        ..source()
    };
    assert!(limiter.admit(&other_path, NOW));
}

#[test]
fn the_table_is_bounded_and_empties_by_itself() {
    let mut limiter = SourceLimiter::default();
    let at = |number: u32| Endpoint::new(SocketAddr::new(number.to_be_bytes().into(), 1));
    for number in 0..MAX_LIMITED_SOURCES as u32 + 1000 {
        let has_room = (number as usize) < MAX_LIMITED_SOURCES;
        assert_eq!(limiter.admit(&at(number), NOW), has_room);
    }
    assert!(limiter.admit(&at(0), NOW));
    assert!(!limiter.admit(&at(u32::MAX), NOW));
    assert_eq!(limiter.len(), MAX_LIMITED_SOURCES);

    assert!(limiter.admit(&at(u32::MAX), NOW + SECOND));
    assert_eq!(limiter.len(), 1);
}

#[test]
fn sweeping_forgets_no_debt() {
    let mut limiter = SourceLimiter::default();
    limiter.admit(&endpoint("0.0.0.0:1"), NOW);
    admitted(&mut limiter, &source(), NOW + SECOND - MILLISECOND, 9);
    assert!(!limiter.admit(&source(), NOW + SECOND));
}
