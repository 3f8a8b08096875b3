"""There and back: what is read out of a tunnel makes the same one again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvpn.backend.api import Backend
from nvpn.model.keys import PrivateKey
from tests.support.cli import Done, here, nvpn, run
from tests.support.control_socket import RunningServer
from tests.support.memory_tunnel import MemoryTunnel

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for /var/run/wireguard"),
    pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg (wireguard-tools)"),
]

ADA, BOB = (PrivateKey(bytes([n]) * 32).public() for n in (1, 2))
SECRET = PrivateKey(b"\x05" * 32).reveal_base64()
PEER = f"peer {ADA.base64}"
FILE = f"""
[Interface]
PrivateKey = {SECRET}
[Peer]
PublicKey = {ADA.base64}
PresharedKey = {SECRET}
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25
[Peer]
PublicKey = {BOB.base64}
PresharedKey = {SECRET}
"""

keys = st.binary(min_size=32, max_size=32)
prefixes = st.one_of(
    st.builds("10.{}.{}.0/24".format, st.integers(0, 255), st.integers(0, 255)),
    st.builds("fd00:{:x}::/32".format, st.integers(0, 0xFFFF)),
    st.just("0.0.0.0/0"),
    st.just("::/0"),
)
endpoints = st.one_of(
    st.builds("192.0.2.{}:{}".format, st.integers(1, 254), st.integers(1, 65535)),
    st.builds("[2001:db8::{:x}]:{}".format, st.integers(1, 0xFFFF), st.integers(1, 65535)),
)
peers = st.fixed_dictionaries(
    {"key": keys},
    optional={
        "psk": keys,
        "allowed": st.lists(prefixes, max_size=4, unique=True),
        "endpoint": endpoints,
        "keepalive": st.integers(0, 65535),
    },
)
tunnels = st.fixed_dictionaries(
    {"peers": st.lists(peers, max_size=4)},
    optional={"key": keys, "port": st.integers(0, 65535), "mark": st.integers(0, 2**32 - 1)},
)


def as_file(tunnel: dict[str, Any]) -> str:
    lines = ["[Interface]"]
    if "key" in tunnel:
        lines.append(f"PrivateKey = {PrivateKey(tunnel['key']).reveal_base64()}")
    if "port" in tunnel:
        lines.append(f"ListenPort = {tunnel['port']}")
    if "mark" in tunnel:
        lines.append(f"FwMark = {tunnel['mark']:#x}")
    for peer in tunnel["peers"]:
        lines += ["[Peer]", f"PublicKey = {PrivateKey(peer['key']).public().base64}"]
        if "psk" in peer:
            lines.append(f"PresharedKey = {PrivateKey(peer['psk']).reveal_base64()}")
        if peer.get("allowed"):
            lines.append(f"AllowedIPs = {', '.join(peer['allowed'])}")
        if "endpoint" in peer:
            lines.append(f"Endpoint = {peer['endpoint']}")
        if "keepalive" in peer:
            lines.append(f"PersistentKeepalive = {peer['keepalive']}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def memory_tunnel() -> Iterator[str]:
    """A device of ours without an interface, where wg finds it."""
    name = f"w5{os.urandom(4).hex()}"

    async def make() -> Backend:
        return MemoryTunnel(name).backend

    with RunningServer(name, make):
        yield name


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tunnel=tunnels)
def test_what_showconf_prints_makes_the_same_again(
    memory_tunnel: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tunnel: dict[str, Any],
) -> None:
    file = tmp_path / "wg.conf"

    def tell(verb: str, text: str) -> None:
        file.write_text(text)
        assert here(capsys, verb, memory_tunnel, str(file)) == Done(0, "", "")

    tell("setconf", as_file(tunnel))
    first = here(capsys, "showconf", memory_tunnel)
    assert run("wg", "showconf", memory_tunnel) == first
    tell("setconf", "")
    tell("syncconf", first.out)
    assert here(capsys, "showconf", memory_tunnel) == first
    tell("setconf", "")
    file.write_text(first.out)
    assert run("wg", "setconf", memory_tunnel, str(file)) == Done(0, "", "")
    assert here(capsys, "showconf", memory_tunnel) == first


def test_a_change_of_allowed_ips_adds_and_takes_away(memory_tunnel: str) -> None:
    """As the newest wg does it; the one at hand may not know how."""

    def allowed(change: str) -> str:
        done = nvpn("set", memory_tunnel, *PEER.split(), "allowed-ips", change)
        assert done == Done(0, "", "")
        return nvpn("show", memory_tunnel, "allowed-ips").out.partition("\t")[2].strip()

    nvpn("setconf", memory_tunnel, "/dev/null")
    assert allowed("10.1.0.0/16,10.2.0.0/16") == "10.1.0.0/16 10.2.0.0/16"
    assert allowed("+10.3.0.0/16,-10.1.0.0/16") == "10.2.0.0/16 10.3.0.0/16"
    assert allowed("-10.2.0.0/16") == "10.3.0.0/16"
    assert allowed("10.4.0.0/16") == "10.4.0.0/16"
    assert allowed("") == "(none)"


def test_syncconf_resets_a_preshared_key_that_the_file_lost(
    memory_tunnel: str, tmp_path: Path
) -> None:
    file = tmp_path / "wg.conf"
    file.write_text(FILE)
    assert nvpn("setconf", memory_tunnel, str(file)).status == 0
    file.write_text(f"[Peer]\nPublicKey = {ADA.base64}\n[Peer]\nPublicKey = {BOB.base64}\n")

    assert nvpn("syncconf", memory_tunnel, str(file)) == Done(0, "", "")

    shown = nvpn("showconf", memory_tunnel).out
    assert "PresharedKey" not in shown
    assert "PersistentKeepalive" not in shown
    assert f"PublicKey = {ADA.base64}\nEndpoint = [2001:db8::1]:51820\n" in shown
