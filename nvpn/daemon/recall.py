"""What a starting tunnel does with what it remembers: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nvpn.daemon.memory import TunnelMemory
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.wire.constants import REJECT_AFTER_TIME


@dataclass(frozen=True, slots=True)
class Recall:
    """``endpoints``: where to find each peer at the start.

    ``in_session``: those who may still hold keys of ours, in the order of ``peers``: to
    them a handshake is begun at once, for they do not know yet that we forgot.
    """

    endpoints: Mapping[PublicKey, Endpoint]
    in_session: tuple[PublicKey, ...]


def recall(
    peers: Iterable[PublicKey],
    resolved: Mapping[PublicKey, Endpoint],
    memory: TunnelMemory,
    *,
    wall: int,
    boot: int,
) -> Recall:
    """Choose between what is configured and what is remembered.

    A remembered endpoint serves a peer that has no other. One with a configured endpoint
    is where it was only if it was there just now: within the life of a session.

    Args:
        peers: whom to look for, in the order of their importance.
        resolved: configured endpoints that are known by now.
        wall, boot: now, in nanoseconds; endpoints count as learned now.
    """
    endpoints = {}
    in_session = []
    for key in peers:
        remembered = memory.peers.get(key)
        # A clock that went back leaves handshakes in the future: as good as just now.
        is_recent = (
            remembered is not None
            and remembered.last_handshake > 0
            and wall - remembered.last_handshake < REJECT_AFTER_TIME
        )
        endpoint = resolved.get(key)
        if remembered is not None and (endpoint is None or is_recent):
            endpoint = remembered.endpoint or endpoint
        if endpoint is None:
            continue
        endpoints[key] = endpoint._replace(source=None, learned_at=boot)
        if is_recent:
            in_session.append(key)
    return Recall(endpoints, tuple(in_session))
