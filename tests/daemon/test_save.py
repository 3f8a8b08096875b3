"""The running state is written back: on demand, and at the end where the file asks for it."""

from __future__ import annotations

import os
import subprocess

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.machines import Machine

pytestmark = [pytest.mark.root, pytest.mark.interop]

ALICE = PrivateKey(bytes(range(32))).public().base64
BOB = PrivateKey(bytes(range(1, 33))).public().base64

CONF = f"""\
[Interface]
PrivateKey = PRIVATE
Address = 10.9.0.1/24,fd09::1/64
mtu = 1380
Table = main
PostUp = echo 'up  %i'; true
PreUp=true
PreDown = true
ListenPort = 51899

[Peer]
PublicKey = {ALICE}
AllowedIPs = 10.9.0.2/32
AllowedIPs = fd09::2/128
Endpoint = 127.0.0.1:5
PersistentKeepalive = 25

[Peer]
PublicKey = {BOB}
PresharedKey = PRIVATE
"""


def test_save_writes_what_wg_quick_writes(machine: Machine) -> None:
    # wg knows only one directory of sockets, so the interface has a name of its own.
    del machine.environment["NVPN_RUNTIME_DIR"]
    name = f"f5s{os.getpid() % 100000}"
    path = machine.write(CONF, f"{name}.conf")
    machine.nvpn("up", path.name)
    try:
        machine.host.run("wg", "set", name, "peer", BOB, "remove")
        machine.host.run("wg", "set", name, "fwmark", "0x99")
        machine.host.run("wg-quick", "save", str(path))
        theirs = path.read_text()
        machine.write(CONF, path.name)
        saved = machine.nvpn("save", name)
    finally:
        machine.nvpn("down", name)
    assert (saved.stdout, saved.stderr) == ("", "")
    assert path.read_text() == theirs
    assert "FwMark = 0x99" in theirs
    assert BOB not in theirs


def test_down_saves_where_the_file_asks_for_it_and_keeps_its_comments(machine: Machine) -> None:
    text = (
        "# a tunnel\n[interface]  # ours\nprivate_key = 'PRIVATE'\naddress = '10.9.0.1/24'\n"
        f"listen_port = 51899\nsave_config = true\n\n# Alice\n[[peer]]\npublic_key = '{ALICE}'\n"
    )
    path = machine.write(text)
    machine.nvpn("up", "wg0.toml")
    machine.nvpn("set", "wg0", "peer", BOB, "allowed-ips", "10.9.0.3/32")
    machine.nvpn("down", "wg0")
    text = text.replace("PRIVATE", machine.key.reveal_base64())
    added = f'\n[[peer]]\npublic_key = "{BOB}"\nallowed_ips = ["10.9.0.3/32"]\n'
    assert path.read_text() == text + added


def test_a_device_of_another_program_is_left_to_that(machine: Machine) -> None:
    del machine.environment["NVPN_RUNTIME_DIR"]
    name = f"f5w{os.getpid() % 100000}"
    subprocess.run(machine.host.argv("wireguard-go", name), check=True, timeout=20)
    try:
        refused = machine.nvpn("save", name, status=1)
    finally:
        machine.host.run("ip", "link", "delete", name)
    assert f"cannot save {name}; it is not nvpn's; try: wg-quick save {name}" in refused.stderr
