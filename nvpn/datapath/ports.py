"""What a datapath is handed: descriptors that stay somebody else's, and what it may use.

Every implementation takes the same; nothing here imports one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol


class Device(Protocol):
    """An open overlay device; ``overlay`` has them."""

    @property
    def fds(self) -> tuple[int, ...]:
        """Its queues, one or more; non-blocking, one packet a read, one a write."""

    @property
    def vnet_hdr(self) -> bool:
        """Whether each begins with a virtio-net header."""

    @property
    def tso(self) -> bool:
        """Whether it takes and gives merged TCP."""

    @property
    def uso(self) -> bool:
        """Whether it takes and gives merged UDP."""


class Descriptors(Protocol):
    """Bound UDP sockets, one a family, -1 for one that is off; ``transport.udp`` has them."""

    @property
    def ipv4(self) -> int:
        """Of IPv4."""

    @property
    def ipv6(self) -> int:
        """Of IPv6, and of it alone."""


@dataclass(frozen=True, slots=True)
class NoSockets:
    """No UDP yet: packets wait for their peers' sessions until ``ReplaceSockets``."""

    ipv4: int = -1
    ipv6: int = -1


@dataclass(frozen=True, slots=True)
class Offloads:
    """What may be used of what the kernel has; tests force each way by switching some off.

    ``tso``, ``uso``: merged writes to the TUN device. ``gso``, ``gro``: merged datagrams
    out and in. ``batches``: the batch paths; without them every packet goes alone.
    """

    tso: bool = True
    uso: bool = True
    gso: bool = True
    gro: bool = True
    batches: bool = True


ALL_OFFLOADS: Final = Offloads()
"""Whatever the kernel has."""
