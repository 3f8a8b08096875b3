"""What of a lease is remembered over a restart: where the server may be, and what to ask for.

Like the rest of what a tunnel remembers it is JSON, without secrets, and not trusted when it
is read: a broken file is as good as none.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from nvpn.channel.messages import MAX_SERVERS
from nvpn.config.model import HostPort
from nvpn.config.values import MAX_ENDPOINTS, parse_endpoint
from nvpn.daemon.atomic_file import write_atomically
from nvpn.daemon.leasing.servers import FurtherServer, usable_name
from nvpn.daemon.leasing.told import MAX_ADDRESSES, Told
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface

VERSION: Final = 1
_MAX_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class LeaseMemory:
    """``addresses`` were the last ones; ``endpoints`` are what the server said of itself, and
    ``servers`` what it said of others, which count as they do in :class:`Told`.
    """

    server: PublicKey
    addresses: tuple[Interface, ...] = ()
    endpoints: tuple[HostPort, ...] = ()
    servers: tuple[FurtherServer, ...] = ()
    known_by: PublicKey | None = None

    @classmethod
    def of(cls, told: Told) -> LeaseMemory:
        """What is worth it."""
        return cls(told.server, told.addresses, told.endpoints, told.servers, told.known_by)

    def as_told(self) -> Told:
        """What may be taken for told before anybody was asked: where servers may be."""
        return Told(
            self.server,
            endpoints=self.endpoints,
            servers=self.servers,
            known_by=self.known_by,
        )


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
        "endpoints": _texts(memory.endpoints),
        "servers": [
            {
                "public_key": one.public_key.base64,
                "name": one.name,
                "endpoints": _texts(one.endpoints),
            }
            for one in memory.servers
        ],
        "known_by": memory.known_by.base64 if memory.known_by else "",
    }
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n")


def _parse(document: Any) -> LeaseMemory:
    if document["version"] != VERSION:
        raise ValueError("an unknown version")
    addresses, servers = document["addresses"], document["servers"]
    if len(addresses) > MAX_ADDRESSES or len(servers) > 1 + MAX_SERVERS:
        raise ValueError("more than is ever written")
    known_by = document["known_by"]
    return LeaseMemory(
        PublicKey.from_base64(document["server"]),
        tuple(map(Interface.parse, addresses)),
        _parse_endpoints(document["endpoints"]),
        tuple(map(_parse_server, servers)),
        PublicKey.from_base64(known_by) if known_by else None,
    )


def _parse_server(document: Any) -> FurtherServer:
    name, endpoints = document["name"], _parse_endpoints(document["endpoints"])
    if not endpoints or usable_name(name) != name:
        raise ValueError("no server that was ever written")
    return FurtherServer(PublicKey.from_base64(document["public_key"]), name, endpoints)


def _parse_endpoints(texts: Any) -> tuple[HostPort, ...]:
    if len(texts) > MAX_ENDPOINTS:
        raise ValueError("more than is ever written")
    return tuple(map(parse_endpoint, texts))


def _texts(endpoints: tuple[HostPort, ...]) -> list[str]:
    return [str(place) for place in endpoints]
