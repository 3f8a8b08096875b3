from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nvpn.config.load import examine, load
from nvpn.config.model import HostPort, TunnelConfig
from nvpn.model.keys import PrivateKey
from nvpn.model.prefixes import Interface
from tests.support.wg_daemon import noting_daemon

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="

ODD_BUT_LEGAL = f"""
# a comment
[interface]
 private KEY\t= {OWN} # mine
LISTENPORT=domain
FwMark = 0xCA6c#mark

[ Peer ]
PublicKey={ALICE}
AllowedIPs = 10.0.0.0/8,fd00::/08
allowedips = 192.168.7.9
Endpoint = ::1:ntp
PersistentKeepalive = OFF

[PEER]
PublicKey = {BOB}
PresharedKey = {ALICE}
Endpoint = [ ::1 ]:51820
PersistentKeepalive = 00025
AllowedIPs = 10.1.2.3/16, ::/0
[Interface]
"""


def read(tmp_path: Path, text: str) -> TunnelConfig:
    path = tmp_path / "wg0.conf"
    path.write_text(text)
    path.chmod(0o600)
    return load(path)


def test_a_file_is_read_as_wg_and_wg_quick_read_it(tmp_path: Path) -> None:
    config = read(tmp_path, ODD_BUT_LEGAL)
    interface = config.interface
    assert interface.private_key == PrivateKey.from_base64(OWN)
    assert interface.listen_port == 53
    assert interface.fwmark == 0xCA6C
    alice, bob = config.peers
    assert alice.endpoint == HostPort("::1", 123)
    assert [str(prefix) for prefix in alice.allowed_ips] == [
        "10.0.0.0/8",
        "fd00::/8",
        "192.168.7.9/32",
    ]
    assert (bob.endpoint, bob.persistent_keepalive) == (HostPort("::1", 51820), 25)
    assert [str(prefix) for prefix in bob.allowed_ips] == ["10.1.0.0/16", "::/0"]


def test_what_wg_quick_adds_is_read_and_harmless_requests_pass(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "[Interface]\nAddress = 10.0.0.1/24 , fd00::1/64 10.9.9.9\naddress=10.0.7.1/32\n"
        "MTU = 1380\nTable = Auto\nSaveConfig = false\n",
    )
    assert config.interface.addresses == tuple(
        map(Interface.parse, ("10.0.0.1/24", "fd00::1/64", "10.9.9.9/32", "10.0.7.1/32"))
    )
    assert config.interface.mtu == 1380
    assert config.interface.private_key is None


@pytest.mark.parametrize(
    ("comment", "name"),
    [
        ("# Name = laptop", "laptop"),
        ("#friendly_name=Bob's phone ", "Bob's phone"),
        ("  # NAME = a # b", "a # b"),
        ("# friendly name = x", "x"),
        ("# my name is bob", ""),
        (f"# Name = {OWN}", ""),
        ("# Name = \x1b[31m", ""),
        ("# Surname = x", ""),
        ("# Name = first\n# Name = second", "first"),
    ],
)
def test_a_comment_in_a_peer_may_name_it(comment: str, name: str, tmp_path: Path) -> None:
    config = read(tmp_path, f"[Interface]\n[Peer]\n{comment}\nPublicKey = {ALICE}\n")
    assert config.peers[0].name == name


def test_comments_outside_of_peers_name_nobody(tmp_path: Path) -> None:
    config = read(tmp_path, f"[Interface]\n# Name = me\n[Peer]\nPublicKey = {ALICE}\n")
    assert config.peers[0].name == ""


def test_two_peers_may_have_the_same_name_in_comments(tmp_path: Path) -> None:
    peers = "".join(f"[Peer]\n# Name = x\nPublicKey = {key}\n" for key in (ALICE, BOB))
    assert [peer.name for peer in read(tmp_path, f"[Interface]\n{peers}").peers] == ["x", "x"]


# --- against the real wg, which says through a control socket what it understood ---


def as_wg_says_it(config: TunnelConfig) -> list[str]:
    interface = config.interface
    lines = ["set=1"]
    if interface.private_key:
        lines.append(f"private_key={interface.private_key.reveal_hex()}")
    if interface.listen_port is not None:
        lines.append(f"listen_port={interface.listen_port}")
    lines.append(f"fwmark={interface.fwmark}")
    for peer in config.peers:
        lines.append(f"public_key={peer.public_key.hex}")
        if peer.preshared_key:
            lines.append(f"preshared_key={peer.preshared_key.reveal_hex()}")
        if peer.endpoint:
            lines.append(f"endpoint={peer.endpoint}")
        lines.append(f"persistent_keepalive_interval={peer.persistent_keepalive or 0}")
        lines += sorted(f"allowed_ip={prefix}" for prefix in peer.allowed_ips)
    return lines


def sorted_prefixes(said: list[str]) -> list[str]:
    """The lines of `wg`, its prefixes in one order, without what it says to replace."""
    lines: list[str] = []
    prefixes: list[str] = []
    for line in [*said, "public_key="]:
        if line.startswith("allowed_ip="):
            address, _, length = line.removeprefix("allowed_ip=").partition("/")
            masked = Interface.parse(f"{address}/{length}").prefix
            prefixes.append(f"allowed_ip={masked}")
            continue
        if line.startswith("public_key="):
            lines += sorted(prefixes)
            prefixes = []
        if line and not line.startswith(("replace_", "protocol_version")):
            lines.append(line)
    return lines[:-1]


needs_wg = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("wg"), reason="needs root and wg(8)"
)


@needs_wg
@pytest.mark.interop
@pytest.mark.root
@pytest.mark.parametrize(
    "text",
    [
        ODD_BUT_LEGAL,
        f"[Interface]\nListenPort=0\nFwMark=off\n[Peer]\nPublicKey={ALICE}\n",
        f"[INTERFACE]\nprivatekey={OWN}\n[Peer]\nPublic Key={ALICE}\nEndpoint=127.0.0.1:1\n",
        f"[Peer]\nPublicKey={ALICE}\nAllowedIPs=1.2.3.4/32,::1,0.0.0.0/0\nEndpoint=[fe80::1%lo]:7\n",
        f"\r\n[Peer]\r\nPublicKey = {ALICE}\r\nAllowedIPs = 10.0.0.0/24\r\n",
    ],
)  # fmt: skip
def test_wg_understands_the_same(text: str, tmp_path: Path) -> None:
    config = read(tmp_path, text)
    with noting_daemon() as (name, daemon):
        subprocess.run(["wg", "setconf", name, tmp_path / "wg0.conf"], check=True, timeout=60)
        said = "".join(daemon.take()).split("\n")
    ours = as_wg_says_it(config)
    theirs = sorted_prefixes(said)
    unset = {
        "persistent_keepalive_interval=0",
        "fwmark=0",
        "listen_port=0",
        f"private_key={'0' * 64}",
    }
    assert [line for line in theirs if line not in unset] == [
        line for line in ours if line not in unset
    ]


@needs_wg
@pytest.mark.interop
@pytest.mark.root
@pytest.mark.parametrize(
    "line",
    [
        "[Interface]\nPrivateKey = x",
        f"[Peer]\nPublicKey = {ALICE}\nAllowedIPs =",
        "[Interface]\nListenPort = nope",
        "[Interface]\nFwMark = 0x1ffffffff",
        "[Interface]\nFwMark = -1",
        "[Interface]\nAllowedIPs = ::/0",
        "[Interface]\nhello",
        "[Interfaces]",
        "ListenPort = 1",
        "[Peer]",
        f"[Peer]\nPublicKey = {ALICE}\nAllowedIPs = 10.0.0/24",
        f"[Peer]\nPublicKey = {ALICE}\nAllowedIPs = 10.0.0.0/33",
        f"[Peer]\nPublicKey = {ALICE}\nAllowedIPs = 10.0.0.0/-1",
        f"[Peer]\nPublicKey = {ALICE}\nAllowedIPs = 10.0.0.0/8,",
        f"[Peer]\nPublicKey = {ALICE}\nAllowedIPs = fe80::1%lo/128",
        f"[Peer]\nPublicKey = {ALICE}\nEndpoint = 127.0.0.1",
        f"[Peer]\nPublicKey = {ALICE}\nEndpoint = [::1]",
        f"[Peer]\nPublicKey = {ALICE}\nPersistentKeepalive = 65536",
        f"[Peer]\nPublicKey = {ALICE}\nPersistentKeepalive = on",
        f"[Peer]\nPublicKey = {ALICE[:-1]}",
    ],
)
def test_what_wg_refuses_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(f"{line}\n")
    with noting_daemon() as (name, _):
        theirs = subprocess.run(["wg", "setconf", name, path], capture_output=True, timeout=60)
    assert theirs.returncode == 1
    assert examine(path).problems
