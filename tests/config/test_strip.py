"""What is left of a file for wg: the same as wg-quick leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nvpn.config.load import load
from nvpn.config.strip import strip_conf, strip_file
from nvpn.errors import ConfigErrors

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="

CONF = f"""\
# top

  [Interface] \t# ours
PrivateKey={OWN}
  address = 10.0.0.1/24
\tDNS= 10.0.0.1 # why
# DNS = 10.0.0.2
Dns=x
PostUp = echo 'a = b' # [Peer]
MTU : 1420
ListenPort = 1
[Peer]
Address = 1.2.3.4
PublicKey = {ALICE}
   # MTU = 3
[interface]
MTU = 1420
FwMark = 0x10
Table
SaveConfig = false
[Whatever]
Table = off

[ Interface ]
Table = off
"""
SHAPES = [
    CONF,
    CONF.removesuffix("\n"),
    f"{CONF}\n\n",
    f"{CONF}   ",
    CONF.replace("\n", "\r\n"),
    "",
    "\n",
    "[Interface]",
    "MTU = 1\n[INTERFACE]\nmtu=1\nPre Up = x\nJc = 4\n",
]

needs_wg_quick = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("wg-quick"), reason="needs root and wg-quick(8)"
)


@needs_wg_quick
@pytest.mark.root
@pytest.mark.interop
@pytest.mark.parametrize("text", SHAPES)
def test_a_conf_file_is_stripped_as_wg_quick_strips_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_bytes(text.encode())
    theirs = subprocess.run(
        ["wg-quick", "strip", str(path)], capture_output=True, timeout=20, check=True
    )
    assert strip_conf(text).encode() == theirs.stdout
    assert strip_file(path).encode() == theirs.stdout


def test_toml_becomes_what_wg_understands(tmp_path: Path) -> None:
    (tmp_path / "own.key").write_text(OWN)
    path = tmp_path / "wg0.toml"
    path.write_text(
        "[interface]\nprivate_key_file = 'own.key'\naddress = '10.0.0.1'\nlisten_port = 7\n"
        "fwmark = 51820\nmtu = 1400\nallowed_ports = 22\nchannel = true\non_connect = 'true'\n"
        "[server]\npool = '10.0.0.0/24'\n[metrics]\nlisten = '127.0.0.1:9586'\n"
        f"[resilience]\n[[peer]]\nname = 'a'\nserver = true\npublic_key = '{ALICE}'\n"
        f"preshared_key = '{BOB}'\nallowed_ips = ['::/0', '10.0.0.0/8']\n"
        "endpoints = ['[fd00::1]:5', 'b.example:6']\npersistent_keepalive = 25\n"
        f"[[peer]]\npublic_key = '{BOB}'\n"
    )
    stripped = strip_file(path)
    assert stripped == (
        f"[Interface]\nListenPort = 7\nFwMark = 0xca6c\nPrivateKey = {OWN}\n\n"
        f"[Peer]\nPublicKey = {ALICE}\nPresharedKey = {BOB}\nAllowedIPs = ::/0, 10.0.0.0/8\n"
        f"Endpoint = [fd00::1]:5\nPersistentKeepalive = 25\n\n[Peer]\nPublicKey = {BOB}\n"
    )
    again = tmp_path / "wg1.conf"
    again.write_text(stripped)
    ours, theirs = load(path), load(again)
    assert theirs.interface.private_key == ours.interface.private_key
    assert [peer.allowed_ips for peer in theirs.peers] == [peer.allowed_ips for peer in ours.peers]


def test_a_toml_file_with_mistakes_is_not_stripped(tmp_path: Path) -> None:
    path = tmp_path / "wg0.toml"
    path.write_text("[interface]\nmtu = 1\n")
    with pytest.raises(ConfigErrors, match="expected bytes from 576"):
        strip_file(path)
    with pytest.raises(ConfigErrors, match="does not exist"):
        strip_file(tmp_path / "wg1.conf")
