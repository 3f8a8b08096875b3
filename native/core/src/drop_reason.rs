//! Why packets are dropped, and how often it happened.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a packet was dropped. [`DropReason::name`] is what operators are shown.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// The name that Python knows it by.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// A datagram that is not (well-formed) WireGuard.
    Malformed = "malformed",
    /// A handshake message whose first mac is wrong.
    BadMac1 = "bad-mac1",
    /// A handshake message without a cookie, while we ask for one.
    CookieRequired = "cookie-required",
    /// A handshake message from a source that sends too many.
    RateLimited = "rate-limited",
    /// A handshake message, and too many of them wait already.
    QueueFull = "queue-full",
    /// A handshake message from somebody we do not know. The protocol's to find.
    UnknownPeer = "unknown-peer",
    /// Something sealed that its key does not open.
    BadTag = "bad-tag",
    /// An initiation that was seen before. The protocol's to find.
    StaleTimestamp = "stale-timestamp",
    /// An initiation right after another one. The protocol's to find.
    TooSoon = "too-soon",
    /// A handshake message that answers nothing, or comes when we have no private key.
    NotExpected = "not-expected",
    /// A Diffie-Hellman that came to zero. The protocol's to find.
    WeakKey = "weak-key",
    /// A message for a session or handshake that we do not have.
    UnknownIndex = "unknown-index",
    /// A transport message under a key that is too old or has sent too much.
    KeyExpired = "key-expired",
    /// A transport message that was seen before, or may have been.
    Replayed = "replayed",
    /// What should be an IP packet and is none.
    BadInner = "bad-inner",
    /// An inner packet from an address that its peer may not use.
    SourceNotAllowed = "source-not-allowed",
    /// An inner packet that the port filter does not let pass.
    Filtered = "filtered",
    /// A packet to an address that no peer has.
    NoRoute = "no-route",
    /// A packet to a peer that is nowhere.
    NoEndpoint = "no-endpoint",
    /// A datagram of ours that came back as a packet to be sent.
    RoutingLoop = "routing-loop",
    /// A packet that waited, or was to wait, for a session, and there was no room.
    StagingFull = "staging-full",
    /// A packet that waited for a handshake that was given up.
    HandshakeFailed = "handshake-failed",
    /// A packet that fits into no datagram.
    TooBig = "too-big",
    /// A datagram that the kernel refused.
    SendFailed = "send-failed",
    /// A packet that the TUN device refused.
    TunWriteFailed = "tun-write-failed",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dropped packets by reason since the start.
///
/// One thread counts, any thread reads.
#[derive(Debug)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Drops {
    /// Nothing was dropped yet.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::ALL.len()])
    }

    /// Count dropped packets.
    pub fn add(&self, reason: DropReason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// How many were dropped for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// The reasons that occurred, each with how often.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.get(reason)))
            .filter(|&(_, count)| count > 0)
    }
}

impl Default for Drops {
    fn default() -> Self {
        Self::new()
    }
}
