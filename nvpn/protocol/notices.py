"""What the protocol tells whoever runs it: for logs, the state file and hooks.

``wall`` is Unix time in nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """Both sides are known to hold the keys of a new session."""

    peer: PublicKey
    wall: int
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class HandshakeGivenUp:
    """The peer answered none of our initiations; what waited for it was dropped."""

    peer: PublicKey
    wall: int
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class Roamed:
    """An authentic packet came from another place than before."""

    peer: PublicKey
    wall: int
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class SessionExpired:
    """No new session came for so long that the keys were erased."""

    peer: PublicKey
    wall: int
    endpoint: Endpoint | None


Notice = Union[  # noqa: UP007 - a runtime value on Python 3.10
    HandshakeCompleted, HandshakeGivenUp, Roamed, SessionExpired
]
