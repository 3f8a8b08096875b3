"""What is wrong with a tunnel, in sentences. Pure: a record in, judgements out.

A peer that is silent because nobody has anything to say is not wrong: WireGuard makes no
handshake without traffic. So age alone is a colour, and a sentence needs evidence: a
keepalive that should have renewed the session, attempts that failed, drops that count.
"""

from __future__ import annotations

import enum

from nvpn.control.records import PeerRecord, TunnelRecord
from nvpn.model import guest_name

FRESH_SECONDS = 180
"""A session lives that long (the paper's REJECT_AFTER_TIME); a younger handshake is one."""


class Health(enum.Enum):
    """How a peer is, by its last handshake."""

    FRESH = "fresh"
    STALE = "stale"
    NEVER = "never"


# Counts below the threshold are the weather of the internet, or of a start-up.
_TELLING_DROPS = (
    (
        "bad-tag",
        3,
        "messages that could not be authenticated: do both sides have the same preshared key?",
    ),
    (
        "unknown-peer",
        3,
        "handshakes from a key that is no peer here: is a peer missing, or did its key change?",
    ),
    (
        "bad-mac1",
        10,
        "messages meant for another public key: does a peer have an old key of ours?",
    ),
    (
        "stale-timestamp",
        3,
        "handshakes from the past: did a peer's clock go back, or are two using one key?",
    ),
    (
        "source-not-allowed",
        10,
        "packets from addresses that their peer may not use: are its allowed IPs complete?",
    ),
    (
        "filtered",
        10,
        "packets that the filter keeps out: does a peer try what it may not, or a rule lack?",
    ),
    (
        "routing-loop",
        1,
        "packets of ours that came back: the route to an endpoint leads into this tunnel",
    ),
    ("send-failed", 10, "packets that the kernel refused to send: is there a route outside?"),
    ("tun-write-failed", 10, "packets that the interface refused: is it up?"),
    ("cookie-required", 1000, "handshakes while too many came at once: is it a flood?"),
    ("rate-limited", 100, "handshakes that came too fast from one address: is it a flood?"),
    ("queue-full", 100, "handshakes that found the queue full: more come than we can answer"),
)


def peer_health(peer: PeerRecord, now: int) -> Health:
    """How the peer is at ``now``, Unix time in seconds."""
    seconds = peer.last_handshake[0]
    if not seconds:
        return Health.NEVER
    return Health.FRESH if now - seconds < FRESH_SECONDS else Health.STALE


def is_guest(peer: PeerRecord) -> bool:
    """Whether it stands for an invitation, spent or not, and not for somebody: the key under
    which guests ask to come in. ``nvpn client list`` tells of those.
    """
    return guest_name.is_guest(
        peer.name, is_leased=peer.owner == "lease", has_addresses=bool(peer.allowed_ips)
    )


def peer_problems(peer: PeerRecord, now: int, *, may_be_leased: bool = False) -> list[str]:
    """What is wrong with the peer, a sentence each, without its name.

    Args:
        may_be_leased: the tunnel is a server's client, who is told what is sent to which
            server: often nothing to all but one.
    """
    problems = []
    health = peer_health(peer, now)
    where = clean(peer.endpoint)
    if peer.last_handshake[0] > now:
        problems.append("the last handshake lies in the future: the clock was set back")
    # Clients of a server come by themselves, and get their addresses then.
    is_client = peer.owner == "lease"
    if not peer.endpoint:
        if not is_client:
            problems.append("no endpoint: it cannot be reached until it calls here itself")
    elif peer.handshake_attempts >= 2:
        problems.append(
            f"{peer.handshake_attempts} handshakes without an answer from {where}: is it up, "
            "does it know our key, does a firewall let UDP through?"
        )
    elif health is Health.NEVER and peer.tx_bytes and not peer.rx_bytes:
        problems.append(f"no answer from {where} yet")
    elif health is Health.STALE and peer.persistent_keepalive:
        problems.append(
            f"no handshake for {short_duration(now - peer.last_handshake[0])}, although a "
            f"keepalive goes out every {peer.persistent_keepalive} s"
        )
    if not peer.allowed_ips and not is_client and not may_be_leased:
        problems.append("no allowed IPs: nothing is sent to it or accepted from it")
    return problems


def tunnel_problems(tunnel: TunnelRecord) -> list[str]:
    """What is wrong with the interface itself, a sentence each."""
    problems = []
    if not tunnel.public_key:
        problems.append("no private key: no handshake is possible")
    server = tunnel.server
    if not tunnel.peers and server is None:
        problems.append("no peers")
    if server is not None and not server.is_reachable:
        problems.append(f"no new clients and no new leases: {clean(server.store)} does not answer")
    lease = tunnel.lease
    if lease is not None and lease.state != "leased":
        why = f" ({clean(lease.trouble)})" if lease.trouble else ""
        soon = short_duration(lease.asks_in)
        asking = "a server is being asked" if lease.state == "asking" else f"asks again in {soon}"
        problems.append(f"no lease{why}: {asking}")
    for reason, threshold, sentence in _TELLING_DROPS:
        count = tunnel.drops.get(reason, 0)
        if count >= threshold:
            problems.append(f"dropped {count:,} {sentence}")
    return problems


def peer_label(peer: PeerRecord) -> str:
    """What to call the peer: its name, else the beginning of its key."""
    return clean(peer.name) or f"{peer.public_key[:8]}…"


def short_duration(seconds: int) -> str:
    """One unit is enough to know how old something is: ``12 s``, ``4 min``, ``3 h``, ``2 d``."""
    if seconds < 60:
        return f"{max(seconds, 0)} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h"
    return f"{seconds // 86400} d"


def handshake_age(peer: PeerRecord, now: int) -> str:
    """``12 s ago``, ``now`` or ``never``."""
    seconds = peer.last_handshake[0]
    if not seconds:
        return "never"
    if seconds > now:
        return "in the future"
    return "now" if seconds == now else f"{short_duration(now - seconds)} ago"


def short_bytes(count: int) -> str:
    """Three digits and a binary unit: ``999 B``, ``1.21 GiB``, ``340 MiB``."""
    if count < 1000:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        amount /= 1024
        if amount < 9.995:
            return f"{amount:.2f} {unit}"
        if amount < 99.95:
            return f"{amount:.1f} {unit}"
        if amount < 999.5:
            return f"{amount:.0f} {unit}"
    return f"{amount:.0f} PiB"


def clean(text: str) -> str:
    """Text from a file or another daemon, without what could steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
