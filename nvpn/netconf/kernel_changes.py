"""What is changed about a WireGuard interface of the kernel, as its netlink family has it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix


class Kept(enum.Enum):
    """The type of :data:`KEPT`."""

    KEPT = "kept"


KEPT: Final = Kept.KEPT
"""A key that stays as it is; None takes it away."""


@dataclass(frozen=True, slots=True)
class PeerChange:
    """One peer: made, changed or removed. None leaves a setting as it is.

    ``update_only``: nothing happens if there is no such peer any more.
    ``replace_allowed_ips``: those in ``allowed_ips`` are all it has then; without it they
    are added. A prefix that another peer has is taken away from it either way. An
    endpoint can be changed, and never taken away.
    """

    public_key: PublicKey
    remove: bool = False
    update_only: bool = False
    preshared_key: PresharedKey | Kept | None = KEPT
    endpoint: Endpoint | None = None
    persistent_keepalive: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class KernelChanges:
    """The whole interface. None leaves a setting as it is; listen port 0: the kernel chooses."""

    private_key: PrivateKey | Kept | None = KEPT
    listen_port: int | None = None
    fwmark: int | None = None
    peers: tuple[PeerChange, ...] = ()
