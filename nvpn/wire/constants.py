"""The numbers of the protocol, under the names that the WireGuard paper gives them.

Times are nanoseconds, sizes bytes of UDP payload.

Source: WireGuard paper, sections 5 and 6, table in 6.1; where the paper is silent, the
Linux kernel module.
"""

from __future__ import annotations

from typing import Final

from nvpn.model.clock import MILLISECOND, SECOND

# --- cryptography ---------------------------------------------------------------------

CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"

KEY_SIZE: Final = 32
HASH_SIZE: Final = 32
MAC_SIZE: Final = 16
TAG_SIZE: Final = 16  # what an AEAD adds
COOKIE_NONCE_SIZE: Final = 24
TIMESTAMP_SIZE: Final = 12
ZERO_MAC: Final = bytes(MAC_SIZE)  # mac2 of a sender that holds no cookie

# --- messages -------------------------------------------------------------------------

INITIATION_SIZE: Final = 148
RESPONSE_SIZE: Final = 92
COOKIE_REPLY_SIZE: Final = 64
TRANSPORT_HEADER_SIZE: Final = 16  # type, receiver, counter
TRANSPORT_OVERHEAD: Final = TRANSPORT_HEADER_SIZE + TAG_SIZE
MIN_TRANSPORT_SIZE: Final = TRANSPORT_OVERHEAD  # a keepalive
PADDING: Final = 16  # inner packets grow to a multiple of this, within the MTU
DEFAULT_MTU: Final = 1420
TOS_HANDSHAKE: Final = 0x88  # DSCP AF41, for initiations and responses; cookie replies: 0

# --- sessions -------------------------------------------------------------------------

REKEY_AFTER_MESSAGES: Final = 1 << 60
REJECT_AFTER_MESSAGES: Final = (1 << 64) - (1 << 13) - 1
REKEY_AFTER_TIME: Final = 120 * SECOND  # of the initiator
REJECT_AFTER_TIME: Final = 180 * SECOND
REKEY_TIMEOUT: Final = 5 * SECOND
REKEY_ATTEMPT_TIME: Final = 90 * SECOND
KEEPALIVE_TIMEOUT: Final = 10 * SECOND
RETRY_JITTER: Final = 333 * MILLISECOND  # retries come up to this much late, uniformly

# An initiator that only receives renews its session this early, so that a lost attempt
# still leaves time for another before the key is refused.
REKEY_AFTER_TIME_RECEIVING: Final = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
ERASE_KEYS_AFTER_TIME: Final = 3 * REJECT_AFTER_TIME

# Departs from paper 6.4: tries are counted, not REKEY_ATTEMPT_TIME, so that a suspended
# machine does not spend its budget asleep. The kernel counts tries too.
MAX_HANDSHAKE_ATTEMPTS: Final = 20
MIN_INITIATION_INTERVAL: Final = 20 * MILLISECOND  # accepted from one peer
MAX_STAGED_PACKETS: Final = 128  # of one peer, the oldest dropped first

# --- denial of service ----------------------------------------------------------------

COOKIE_SECRET_LIFETIME: Final = 120 * SECOND
# Departs from the paper, which says 120 s for both: a cookie must outlive the way to the
# responder. The kernel keeps the same five seconds back.
COOKIE_LIFETIME: Final = COOKIE_SECRET_LIFETIME - 5 * SECOND

HANDSHAKE_QUEUE_SIZE: Final = 1024
UNDER_LOAD_QUEUED: Final = HANDSHAKE_QUEUE_SIZE // 8
UNDER_LOAD_TIME: Final = 1 * SECOND  # load is remembered this long

LIMITED_INTERVAL: Final = SECOND // 20  # between messages of one source, with cookie
LIMITED_BURST: Final = 5
MAX_LIMITED_SOURCES: Final = 65_536
LIMITER_SWEEP_INTERVAL: Final = 1 * SECOND

# Ours; the paper knows no such limit. A reply costs several times what looking at a message
# does, and so much work at most is left to a flood.
COOKIE_REPLY_INTERVAL: Final = SECOND // 5_000  # between cookie replies, to everybody
COOKIE_REPLY_BURST: Final = 1_000
