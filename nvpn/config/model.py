"""What a configuration says, after every check: frozen values and nothing of the file's form."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from nvpn.datapath.choice import Wish
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.name_servers import NameServers
from nvpn.model.ports import PortPolicy
from nvpn.model.prefixes import Interface, Prefix, parse_address
from nvpn.model.secret import SecretText
from nvpn.resilience.policy import Policies

DAY: Final = 86_400
_LOOPBACK_IPV6: Final = bytes(15) + b"\x01"


class BackendWish(enum.Enum):
    """What carries the tunnel: our own protocol and datapath, or the Linux kernel's WireGuard."""

    USERSPACE = "userspace"
    KERNEL = "kernel"
    AUTO = "auto"

    @classmethod
    def parse(cls, text: str) -> BackendWish:
        """Raises ValueError with what was expected."""
        try:
            return cls(text)
        except ValueError:
            raise ValueError('expected "userspace", "kernel" or "auto"') from None


@dataclass(frozen=True, slots=True)
class Hooks:
    """Commands for bash, in order, with ``%i`` for the interface.

    ``pre_up`` after the link is made and before it is configured; the others where their
    names say; ``on_connect`` and ``on_disconnect`` when a peer comes and goes.
    """

    pre_up: tuple[str, ...] = ()
    post_up: tuple[str, ...] = ()
    pre_down: tuple[str, ...] = ()
    post_down: tuple[str, ...] = ()
    on_connect: tuple[str, ...] = ()
    on_disconnect: tuple[str, ...] = ()


class HostPort(NamedTuple):
    """Where a peer is reached, as configured: the host may be a name yet to be resolved.

    ``host`` is a name, an IPv4 address, or an IPv6 address without brackets and perhaps
    with a zone (``fe80::1%eth0``). ``port`` is 1 to 65535.
    """

    host: str
    port: int

    @property
    def is_literal(self) -> bool:
        """Whether the host is an address, so that no resolver is needed."""
        return self.address is not None

    @property
    def address(self) -> bytes | None:
        """4 or 16 bytes (without the zone), None for a name."""
        try:
            return parse_address(self.host.partition("%")[0])
        except ValueError:
            return None

    @property
    def is_loopback(self) -> bool:
        """Whether it is an address that this host alone reaches."""
        address = self.address
        return address is not None and (
            (len(address) == 4 and address[0] == 127) or address == _LOOPBACK_IPV6
        )

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """Our own side.

    ``private_key`` None: the file gives none, somebody sets it later (``wg set``).
    ``listen_port`` None: not given, the kernel chooses; ``mtu`` in bytes, None: derived.
    ``fwmark`` 0 is off. ``datapath`` is what is asked for, whether it is there or not.
    ``workers`` are threads that move packets, ``queues`` those of the TUN device.
    ``dns`` None leaves the host's name servers alone. ``table`` None: routes go where they
    belong, default routes by policy rules; 0: no routes; else the number of the table.
    ``kill_switch``: nothing leaves the host past the tunnel, even if we die. ``hooks`` may
    hold secrets, so they are not shown. ``save_config``: the running state is written back
    to the file at the end. ``netns`` is where the interface is, ``birth_netns`` where its
    UDP sockets are: a name in /run/netns, a path with a slash, empty for ours.
    ``backend`` is what is asked for, whether it is there or not. ``channel``: nvpn peers are
    spoken to inside the tunnel even where nothing else calls for it. ``ports``: what peers
    may begin through the tunnel.
    """

    private_key: PrivateKey | None = None
    addresses: tuple[Interface, ...] = ()
    listen_port: int | None = None
    mtu: int | None = None
    fwmark: int = 0
    datapath: Wish = Wish.AUTO
    workers: int = 1
    queues: int = 1
    dns: NameServers | None = None
    table: int | None = None
    kill_switch: bool = False
    hooks: Hooks = field(default=Hooks(), repr=False)
    save_config: bool = False
    netns: str = ""
    birth_netns: str = ""
    backend: BackendWish = BackendWish.USERSPACE
    channel: bool = False
    ports: PortPolicy = field(default_factory=PortPolicy)


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One peer, and where it is written.

    ``other_endpoints`` are further places where it may be, of lower rank than ``endpoint``
    and empty without one.
    ``persistent_keepalive`` is in seconds, 0 is off; None: nobody says, so that it is off, or
    what a server wishes for. ``file`` and ``line`` (1-based) are
    for messages; they take no part in comparisons. ``server``: it tells us our addresses
    and what lies behind it. ``ports``, where anything is given, holds for this peer in the
    place of the interface's.
    """

    public_key: PublicKey
    name: str = ""
    preshared_key: PresharedKey | None = None
    endpoint: HostPort | None = None
    allowed_ips: tuple[Prefix, ...] = ()
    persistent_keepalive: int | None = None
    other_endpoints: tuple[HostPort, ...] = ()
    server: bool = False
    ports: PortPolicy = field(default_factory=PortPolicy)
    file: str = field(default="", compare=False)
    line: int | None = field(default=None, compare=False)

    @property
    def endpoints(self) -> tuple[HostPort, ...]:
        """All of them, ``endpoint`` first."""
        return () if self.endpoint is None else (self.endpoint, *self.other_endpoints)

    @property
    def label(self) -> str:
        """What to call the peer in messages: its name, else the start of its key."""
        return self.name or self.public_key.short


class StoreKind(enum.Enum):
    """Where a server keeps its clients and leases: a file of its own, or an etcd for several."""

    FILE = "file"
    ETCD = "etcd"

    @classmethod
    def parse(cls, text: str) -> StoreKind:
        """Raises ValueError with what was expected."""
        try:
            return cls(text)
        except ValueError:
            raise ValueError('expected "file" or "etcd"') from None


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where a server keeps its clients and leases. The rest is about etcd alone.

    ``etcd`` are URLs (``http://127.0.0.1:2379``), without a slash at the end. ``prefix``
    begins every key there. ``user`` empty: no password is asked for. ``ca``, ``cert`` and
    ``key`` are PEM files, absolute or relative to the working directory.
    """

    kind: StoreKind = StoreKind.FILE
    etcd: tuple[str, ...] = ()
    prefix: str = ""
    user: str = ""
    password: SecretText = field(default_factory=SecretText, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """Addresses that one client gets and nobody else: by its key, or by its name.

    Exactly one of the two is given. ``addresses`` are 4 or 16 bytes each, in the pools.
    """

    public_key: PublicKey | None = None
    name: str = ""
    addresses: tuple[bytes, ...] = ()


class AddressRange(NamedTuple):
    """All addresses from ``first`` to ``last``, both included: 4 or 16 bytes each."""

    first: bytes
    last: bytes


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a server gives its clients.

    All times are in seconds. ``endpoints`` are what clients are told, the best first; empty:
    invitations need one of their own. ``reserved`` is never leased. ``routes`` are what lies
    behind us, never empty. ``mtu`` 0: clients are not told one. ``nat`` implies ``forward``.
    ``idle_timeout`` 0: clients may be silent for ever.
    """

    pools: tuple[Prefix, ...]
    endpoints: tuple[HostPort, ...] = ()
    lease_time: int = DAY
    reserved: tuple[AddressRange, ...] = ()
    routes: tuple[Prefix, ...] = ()
    dns: tuple[bytes, ...] = ()
    search: tuple[str, ...] = ()
    mtu: int = 0
    forward: bool = False
    nat: bool = False
    idle_timeout: int = 0
    invitation_time: int = DAY
    store: StoreConfig = field(default_factory=StoreConfig)
    reservations: tuple[Reservation, ...] = ()


class MetricsConfig(NamedTuple):
    """Where numbers are served over HTTP: an address without brackets, and a port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """A whole tunnel. ``name`` is the interface's, ``path`` the main file.

    ``server`` None: we lease nobody anything. ``metrics`` None: nothing is served.
    ``warnings`` are complete sentences with file and line, in the order of the files.
    """

    name: str
    path: Path
    interface: InterfaceConfig
    peers: tuple[PeerConfig, ...] = ()
    server: ServerConfig | None = None
    metrics: MetricsConfig | None = None
    resilience: Policies = field(default_factory=Policies)
    warnings: tuple[str, ...] = ()
