"""The running state goes back into the file, and what was written there stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nvpn.config.load import load
from nvpn.config.model import TunnelConfig
from nvpn.config.save import Running, save_running
from nvpn.errors import ConfigErrors
from nvpn.model.changes import Owner
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Interface, Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
CAROL = PublicKey(bytes(range(32)))

TOML = f"""\
# top
[interface]  # ours
private_key_file = "own.key"
address = [ '10.0.0.1/24' ]  # in the tunnel
listen_port = 51820
mtu = 1400 # narrow

[[peer]] # Alice
name = "alice"
public_key = "{ALICE}"
endpoint = "alice.example:1"
allowed_ips = ["10.0.0.2", "10.0.0.3/32"]  # two

# Bob
[[peer]]
public_key = "{BOB}"
endpoint = "192.0.2.1:1"  # office
"""

CONF = f"""\
# top

[Interface]  # ours
# nvpn: kill_switch = true
Address = 10.0.0.1/24
PrivateKey = {OWN} # secret
ListenPort = 51820
Table = main
PostUp = echo a # b
# narrow
MTU = 1400
# end of interface

# Alice,
# at home
[Peer]
# Name = alice
PublicKey = {ALICE}
AllowedIPs = 10.0.0.2/32 # first
AllowedIPs = 10.0.0.3/32 # second
Endpoint = alice.example:1
# nvpn: endpoint = 192.0.2.7:1

# Bob
[Peer]
PublicKey = {BOB}
# of Bob
Endpoint = 192.0.2.1:1 # office
# the end
"""


def written(tmp_path: Path, name: str, text: str) -> TunnelConfig:
    (tmp_path / "own.key").write_text(OWN)
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o600)
    return load(path)


def running(config: TunnelConfig, *, bob: str = "192.0.2.1:1") -> Running:
    """Just as the file says; Alice was found at some address."""
    peers = [
        PeerSnapshot(
            peer.public_key,
            name=peer.name,
            preshared_key=peer.preshared_key,
            endpoint=Endpoint.parse("198.51.100.9:1" if at == 0 else bob),
            allowed_ips=tuple(reversed(peer.allowed_ips)),
            persistent_keepalive=peer.persistent_keepalive or 0,
        )
        for at, peer in enumerate(config.peers)
    ]
    interface = config.interface
    snapshot = TunnelSnapshot(
        config.name, interface.private_key, 51820, interface.fwmark, 1400, tuple(peers)
    )
    addresses = (*interface.addresses, Interface.parse("fe80::5/64"))
    return Running(snapshot, addresses, 1400, interface.dns)


def test_toml_that_says_what_runs_stays_byte_for_byte(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", TOML)
    assert save_running(config, running(config)) == []
    assert config.path.read_text() == TOML


def test_in_toml_only_what_differs_is_touched(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", TOML)
    now = running(config, bob="[2001:db8::1]:9")
    alice, bob = now.snapshot.peers
    psk = PresharedKey.from_base64(OWN)
    peers = (
        replace(alice, allowed_ips=(Prefix.parse("10.0.0.2/32"),), preshared_key=psk),
        replace(bob, persistent_keepalive=25),
        PeerSnapshot(CAROL, endpoint=Endpoint.parse("192.0.2.3:3")),
    )
    snapshot = replace(now.snapshot, listen_port=7, fwmark=0xCA6C, peers=peers)
    addresses = (*now.addresses, Interface.parse("fd00::1/64"))

    save_running(config, replace(now, snapshot=snapshot, mtu=1380, addresses=addresses))

    expected, psk_line = TOML, f'preshared_key = "{OWN}"\n'
    for old, new in (
        ("[ '10.0.0.1/24' ]", '["10.0.0.1/24", "fd00::1/64"]'),
        ("51820\nmtu = 1400 # narrow\n", '7\nmtu = 1380 # narrow\nfwmark = "0xca6c"\n'),
        ('["10.0.0.2", "10.0.0.3/32"]  # two\n', f'["10.0.0.2/32"]  # two\n{psk_line}'),
        ('"192.0.2.1:1"  # office\n', '"[2001:db8::1]:9"  # office\npersistent_keepalive = 25\n'),
    ):  # fmt: skip
        assert old in expected
        expected = expected.replace(old, new)
    expected += f'\n[[peer]]\npublic_key = "{CAROL.base64}"\nendpoint = "192.0.2.3:3"\n'
    assert config.path.read_text() == expected
    assert len(load(config.path).peers) == 3


@pytest.mark.parametrize(
    "text",
    [
        f"interface = {{ private_key = '{OWN}', address = ['10.0.0.1/24'] }} # a\n"
        f"peer = [{{ public_key = '{ALICE}', endpoint='a.b:1' }}, # b\n # c\n"
        f" {{ public_key = '{BOB}', endpoint = '192.0.2.1:1' }}]\n",
        f"interface.private_key = '{OWN}'\ninterface.mtu = 1400 # a\n"
        f"[[peer]] # b\npublic_key='{ALICE}'\n[[peer]] # c\npublic_key='{BOB}'",
        f"[[peer]]\npublic_key='{ALICE}'\n# a b\n\n[[peer]]\r\npublic_key='{BOB}' # c\r\n",
        f"peer = []\n[interface] # a\n# b\n\n# c\nfwmark = 7\nprivate_key = '{OWN}'\n",
    ],
)
def test_however_toml_is_written_it_says_what_runs_afterwards(text: str, tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", text)
    now = running(config)
    peers = [replace(peer, persistent_keepalive=7) for peer in now.snapshot.peers[1:]]
    peers.append(PeerSnapshot(CAROL, allowed_ips=(Prefix.parse("10.9.0.0/16"),)))
    key = PrivateKey.from_base64(ALICE)
    snapshot = replace(now.snapshot, private_key=key, fwmark=5, peers=tuple(peers))

    save_running(config, replace(now, snapshot=snapshot))

    again = load(config.path)
    assert (again.interface.private_key, again.interface.fwmark) == (key, 5)
    assert again.interface.listen_port == 51820
    assert again.interface.addresses == config.interface.addresses
    assert [
        (peer.public_key, peer.persistent_keepalive or 0, peer.allowed_ips) for peer in again.peers
    ] == [(peer.public_key, peer.persistent_keepalive, peer.allowed_ips) for peer in peers]


def test_a_keepalive_that_a_server_wished_for_is_not_the_files(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", TOML)
    now = running(config)
    for seconds, saved in ((25, TOML), (7, f"{TOML.rstrip()}\npersistent_keepalive = 7\n")):
        bob = replace(now.snapshot.peers[1], persistent_keepalive=seconds)
        snapshot = replace(now.snapshot, peers=(now.snapshot.peers[0], bob))
        save_running(config, replace(now, snapshot=snapshot, keepalives={bob.public_key: 25}))
        assert config.path.read_text() == saved


def test_a_peer_that_is_gone_goes_from_toml_with_its_comments(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", TOML)
    now = running(config)
    snapshot = replace(now.snapshot, peers=now.snapshot.peers[:1])
    save_running(config, replace(now, snapshot=snapshot))
    assert config.path.read_text() == TOML[: TOML.index("\n# Bob")]


def test_a_peer_that_was_written_since_the_start_is_not_lost(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", TOML)
    text = f"{TOML}\n[[peer]]\nname = 'carol'\npublic_key = '{CAROL.base64}'\n"
    config.path.write_text(text)
    (warning,) = save_running(config, running(config))
    assert warning == f"{config.path}: carol is not running yet, and stays"
    assert config.path.read_text() == text


def test_a_mark_that_was_chosen_for_a_default_route_is_not_written(tmp_path: Path) -> None:
    text = TOML.replace('"10.0.0.3/32"', '"0.0.0.0/0"')
    config = written(tmp_path, "wg0.toml", text)
    now = running(config)
    save_running(config, replace(now, snapshot=replace(now.snapshot, fwmark=51820)))
    assert config.path.read_text() == text


def test_another_key_than_the_file_names_is_written_with_a_warning(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", TOML)
    now = running(config)
    key = PrivateKey.from_base64(ALICE)
    (warning,) = save_running(
        config, replace(now, snapshot=replace(now.snapshot, private_key=key))
    )
    assert "interface.private_key_file named a key that is not the running one" in warning
    assert load(config.path).interface.private_key == key
    assert "private_key_file" not in config.path.read_text()


def test_a_conf_file_keeps_its_comments(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.conf", CONF)
    now = running(config)
    save_running(config, now)
    assert (
        config.path.read_text()
        == f"""\
# top

[Interface] # ours
# nvpn: kill_switch = true
Address = 10.0.0.1/24
Address = fe80::5/64
# narrow
MTU = 1400
Table = main
PostUp = echo a # b
ListenPort = 51820
PrivateKey = {OWN} # secret
# end of interface

# Alice,
# at home
[Peer]
# Name = alice
PublicKey = {ALICE}
AllowedIPs = 10.0.0.3/32, 10.0.0.2/32 # first
Endpoint = alice.example:1
# second
# nvpn: endpoint = 192.0.2.7:1

# Bob
[Peer]
PublicKey = {BOB}
# of Bob
Endpoint = 192.0.2.1:1 # office
# the end
"""
    )
    again = load(config.path)
    assert again.interface.kill_switch
    assert again.peers[0].endpoints == config.peers[0].endpoints
    before = config.path.read_text()
    save_running(again, now)
    assert config.path.read_text() == before


def test_a_file_that_is_broken_by_now_is_left_alone(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", TOML)
    config.path.write_text("[interface]\nmtu = 1\n")
    with pytest.raises(ConfigErrors):
        save_running(config, running(config))
    assert config.path.read_text() == "[interface]\nmtu = 1\n"


SERVER = f"""\
[interface]
private_key_file = "own.key"
address = "10.0.0.1/24"
listen_port = 51820
mtu = 1400

[server]  # ours
pool = "10.0.0.0/24"

[[server.reservation]]
name = "printer"
address = "10.0.0.9"

[[peer]]
name = "alice"
public_key = "{ALICE}"
"""


def test_what_a_server_leased_and_whom_it_admitted_is_not_written(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", SERVER)
    now = running(config)
    (alice,) = now.snapshot.peers
    leased = (Prefix.parse("10.0.0.17/32"),)
    carol = PeerSnapshot(CAROL, "carol", Owner.LEASE, allowed_ips=leased, leased=leased)
    by_hand, own = PublicKey.from_base64(BOB), (Prefix.parse("10.0.0.18/32"),)
    peers = (
        replace(alice, allowed_ips=leased, leased=leased, endpoint=None),
        carol,
        PeerSnapshot(by_hand, allowed_ips=own + leased, leased=leased),
    )
    assert save_running(config, replace(now, snapshot=replace(now.snapshot, peers=peers))) == []
    added = f'\n[[peer]]\npublic_key = "{BOB}"\nallowed_ips = ["10.0.0.18/32"]\n'
    assert config.path.read_text() == SERVER + added
    assert load(config.path).server == config.server


def test_a_client_that_was_written_into_the_file_meanwhile_stays_there(tmp_path: Path) -> None:
    config = written(tmp_path, "wg0.toml", SERVER)
    text = f"{SERVER}\n[[peer]]\nname = 'carol'\npublic_key = '{CAROL.base64}'\n"
    config.path.write_text(text)
    now = running(config)
    (alice,) = now.snapshot.peers
    peers = (replace(alice, endpoint=None), PeerSnapshot(CAROL, "carol", Owner.LEASE))
    (warning,) = save_running(config, replace(now, snapshot=replace(now.snapshot, peers=peers)))
    assert warning == f"{config.path}: carol is not running yet, and stays"
    assert config.path.read_text() == text


@pytest.mark.parametrize("name", ["wg0.toml", "wg0.conf"])
def test_what_a_client_was_leased_is_not_written(name: str, tmp_path: Path) -> None:
    toml = (
        f'[interface]\nprivate_key_file = "own.key"\naddress = "10.0.0.1/24"\n'
        f'listen_port = 51820\nmtu = 1400\n[[peer]]\npublic_key = "{ALICE}"\nserver = true\n'
        'endpoint = "192.0.2.1:1"\nallowed_ips = ["10.1.0.0/16"]\n'
    )
    conf = (
        f"[Interface]\nAddress = 10.0.0.1/24\nMTU = 1400\nListenPort = 51820\n"
        f"FwMark = 0xca6c\nPrivateKey = {OWN}\n\n[Peer]\nPublicKey = {ALICE}\n"
        "AllowedIPs = 10.1.0.0/16\nEndpoint = 192.0.2.1:1\n# nvpn: server = true\n"
    )
    text = toml if name == "wg0.toml" else conf
    config = written(tmp_path, name, text)
    now = running(config)
    (server,) = now.snapshot.peers
    # The mark is the default route's, which was leased.
    routes = (Prefix.parse("0.0.0.0/0"), Prefix.parse("10.2.0.0/16"))
    elsewhere = Endpoint.parse("198.51.100.9:1")
    server = replace(
        server, allowed_ips=server.allowed_ips + routes, leased=routes, endpoint=elsewhere
    )
    addresses = [Interface.parse(one) for one in ("10.0.0.1/24", "10.0.0.17/24", "fd00::17/64")]
    save_running(
        config,
        Running(
            replace(now.snapshot, fwmark=0xCA6C, peers=(server,)),
            tuple(addresses),
            1400,
            None,
            # What the file gives stays the file's, though the server gave it, too.
            leased=frozenset(address.address for address in addresses),
        ),
    )
    assert config.path.read_text() == text
