"""What a tunnel remembers over a restart, as a value and as a file. No keys but public ones.

The file is JSON, so that people can read it: the last timestamp promised to peers, the
listen port that the kernel chose, and per peer its last endpoint and handshake. It is
written to a temporary file and renamed, so that there is always a whole one, and what is
read is not trusted: a broken file is as good as none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from nvpn.daemon.atomic_file import write_atomically
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey

VERSION: Final = 1
_MAX_BYTES: Final = 64 << 20
_TIMESTAMP_BYTES: Final = 12


class PeerMemory(NamedTuple):
    """``endpoint`` None: never seen; ``last_handshake`` Unix nanoseconds, 0 for never."""

    endpoint: Endpoint | None = None
    last_handshake: int = 0


@dataclass(frozen=True, slots=True)
class TunnelMemory:
    """``timestamp``: no initiation of ours was stamped later (12 bytes, None for none).

    ``listen_port`` is 0 when the configuration chooses it.
    """

    timestamp: bytes | None = None
    listen_port: int = 0
    peers: Mapping[PublicKey, PeerMemory] = field(default_factory=dict)


def read_memory(path: str) -> tuple[TunnelMemory, str]:
    """What the file holds, and why that is nothing, or an empty string.

    A file that does not exist is no reason worth telling.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return TunnelMemory(), ""
    except OSError as error:
        return TunnelMemory(), os.strerror(error.errno or 0)
    try:
        return _parse(json.loads(data)), ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return TunnelMemory(), "it is not a state file"


def write_memory(path: str, memory: TunnelMemory) -> None:
    """Replace the file, mode 0600, whole or not at all.

    Raises:
        OSError: no space, read-only, …; the old file is as it was.
    """
    write_atomically(path, _format(memory))


def _format(memory: TunnelMemory) -> bytes:
    peers = {}
    for key, peer in memory.peers.items():
        told: dict[str, Any] = {"last_handshake": peer.last_handshake}
        if peer.endpoint is not None:
            told["endpoint"] = _format_endpoint(peer.endpoint)
        peers[key.base64] = told
    document = {
        "version": VERSION,
        "timestamp": memory.timestamp.hex() if memory.timestamp else None,
        "listen_port": memory.listen_port,
        "peers": peers,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _format_endpoint(endpoint: Endpoint) -> str:
    # The zone as a number: a name may belong to another interface after a restart, and
    # looking it up belongs to no file format.
    text = str(endpoint._replace(scope=0))
    return text.replace("]", f"%{endpoint.scope}]") if endpoint.scope else text


def _parse(document: Any) -> TunnelMemory:
    if document["version"] != VERSION:
        raise ValueError("an unknown version")
    raw = document["timestamp"]
    timestamp = bytes.fromhex(raw) if raw is not None else None
    if timestamp is not None and len(timestamp) != _TIMESTAMP_BYTES:
        raise ValueError("a timestamp has 12 bytes")
    port = document["listen_port"]
    if type(port) is not int or not 0 <= port <= 0xFFFF:
        raise ValueError("a port is a number from 0 to 65535")
    peers = {
        PublicKey.from_base64(key): _parse_peer(value) for key, value in document["peers"].items()
    }
    return TunnelMemory(timestamp, port, peers)


def _parse_peer(value: Any) -> PeerMemory:
    last_handshake = value["last_handshake"]
    if type(last_handshake) is not int or not 0 <= last_handshake < 1 << 63:
        raise ValueError("a time is Unix nanoseconds")
    text = value.get("endpoint")
    return PeerMemory(Endpoint.parse(text) if text is not None else None, last_handshake)
