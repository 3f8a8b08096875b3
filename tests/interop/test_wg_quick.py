"""wg-quick leads everything through nvpn, and takes it all back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.wg_quick import WgQuick
from tests.support.world import SOCKETS, World, engine, wait_until

pytestmark = [pytest.mark.root, pytest.mark.interop]


def test_a_default_route_goes_up_and_comes_down(
    world: World, datapath: str, tmp_path: Path
) -> None:
    """Our own datapath in Python meets nvpn, the native one the other great implementation."""
    other = engine("wireguard-go" if datapath == "native" else "nvpn")
    here, there = world.host("a"), world.host("b")
    link = world.link(here, there)
    # The world beyond the tunnel.
    there.run("ip", "address", "add", "203.0.113.1/32", "dev", "lo")
    there.run("ip", "address", "add", "2001:db8:113::1/128", "dev", "lo", "nodad")
    far = there.tunnel(other, ("10.9.0.2/24", "fd09::2/64"))
    name, key = f"w5{os.urandom(4).hex()}", PrivateKey(os.urandom(32))
    far.wg_set("peer", key.public().base64, "allowed-ips", "10.9.0.1/32,fd09::1/128")
    path = tmp_path / f"{name}.conf"
    path.touch(0o600)
    path.write_text(
        f"[Interface]\nPrivateKey = {key.reveal_base64()}\nAddress = 10.9.0.1/24, fd09::1/64\n"
        f"[Peer]\nPublicKey = {far.public_key}\nAllowedIPs = 0.0.0.0/0, ::/0\n"
        f"Endpoint = 10.77.{link}.2:51820\n"
    )
    rules = (here.run("ip", "-4", "rule"), here.run("ip", "-6", "rule"))
    wg_quick = WgQuick(here, tmp_path)

    wg_quick("up", path)

    for version in ("-4", "-6"):
        now = here.run("ip", version, "rule")
        assert "not from all fwmark 0xca6c lookup 51820" in now
        assert "lookup main suppress_prefixlength 0" in now
    assert f"wg-quick-{name}" in here.run("nft", "list", "tables")
    for address in ("10.9.0.2", "203.0.113.1", "2001:db8:113::1"):
        assert here.ping(address, count=2) == (2, 2), address
    # Its own packets do not go through it, and neither does what is next to us.
    assert f"dev v{link}b" in here.run("ip", "route", "get", f"10.77.{link}.2", "mark", "51820")
    assert f"dev {name}" in here.run("ip", "route", "get", "203.0.113.1")

    wg_quick("down", path)

    assert (here.run("ip", "-4", "rule"), here.run("ip", "-6", "rule")) == rules
    assert here.run("nft", "list", "tables") == ""
    assert name not in here.run("ip", "link")
    socket = SOCKETS / f"{name}.sock"
    wait_until(lambda: not socket.exists(), 30, "the daemon ended with its interface")
