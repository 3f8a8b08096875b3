"""What a tunnel looked like at one moment: the answer to ``get``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nvpn.errors import DropReason
from nvpn.model.changes import Owner
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix


@dataclass(frozen=True, slots=True)
class PeerSnapshot:
    """One peer.

    ``last_handshake`` is Unix time in nanoseconds, 0 for never. ``rx_bytes`` and
    ``tx_bytes`` count UDP payload of authentic packets, padding included, as the
    kernel does. ``session_age`` is nanoseconds since the current keypair was derived,
    None without one. ``leased`` are those of ``allowed_ips`` that the configuration does
    not own. ``filtered`` counts packets from it that the port filter dropped.
    """

    public_key: PublicKey
    name: str = ""
    owner: Owner = Owner.CONFIG
    preshared_key: PresharedKey | None = None
    endpoint: Endpoint | None = None
    last_handshake: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    persistent_keepalive: int = 0
    allowed_ips: tuple[Prefix, ...] = ()
    session_age: int | None = None
    handshake_attempts: int = 0
    leased: tuple[Prefix, ...] = ()
    filtered: int = 0


@dataclass(frozen=True, slots=True)
class TunnelSnapshot:
    """A whole interface.

    ``datapath`` is what moves its packets, ``datapath_reason`` why it is that one, when
    there is something to say: both are for people.
    """

    name: str
    private_key: PrivateKey | None = None
    listen_port: int = 0
    fwmark: int = 0
    mtu: int = 0
    peers: tuple[PeerSnapshot, ...] = ()
    datapath: str = ""
    datapath_reason: str = ""
    drops: Mapping[DropReason, int] = field(default_factory=dict)
