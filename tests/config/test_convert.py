"""From one kind of file to the other and back: nothing gets lost."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.config.files import TextFile
from nvpn.config.load import examine, list_files, load
from nvpn.config.model import TunnelConfig
from nvpn.config.to_conf import convert_toml, read_fragments
from nvpn.config.to_toml import Converted, convert_conf
from nvpn.errors import ConfigErrors
from tests.config.test_any_bytes import EXAMPLES, SPLINTERS

ROOT = Path(__file__).parents[2]
OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="

CONF = f"""\
# top

[Interface] # us
# nvpn: kill_switch = true
PrivateKey = {OWN} # secret
Address = 10.0.0.1/24, fd00::1/64 # one
Jc = 4   # of AmneziaWG
# the second address
Address = 10.0.1.1/32 # two
DNS = 10.0.0.1, corp.example
PreUp = echo "a" # b
PostUp = echo 'c\\d' "e"
PostUp = echo %i
MTU = 1380
FwMark = 0xca6c
Table = off
SaveConfig = false
# nvpn: workers = 2
# nvpn: netns = blue
# nvpn: channel = true
# nvpn: on_connect = echo "x" # y
# nvpn: on_connect = echo z
# nvpn: allowed_ports = tcp/22, icmp


# Alice
# at home
[Peer] # laptop
# Name = alice
PublicKey = {ALICE}
AllowedIPs = 10.0.0.2/32
# nvpn: see the wiki
PresharedKey = {BOB}
Endpoint = vpn.example.com:51820 # here
# nvpn: endpoint = 192.0.2.1:53
AllowedIPs = fd00::2/128 # six
PersistentKeepalive = 25
# nvpn: server = true
# nvpn: disallowed_ports =
Xy = 1

[Peer]
# Name = alice
PublicKey = {BOB}
# the end
"""


LEASED = (
    "wg0.toml: what its server leases is nothing that wg-quick asks for: there it has the"
    " addresses and routes of the file alone"
)


def source(path: Path, text: str) -> TextFile:
    path.write_text(text)
    path.chmod(0o600)
    return TextFile(path.name, path, 0o600, text)


def to_toml(directory: Path, text: str, name: str = "wg0") -> Converted:
    return convert_conf(source(directory / f"{name}.conf", text))


def to_conf(directory: Path, text: str, *, keep_files: bool = False) -> Converted:
    main = source(directory / "wg0.toml", text)
    return convert_toml(read_fragments(main, list_files(main.path)[1:]), keep_files=keep_files)


def said(config: TunnelConfig) -> object:
    return config.interface, config.peers


def test_a_conf_file_becomes_toml_with_everything_in_its_place(tmp_path: Path) -> None:
    converted = to_toml(tmp_path, CONF)
    assert (
        converted.text
        == f"""\
# top

[interface]  # us
kill_switch = true
private_key = "{OWN}"  # secret
address = [
    "10.0.0.1/24",
    "fd00::1/64",  # one
    # nvpn: unknown: Jc = 4   # of AmneziaWG
    # the second address
    "10.0.1.1/32",  # two
]
dns = ["10.0.0.1", "corp.example"]
pre_up = 'echo "a" # b'
post_up = ["echo 'c\\\\d' \\"e\\"", "echo %i"]
mtu = 1380
fwmark = "0xca6c"
table = "off"
save_config = false
workers = 2
netns = "blue"
channel = true
on_connect = ['echo "x" # y', "echo z"]
allowed_ports = ["tcp/22", "icmp"]


# Alice
# at home
[[peer]]  # laptop
name = "alice"
public_key = "{ALICE}"
allowed_ips = ["10.0.0.2/32", "fd00::2/128"]  # six
# nvpn: see the wiki
preshared_key = "{BOB}"
endpoints = [
    "vpn.example.com:51820",  # here
    "192.0.2.1:53",
]
persistent_keepalive = 25
server = true
disallowed_ports = []
# nvpn: unknown: Xy = 1

[[peer]]
# Name = alice
public_key = "{BOB}"
# the end
"""
    )
    assert converted.warnings == (
        "wg0.conf:7: [Interface] Jc: is unknown; kept as a comment",
        "wg0.conf:40: [Peer] Xy: is unknown; kept as a comment",
        "wg0.conf:43: is the name of another peer, too; kept as a comment",
    )
    (tmp_path / "wg1.toml").write_text(converted.text)
    assert examine(tmp_path / "wg1.toml").problems == ()


def words(text: str) -> list[str]:
    """Keys, values and comments in their order, without how they are laid out."""
    return re.findall(r"[^\s,]+", text)


def test_there_and_back_every_key_value_and_comment_is_there(tmp_path: Path) -> None:
    back = to_conf(tmp_path, to_toml(tmp_path, CONF).text)
    moved = "AllowedIPs = fd00::2/128 # six\n"
    expected = CONF.replace(moved, "").replace("10.0.0.2/32\n", "10.0.0.2/32, fd00::2/128 # six\n")
    # Comments that already name nobody in TOML must name nobody here.
    expected = expected.replace(
        f"# Name = alice\nPublicKey = {BOB}", f"# # Name = alice\nPublicKey = {BOB}"
    )
    assert words(back.text) == words(expected)
    assert back.text.count("\n") == expected.count("\n")
    assert back.warnings == (LEASED,)


TOML = f"""
# top

[interface]   # us
private_key_file = "own.key"  # elsewhere
address = ["10.0.0.1/24",  # four
  # six
  'fd00::1/64']
dns = "off" # none
post_up = [
  "first", # of two
  # then
  '''second # no comment''',
] # done
pre_down = []
kill_switch = true   # safe
table = 254
save_config = true
backend = "auto"
datapath = "python"
fwmark = 51820
netns = "/proc/1/ns/net"
channel = true
allowed_ports = [
  "tcp/22",  # ssh
  443]
on_disconnect = ["a", # first
  "b"]

# Name = nobody
[[peer]]
# name = "old"
name = "al # ice"
public_key = "{ALICE}"
preshared_key_file = "alice.psk"
endpoints = ["a.example:1", # first
  "[fd00::1]:2"]
allowed_ips = []
server = true
allowed_ports = []

[[peer]]
# nvpn: name = not-me
public_key = "{BOB}"
endpoint = "192.0.2.1:1"
persistent_keepalive = "off"
allowed_ips = ["::/0", "10.0.0.9"]"""


def write_keys(directory: Path) -> None:
    (directory / "own.key").write_text(OWN)
    (directory / "alice.psk").write_text(BOB)


def test_toml_becomes_a_conf_file_that_says_the_same(tmp_path: Path) -> None:
    write_keys(tmp_path)
    converted = to_conf(tmp_path, TOML)
    assert (
        converted.text
        == f"""\
# top

[Interface] # us
PrivateKey = {OWN} # elsewhere
Address = 10.0.0.1/24 # four
# six
Address = fd00::1/64
# none
# nvpn: dns = off
# of two
PostUp = first
# then
# done
PostUp = second # no comment
# safe
# nvpn: kill_switch = true
Table = 254
SaveConfig = true
# nvpn: backend = auto
# nvpn: datapath = python
FwMark = 51820
# nvpn: netns = /proc/1/ns/net
# nvpn: channel = true
# ssh
# nvpn: allowed_ports = tcp/22, 443
# first
# nvpn: on_disconnect = a
# nvpn: on_disconnect = b

# # Name = nobody
[Peer]
# # name = "old"
# Name = al # ice
PublicKey = {ALICE}
PresharedKey = {BOB}
Endpoint = a.example:1 # first
# nvpn: endpoint = [fd00::1]:2
# nvpn: server = true
# nvpn: allowed_ports =

[Peer]
# # nvpn: name = not-me
PublicKey = {BOB}
Endpoint = 192.0.2.1:1
PersistentKeepalive = off
AllowedIPs = ::/0, 10.0.0.9
"""
    )
    assert converted.warnings == (
        f"wg0.toml: the key in {tmp_path}/own.key is written out",
        f"wg0.toml: the key in {tmp_path}/alice.psk is written out",
        LEASED,
    )
    source(tmp_path / "wg1.conf", converted.text)
    assert said(load(tmp_path / "wg1.conf")) == said(load(tmp_path / "wg0.toml"))
    again = to_toml(tmp_path, converted.text, "wg2")
    source(tmp_path / "wg3.toml", again.text)
    assert said(load(tmp_path / "wg3.toml")) == said(load(tmp_path / "wg0.toml"))


def test_sections_without_a_place_in_a_conf_file_stay_as_comments(tmp_path: Path) -> None:
    text = f"""\
[interface]
mtu = 1400
listen_port = 51820
address = "10.8.0.1/24"

# for clients
[server]  # ours
pool = [
  "10.8.0.0/24",  # all
]
[[server.reservation]]
name = "printer"
address = "10.8.0.50"

[[peer]]
public_key = "{ALICE}"

[metrics]
listen = "127.0.0.1:9586"
[resilience]
jitter = 1
"""
    converted = to_conf(tmp_path, text)
    assert (
        converted.text
        == f"""\
[Interface]
MTU = 1400
ListenPort = 51820
Address = 10.8.0.1/24

# for clients
# nvpn.toml: [server] # ours
# nvpn.toml: pool = [
# nvpn.toml:   "10.8.0.0/24",  # all
# nvpn.toml: ]
# nvpn.toml: [[server.reservation]]
# nvpn.toml: name = "printer"
# nvpn.toml: address = "10.8.0.50"

[Peer]
PublicKey = {ALICE}

# nvpn.toml: [metrics]
# nvpn.toml: listen = "127.0.0.1:9586"
# nvpn.toml: [resilience]
# nvpn.toml: jitter = 1
"""
    )
    assert converted.warnings == (
        "wg0.toml:7: [server] has no place in a .conf file; kept as comments",
        "wg0.toml:18: [metrics] has no place in a .conf file; kept as comments",
        "wg0.toml:20: [resilience] has no place in a .conf file; kept as comments",
    )
    source(tmp_path / "wg1.conf", converted.text)
    assert said(load(tmp_path / "wg1.conf")) == said(load(tmp_path / "wg0.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "server = { pool = ['10.8.0.0/24'] } # a\ninterface.mtu = 1400 # b\n",
        "interface.mtu = 1400 # a\nserver.pool = '10.8.0.0/24' # b\ninterface.listen_port = 1\n",
        "server.reservation = [{ name = 'x', address = '10.8.0.7' }, # c\n"
        "{ name = 'y', address = '10.8.0.8' }]\nserver.pool = '10.8.0.0/24'\n[interface]\n",
    ],
)
def test_however_a_server_is_written_the_rest_comes_over(text: str, tmp_path: Path) -> None:
    converted = to_conf(tmp_path, text)
    source(tmp_path / "wg1.conf", converted.text)
    assert said(load(tmp_path / "wg1.conf")) == said(load(tmp_path / "wg0.toml"))
    assert re.findall(r"# [abc]\b", converted.text) == re.findall(r"# [abc]\b", text)
    assert len(converted.warnings) == 1


def test_keys_may_stay_in_their_files(tmp_path: Path) -> None:
    write_keys(tmp_path)
    text = to_conf(tmp_path, TOML, keep_files=True).text
    assert OWN not in text
    assert text.endswith(
        f"\n[Interface]\nPostUp = wg set %i private-key {tmp_path}/own.key\n"
        f"PostUp = wg set %i peer {ALICE} preshared-key {tmp_path}/alice.psk\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"interface = {{ private_key = '{OWN}', address = ['10.0.0.1'] }} # a\n"
        f"peer = [{{ public_key = '{ALICE}' }}, # b\n # c\n {{ public_key = '{BOB}' }}]\n",
        f"interface.private_key = '{OWN}'\ninterface.mtu = 1400 # x\n[[peer]]\npublic_key='{BOB}'",
        f"[[peer]]\r\npublic_key = '{BOB}' # x\r\n[interface]\r\nmtu = 1400\r\n",
        "[interface]\n",
    ],
)
def test_every_way_to_write_toml_comes_over(text: str, tmp_path: Path) -> None:
    converted = to_conf(tmp_path, text)
    source(tmp_path / "wg1.conf", converted.text)
    assert said(load(tmp_path / "wg1.conf")) == said(load(tmp_path / "wg0.toml"))
    assert re.findall(r"# [abcx]", converted.text) == re.findall(r"# [abcx]", text)


def test_fragments_are_joined(tmp_path: Path) -> None:
    (tmp_path / "wg0.d").mkdir()
    source(tmp_path / "wg0.d" / "a.toml", f"# of a\n[[peer]]\npublic_key = '{ALICE}'\n")
    (tmp_path / "alice.psk").write_text(OWN)
    (tmp_path / "wg0.d" / "bob.psk").write_text(ALICE)
    peer = f"[[peer]]\npublic_key = '{BOB}'\npreshared_key_file = 'bob.psk'\n"
    source(tmp_path / "wg0.d" / "b.toml", peer)
    text = to_conf(tmp_path, "[interface]\nmtu = 1400\n").text
    assert text == (
        f"[Interface]\nMTU = 1400\n\n# from wg0.d/a.toml\n# of a\n[Peer]\nPublicKey = {ALICE}\n\n"
        f"# from wg0.d/b.toml\n[Peer]\nPublicKey = {BOB}\nPresharedKey = {ALICE}\n"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "conf.d").glob("*.*")), ids=lambda p: p.name)
def test_the_examples_come_over_and_back(path: Path, tmp_path: Path) -> None:
    if path.suffix == ".d":
        return
    config = load(path)
    if path.suffix == ".toml":
        main = TextFile(path.name, path, 0o600, path.read_text())
        conf = convert_toml(read_fragments(main, list_files(path)[1:])).text
    else:
        conf = path.read_text()
    toml = to_toml(tmp_path, conf).text
    source(tmp_path / "wg1.toml", toml)
    assert said(load(tmp_path / "wg0.conf")) == said(config)
    assert said(load(tmp_path / "wg1.toml")) == said(config)


def test_a_file_with_mistakes_is_refused_with_its_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"wg0\.conf:3: \[Interface\] MTU: expected bytes"):
        to_toml(tmp_path, "[Interface]\nJc = 1\nMTU = 1\n")
    with pytest.raises(ConfigErrors, match="it belongs to"):
        to_toml(tmp_path, "[Interface]\nAllowedIPs = ::/0\n")
    with pytest.raises(ConfigErrors, match="is an unknown section"):
        to_toml(tmp_path, "[Wormhole]\nJc = 1\n")
    with pytest.raises(ConfigErrors, match=r"wg0\.toml:2: interface\.mtu"):
        to_conf(tmp_path, "[interface]\nmtu = 1\n")


splinters = st.lists(
    st.tuples(
        st.integers(0, 1500),
        st.integers(0, 12),
        st.sampled_from(
            [*SPLINTERS, b"# c\n", b"\n\n", b" # d", b"DNS = off\n", b"# nvpn: dns = off\n",
             b"Jc = 1\n", b"PostUp = a\n# x\nPostUp = b # c\n", b"AllowedIPs = ::/0 # all\n",
             b"# nvpn: on_connect = a # b\n", b"\n# nvpn: allowed_ports = tcp, 22\n",
             b"\n# nvpn: channel = true\n", b"\n# nvpn: server = true\n",
             b"DNS =\n", b"# Name = x\n# nvpn: name = y\n", b"\r\n", b"# Name = x\n"]
        ),
    ),
    max_size=4,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(splinters, st.sampled_from([CONF.encode(), EXAMPLES[".conf"]]))
def test_whatever_conf_file_is_read_comes_over_and_back(
    cuts: list[tuple[int, int, bytes]], data: bytes
) -> None:
    for at, length, splinter in cuts:
        at %= len(data) + 1
        data = data[:at] + splinter + data[at + length :]
    text = data.decode(errors="replace")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            toml = to_toml(directory, text).text
        except ConfigErrors:
            return
        config = examine(directory / "wg0.conf").config
        source(directory / "wg1.toml", toml)
        imported = examine(directory / "wg1.toml")
        assert imported.problems == ()
        conf = to_conf(directory, toml).text
        source(directory / "wg2.conf", conf)
        again = to_toml(directory, conf, "wg3").text
        source(directory / "wg3.toml", again)
        assert imported.config is not None
        assert said(load(directory / "wg3.toml")) == said(imported.config)
        if config is not None:
            assert said(imported.config)[0] == said(config)[0]  # type: ignore[index]
            keys = [peer.public_key for peer in config.peers]
            assert [peer.public_key for peer in imported.config.peers] == keys
