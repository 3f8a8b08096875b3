"""A live daemon's memory: what is left of keys that it does not need any more."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.world import Tunnel, World, engine

pytestmark = [pytest.mark.root, pytest.mark.interop]


def found_in_memory(tunnel: Tunnel, secret: bytes) -> list[str]:
    """In which form the secret, or its second half, lies in writable memory of the process."""
    assert tunnel.process is not None
    forms = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "base64": base64.b64encode(secret).rstrip(b"="),
    }
    found = []
    directory = Path(f"/proc/{tunnel.process.pid}")
    with (directory / "mem").open("rb", buffering=0) as memory:
        for line in (directory / "maps").read_text().splitlines():
            area, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in area.split("-"))
            memory.seek(start)
            try:
                content = memory.read(end - start)
            except OSError:
                continue  # given back since: it is nobody's memory any more
            found += [form for form, text in forms.items() if text[len(text) // 2 :] in content]
    return found


def test_keys_are_gone_when_they_are_replaced_or_their_peer_is_removed(world: World) -> None:
    host, far = world.host("a"), world.host("b")
    link = world.link(host, far)
    tunnel = host.tunnel(engine("nvpn"), ("10.9.0.1/24",))
    other = far.tunnel(engine("nvpn"), ("10.9.0.2/24",))
    shared = PrivateKey(os.urandom(32))
    tunnel.add_peer(other, "10.9.0.2/32", psk=shared)
    other.add_peer(tunnel, "10.9.0.1/32", endpoint=f"10.77.{link}.1:51820", psk=shared)
    assert far.ping("10.9.0.1") == (3, 3)
    private = tunnel.private_key.reveal()

    # `wg show` is answered with all keys in clear, to root alone.
    for _ in range(3):
        tunnel.dump()
    assert found_in_memory(tunnel, private) == ["raw"], "the one that is in use"
    assert found_in_memory(tunnel, shared.reveal()) == ["raw"]

    new = PrivateKey(os.urandom(32))
    tunnel.wg_set("private-key", "/dev/stdin", stdin=new.reveal_base64().encode())
    tunnel.wg_set("peer", other.public_key, "remove")
    tunnel.dump()
    assert found_in_memory(tunnel, private) == []
    assert found_in_memory(tunnel, shared.reveal()) == []
    assert found_in_memory(tunnel, new.reveal()) == ["raw"]
