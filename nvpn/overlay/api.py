"""The overlay device: descriptors that read and write IP packets, one at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tun:
    """An open overlay device; its descriptors are non-blocking and close-on-exec.

    ``fds`` are its queues, of which most devices have one. What the host sends is spread
    over them, each flow over one; what it gets may be written to any.
    ``vnet_hdr``: every packet begins with a virtio-net header of 10 bytes, so that the
    kernel can leave checksums undone and take and give packets larger than the MTU:
    TCP ones (``tso``) and UDP ones (``uso``).
    """

    fds: tuple[int, ...]
    name: str
    vnet_hdr: bool = False
    tso: bool = False
    uso: bool = False

    @property
    def fd(self) -> int:
        """The first queue, for what concerns the device as a whole."""
        return self.fds[0]

    def close(self) -> None:
        """Close all queues; unless it is persistent, the interface goes with the last."""
        for fd in self.fds:
            os.close(fd)
