"""What of a lease is remembered over a restart: where the server may be, and what to ask for.

Like the rest of what a tunnel remembers it is JSON, without secrets, and not trusted when it
is read: a broken file is as good as none.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from nvpn.config.model import HostPort
from nvpn.config.values import MAX_ENDPOINTS, parse_endpoint
from nvpn.daemon.atomic_file import write_atomically
from nvpn.daemon.leasing.told import MAX_ADDRESSES, Told
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface

VERSION: Final = 1
_MAX_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class LeaseMemory:
    """``addresses`` were the last ones; ``endpoints`` are what the server said of itself."""

    server: PublicKey
    addresses: tuple[Interface, ...] = ()
    endpoints: tuple[HostPort, ...] = ()

    @classmethod
    def of(cls, told: Told) -> LeaseMemory:
        """What is worth it."""
        return cls(told.server, told.addresses, told.endpoints)

    def as_told(self) -> Told:
        """What may be taken for told before anybody was asked: where the server may be."""
        return Told(self.server, endpoints=self.endpoints)


def read_lease(path: str) -> tuple[LeaseMemory | None, str]:
    """What the file holds, and why that is nothing, or an empty string.

    A file that does not exist is no reason worth telling.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, os.strerror(error.errno or 0)
    try:
        return _parse(json.loads(data)), ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None, "it is no lease of ours"


def write_lease(path: str, memory: LeaseMemory) -> None:
    """Replace the file, mode 0600, whole or not at all. Raises OSError."""
    document = {
        "version": VERSION,
        "server": memory.server.base64,
        "addresses": [str(address) for address in memory.addresses],
        "endpoints": [str(place) for place in memory.endpoints],
    }
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n")


def _parse(document: Any) -> LeaseMemory:
    if document["version"] != VERSION:
        raise ValueError("an unknown version")
    addresses = document["addresses"]
    endpoints = document["endpoints"]
    if len(addresses) > MAX_ADDRESSES or len(endpoints) > MAX_ENDPOINTS:
        raise ValueError("more than is ever written")
    return LeaseMemory(
        PublicKey.from_base64(document["server"]),
        tuple(map(Interface.parse, addresses)),
        tuple(map(parse_endpoint, endpoints)),
    )
