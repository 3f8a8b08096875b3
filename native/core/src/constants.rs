//! The numbers of the protocol, under the names that the WireGuard paper gives them.
//!
//! Times are nanoseconds, sizes bytes of UDP payload. The reasons for those that are not
//! the paper's are in `nvpn/wire/constants.py`; `tests/` there compares the two.

use crate::Instant;

/// Nanoseconds in a second.
pub const SECOND: Instant = 1_000_000_000;

/// The size of an initiation, type 1.
pub const INITIATION_SIZE: usize = 148;
/// The size of a response, type 2.
pub const RESPONSE_SIZE: usize = 92;
/// The size of a cookie reply, type 3.
pub const COOKIE_REPLY_SIZE: usize = 64;
/// Type, receiver and counter of a transport message.
pub const TRANSPORT_HEADER_SIZE: usize = 16;
/// What the AEAD adds.
pub const TAG_SIZE: usize = 16;
/// What a transport message adds to the padded inner packet.
pub const TRANSPORT_OVERHEAD: usize = TRANSPORT_HEADER_SIZE + TAG_SIZE;
/// A keepalive.
pub const MIN_TRANSPORT_SIZE: usize = TRANSPORT_OVERHEAD;
/// Inner packets grow to a multiple of this, within the MTU.
pub const PADDING: usize = 16;
/// The size of mac1, mac2 and a cookie.
pub const MAC_SIZE: usize = 16;
/// The nonce of a cookie reply.
pub const COOKIE_NONCE_SIZE: usize = 24;
/// DSCP AF41, for initiations and responses; of a cookie reply: 0.
pub const TOS_HANDSHAKE: u8 = 0x88;
/// The largest payload of a UDP datagram over IPv4.
pub const MAX_IPV4_DATAGRAM: usize = 65_507;
/// The largest payload of a UDP datagram over IPv6.
pub const MAX_IPV6_DATAGRAM: usize = 65_527;

/// A new session is wanted when a counter passes this.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// No counter reaches this.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// An initiator that sends wants a new session at this age.
pub const REKEY_AFTER_TIME: Instant = 120 * SECOND;
/// No key is used from this age on.
pub const REJECT_AFTER_TIME: Instant = 180 * SECOND;
/// An initiator that only receives wants a new session at this age.
pub const REKEY_AFTER_TIME_RECEIVING: Instant = REJECT_AFTER_TIME - 15 * SECOND;
/// Packets of one peer that wait for a session.
pub const MAX_STAGED_PACKETS: usize = 128;

/// Initiations and responses that wait for the protocol.
pub const HANDSHAKE_QUEUE_SIZE: usize = 1024;
/// So many of them are load.
pub const UNDER_LOAD_QUEUED: usize = HANDSHAKE_QUEUE_SIZE / 8;
/// Load is remembered this long.
pub const UNDER_LOAD_TIME: Instant = SECOND;
/// Between messages of one source, with a cookie.
pub const LIMITED_INTERVAL: Instant = SECOND / 20;
/// Messages of one source at once.
pub const LIMITED_BURST: u64 = 5;
/// Sources that the limiter knows at a time.
pub const MAX_LIMITED_SOURCES: usize = 65_536;
/// Between two sweeps of the limiter.
pub const LIMITER_SWEEP_INTERVAL: Instant = SECOND;
/// Between cookie replies, to everybody.
pub const COOKIE_REPLY_INTERVAL: Instant = SECOND / 5_000;
/// Cookie replies at once.
pub const COOKIE_REPLY_BURST: u64 = 1_000;
