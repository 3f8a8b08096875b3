"""What the files say, before the parts are checked against each other.

Both readers fill the same draft: values are well-formed by then, and each is remembered
with its place. :func:`nvpn.config.finish.finish` then makes a configuration of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nvpn.config.findings import Findings, Place
from nvpn.config.model import (
    DAY,
    AddressRange,
    BackendWish,
    HostPort,
    MetricsConfig,
    StoreKind,
)
from nvpn.datapath.choice import Wish
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.ports import PortPolicy
from nvpn.model.prefixes import Interface, Prefix
from nvpn.model.secret import SecretText


@dataclass(slots=True)
class InterfaceDraft:
    """Our own side.

    ``claims`` says where each key was given first, whatever its value. ``hooks`` are
    commands by their key, such as ``pre_up``.
    """

    claims: dict[str, Place] = field(default_factory=dict)
    private_key: PrivateKey | None = None
    addresses: list[tuple[Interface, Place]] = field(default_factory=list)
    listen_port: int | None = None
    mtu: int | None = None
    fwmark: int = 0
    datapath: Wish = Wish.AUTO
    workers: int = 1
    queues: int = 1
    servers: list[tuple[bytes, Place]] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    table: int | None = None
    kill_switch: bool = False
    hooks: dict[str, list[str]] = field(default_factory=dict, repr=False)
    save_config: bool = False
    netns: str = ""
    birth_netns: str = ""
    backend: BackendWish = BackendWish.USERSPACE
    channel: bool = False
    ports: PortPolicy = field(default_factory=PortPolicy)


@dataclass(slots=True)
class PeerDraft:
    """One peer; ``place`` is its header. ``claims`` as in :class:`InterfaceDraft`."""

    place: Place
    claims: dict[str, Place] = field(default_factory=dict)
    name: str = ""
    public_key: PublicKey | None = None
    preshared_key: PresharedKey | None = None
    endpoint: HostPort | None = None
    allowed_ips: list[tuple[Prefix, Place]] = field(default_factory=list)
    persistent_keepalive: int | None = None
    other_endpoints: tuple[HostPort, ...] = ()
    server: bool = False
    ports: PortPolicy = field(default_factory=PortPolicy)


@dataclass(slots=True)
class ReservationDraft:
    """One reservation; ``place`` is its header. ``claims`` as in :class:`InterfaceDraft`."""

    place: Place
    claims: dict[str, Place] = field(default_factory=dict)
    public_key: PublicKey | None = None
    name: str = ""
    addresses: list[tuple[bytes, Place]] = field(default_factory=list)


@dataclass(slots=True)
class ServerDraft:
    """What clients get; ``place`` is the first header, None where there is none.

    ``claims`` as in :class:`InterfaceDraft`. An endpoint is a host and its port, if that
    was given. All times are in seconds.
    """

    place: Place | None = None
    claims: dict[str, Place] = field(default_factory=dict)
    pools: list[tuple[Prefix, Place]] = field(default_factory=list)
    endpoints: list[tuple[str, int | None, Place]] = field(default_factory=list)
    lease_time: int = DAY
    reserved: list[tuple[AddressRange, Place]] = field(default_factory=list)
    routes: list[tuple[Prefix, Place]] = field(default_factory=list)
    servers: list[tuple[bytes, Place]] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    mtu: int = 0
    forward: bool = False
    nat: bool = False
    idle_timeout: int = 0
    invitation_time: int = DAY
    store: StoreKind = StoreKind.FILE
    etcd: list[tuple[str, Place]] = field(default_factory=list)
    etcd_prefix: str = ""
    etcd_user: str = ""
    etcd_password: SecretText = field(default_factory=SecretText)
    etcd_files: dict[str, Path] = field(default_factory=dict)
    reservations: list[ReservationDraft] = field(default_factory=list)


@dataclass(slots=True)
class MetricsDraft:
    """Where numbers are served. ``place`` and ``claims`` as in :class:`ServerDraft`."""

    place: Place | None = None
    claims: dict[str, Place] = field(default_factory=dict)
    listen: MetricsConfig | None = None


@dataclass(slots=True)
class ResilienceDraft:
    """Figures by their key, times in seconds. ``claims`` as in :class:`InterfaceDraft`."""

    claims: dict[str, Place] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Draft:
    """All files of one tunnel. ``sections`` counts what was recognised, mistakes included."""

    interface: InterfaceDraft = field(default_factory=InterfaceDraft)
    peers: list[PeerDraft] = field(default_factory=list)
    server: ServerDraft = field(default_factory=ServerDraft)
    metrics: MetricsDraft = field(default_factory=MetricsDraft)
    resilience: ResilienceDraft = field(default_factory=ResilienceDraft)
    sections: int = 0
    unique_names: bool = True


def claim(claims: dict[str, Place], what: str, place: Place, findings: Findings) -> bool:
    """Note that ``what`` is given at ``place``. False, with an error, if it was before."""
    first = claims.get(what)
    if first is None:
        claims[what] = place
        return True
    if first.key == place.key:
        message = f"is given twice, on {first.seen_from(place)} and here"
    else:
        message = f"{first.key} on {first.seen_from(place)} gives the same thing"
    findings.error(place, message, "keep one of them")
    return False
