"""The real `wg` on our socket, with a real backend behind it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.backend.api import Backend
from nvpn.control import client
from nvpn.model.keys import PresharedKey, PrivateKey
from tests.support.control_socket import RunningServer
from tests.support.memory_tunnel import MemoryTunnel

pytestmark = [
    pytest.mark.root,
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for /var/run/wireguard"),
    pytest.mark.skipif(not shutil.which("wg"), reason="needs wg"),
]

NAME = f"u6{os.getpid()}"[:15]
OURS = PrivateKey(b"\x05" * 32)
ADA, BOB = (PrivateKey(bytes([n]) * 32).public().base64 for n in (1, 2))
PSK = PresharedKey(b"\x07" * 32).reveal_base64()


class Wg:
    """`wg` for one interface."""

    def __init__(self, server: RunningServer, tunnel: MemoryTunnel, directory: Path) -> None:
        self.server = server
        self.tunnel = tunnel
        self._directory = directory

    def __call__(self, verb: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["wg", verb, NAME, *arguments], input=stdin, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def fails(self, verb: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["wg", verb, NAME, *arguments], input=stdin, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        return done.stderr

    def configure(self, verb: str, text: str) -> None:
        file = self._directory / "wg.conf"
        file.write_text(text)
        file.chmod(0o600)
        self(verb, str(file))

    def dump(self) -> list[list[str]]:
        return [line.split("\t") for line in self("show", "dump").splitlines()]


@pytest.fixture
def wg(tmp_path: Path) -> Iterator[Wg]:
    tunnels: list[MemoryTunnel] = []

    async def make() -> Backend:
        tunnels.append(MemoryTunnel(NAME))
        return tunnels[0].backend

    with RunningServer(NAME, make) as server:
        yield Wg(server, tunnels[0], tmp_path)


CONFIG = f"""
[Interface]
PrivateKey = {OURS.reveal_base64()}
ListenPort = 47111
FwMark = 0xca6c

[Peer]
PublicKey = {ADA}
PresharedKey = {PSK}
Endpoint = 192.0.2.1:51820
AllowedIPs = 10.0.0.0/8, fd00::/64
PersistentKeepalive = 25

[Peer]
PublicKey = {BOB}
AllowedIPs = 10.1.0.0/16
"""

DUMP = [
    [OURS.reveal_base64(), OURS.public().base64, "47111", "0xca6c"],
    [ADA, PSK, "192.0.2.1:51820", "10.0.0.0/8,fd00::/64", "0", "0", "0", "25"],
    [BOB, "(none)", "(none)", "10.1.0.0/16", "0", "0", "0", "off"],
]


def test_setconf_is_shown_as_it_was_written(wg: Wg) -> None:
    wg.configure("setconf", CONFIG)
    assert wg.dump() == DUMP
    assert wg("show") == (
        f"interface: {NAME}\n"
        f"  public key: {OURS.public().base64}\n"
        "  private key: (hidden)\n"
        "  listening port: 47111\n"
        "  fwmark: 0xca6c\n"
        "\n"
        f"peer: {ADA}\n"
        "  preshared key: (hidden)\n"
        "  endpoint: 192.0.2.1:51820\n"
        "  allowed ips: 10.0.0.0/8, fd00::/64\n"
        "  persistent keepalive: every 25 seconds\n"
        "\n"
        f"peer: {BOB}\n"
        "  allowed ips: 10.1.0.0/16\n"
    )


def test_showconf_can_be_set_again(wg: Wg) -> None:
    wg.configure("setconf", CONFIG)
    shown = wg("showconf")
    wg.configure("setconf", "[Interface]\n")
    assert len(wg.dump()) == 1
    wg.configure("setconf", shown)
    assert wg.dump() == DUMP


def test_setconf_again_keeps_the_peers_of_the_protocol(wg: Wg) -> None:
    wg.configure("setconf", CONFIG)
    before = [wg.tunnel.device.peer_state(peer).peer_id for peer in wg.tunnel.device.peers()]
    wg.configure("setconf", CONFIG)
    after = [wg.tunnel.device.peer_state(peer).peer_id for peer in wg.tunnel.device.peers()]
    assert before == after


def test_addconf_adds_and_syncconf_removes(wg: Wg) -> None:
    wg.configure("addconf", CONFIG)
    wg.configure("addconf", f"[Peer]\nPublicKey = {BOB}\nAllowedIPs = 10.2.0.0/16\n")
    assert [(line[0], line[3]) for line in wg.dump()[1:]] == [
        (ADA, "10.0.0.0/8,fd00::/64"),
        (BOB, "10.2.0.0/16"),
    ]
    wg.configure("syncconf", CONFIG.rpartition("[Peer]")[0])
    assert wg.dump() == DUMP[:2]


def test_set_changes_what_it_names(wg: Wg) -> None:
    wg.configure("setconf", CONFIG)
    wg("set", "fwmark", "off", "listen-port", "47112")
    wg("set", "peer", ADA, "persistent-keepalive", "off", "allowed-ips", "")
    wg("set", "peer", ADA, "endpoint", "[2001:db8::1]:5", "preshared-key", "/dev/null")
    wg("set", "peer", BOB, "remove")
    assert wg.dump() == [
        [OURS.reveal_base64(), OURS.public().base64, "47112", "off"],
        [ADA, "(none)", "[2001:db8::1]:5", "(none)", "0", "0", "0", "off"],
    ]
    wg("set", "private-key", "/dev/null")
    assert wg.dump()[0][:2] == ["(none)", "(none)"]


def test_our_own_key_as_a_peer_is_ignored(wg: Wg) -> None:
    wg.configure("setconf", CONFIG)
    wg("set", "peer", OURS.public().base64, "allowed-ips", "10.9.0.0/16")
    assert wg.dump() == DUMP


def test_names_and_the_rest_of_our_own_keys_do_not_disturb_wg(wg: Wg) -> None:
    wg.configure("setconf", CONFIG)
    client.request(
        NAME, "set", [f"public_key={wg.tunnel.device.peers()[0].hex}", "nvpn_name=Ada's laptop"]
    )
    assert client.get(NAME).peers[0].name == "Ada's laptop"
    assert wg.dump() == DUMP


def test_the_client_sees_what_wg_sees(wg: Wg) -> None:
    wg.configure("setconf", CONFIG)
    tunnel = client.get(NAME)
    assert NAME in client.list_interfaces()
    assert client.daemon_pid(NAME) == os.getpid()
    assert [tunnel.private_key, tunnel.public_key] == DUMP[0][:2]
    assert [(peer.public_key, ",".join(peer.allowed_ips)) for peer in tunnel.peers] == [
        (line[0], line[3]) for line in DUMP[1:]
    ]


def test_wg_tells_why_a_port_cannot_be_had(wg: Wg) -> None:
    wg.server.run(wg.tunnel.backend.bring_up())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        taken = str(other.getsockname()[1])
        assert wg.fails("set", "listen-port", taken) == (
            "Unable to modify interface: Address already in use\n"
        )
