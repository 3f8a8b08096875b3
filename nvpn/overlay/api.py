"""The overlay device: a descriptor that reads and writes IP packets, one at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tun:
    """An open overlay device; the descriptor is non-blocking and close-on-exec.

    ``vnet_hdr``: every packet begins with a virtio-net header of 10 bytes, so that the
    kernel can leave checksums undone and take and give packets larger than the MTU:
    TCP ones (``tso``) and UDP ones (``uso``).
    """

    fd: int
    name: str
    vnet_hdr: bool = False
    tso: bool = False
    uso: bool = False

    def close(self) -> None:
        """Close the descriptor; unless it is persistent, the interface goes with it."""
        os.close(self.fd)
