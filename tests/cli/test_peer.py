"""Peers come and go in the file and in the tunnel, together or not at all."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.cli import qr
from nvpn.cli.client_config import format_wgquick, free_address
from nvpn.cli.main import main
from nvpn.cli.peer_actions import choose_file
from nvpn.config.load import load
from nvpn.config.model import TunnelConfig
from nvpn.errors import ConfigError, PlatformError
from nvpn.model.keys import PrivateKey
from nvpn.model.prefixes import Interface, Prefix
from tests.support.cli import NVPN, Done, nvpn, run_on_terminal
from tests.support.machines import Machine
from tests.support.world import World, new_world

OURS = PrivateKey(bytes(range(32)))
BOB = PrivateKey(bytes(range(1, 33))).public().base64
NEW = PrivateKey(bytes(range(2, 34))).public().base64

TOML = f"""\
# our tunnel
[interface]   # here
private_key = "{OURS.reveal_base64()}"
address = ["10.8.0.1/24", "fd08::1/64"]
listen_port = 51820

# Bob's laptop,
# since spring
[[peer]]
name = "bob"
public_key = '{BOB}'
allowed_ips = [
    "10.8.0.2/32",   # the only one
]

# the end
"""
CONF = f"""\
# our tunnel
[Interface]
PrivateKey={OURS.reveal_base64()}
Address = 10.8.0.1/24, fd08::1/64
ListenPort = 51820

# Bob's laptop
[peer]
publickey = {BOB}
AllowedIPs = 10.8.0.2/32   # the only one
# the end
"""
TEXTS = {"wg7.toml": TOML, "wg7.conf": CONF}


@dataclass
class Place:
    """A directory with a configuration; no tunnel is up here."""

    directory: Path
    file: Path

    def peer(self, *arguments: str, stdin: str | None = None) -> Done:
        if stdin is not None:
            return nvpn("peer", *arguments, stdin=stdin)
        # In this process, which is ten times as quick.
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["peer", *arguments])
        texts = []
        for stream in (out, err):
            stream.flush()
            stream.seek(0)
            texts.append(stream.read())
        return Done(status, *texts)

    def add(self, *arguments: str) -> Done:
        return self.peer("add", *arguments, "--tunnel", str(self.file))

    def client(self, *arguments: str) -> TunnelConfig:
        """The configuration that ``add`` printed, as it is read."""
        done = self.add(*arguments)
        assert (done.status, done.err) == (0, "")
        file = self.directory / "client.conf"
        file.write_text(done.out)
        file.chmod(0o600)
        return load(file)


def make(directory: Path, name: str) -> Place:
    file = directory / name
    file.write_text(TEXTS[name])
    file.chmod(0o600)
    return Place(directory, file)


@pytest.fixture
def no_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path))


@pytest.fixture(params=TEXTS)
def place(tmp_path: Path, request: pytest.FixtureRequest, no_tunnel: None) -> Place:
    return make(tmp_path, request.param)


@pytest.fixture
def toml(tmp_path: Path, no_tunnel: None) -> Place:
    return make(tmp_path, "wg7.toml")


# --- the file -----------------------------------------------------------------------------


def test_both_sides_know_each_other_after_add(place: Place) -> None:
    client = place.client(
        "phone", "--endpoint", "vpn.example.com", "--psk", "--keepalive", "25",
        "--dns", "10.8.0.1,inside.test",
    )  # fmt: skip

    (us,) = client.peers
    _, phone = load(place.file).peers
    assert client.interface.private_key is not None
    assert phone.public_key == client.interface.private_key.public()
    assert us.public_key == OURS.public()
    assert phone.preshared_key is not None
    assert us.preshared_key == phone.preshared_key
    assert str(us.endpoint) == "vpn.example.com:51820"
    assert us.persistent_keepalive == 25
    assert [str(prefix) for prefix in us.allowed_ips] == ["10.8.0.0/24", "fd08::/64"]
    # Bob has 10.8.0.2; of the other network nobody has anything.
    assert [str(prefix) for prefix in phone.allowed_ips] == ["10.8.0.3/32", "fd08::2/128"]
    assert [str(address) for address in client.interface.addresses] == [
        "10.8.0.3/32",
        "fd08::2/128",
    ]
    assert client.interface.dns is not None
    assert client.interface.dns.search == ("inside.test",)
    assert phone.endpoint is None
    assert place.file.stat().st_mode & 0o777 == 0o600


def test_the_private_key_of_a_client_is_in_no_file_of_ours(place: Place) -> None:
    client = place.client("phone", "--endpoint", "vpn.example.com")
    assert client.interface.private_key is not None
    assert client.interface.private_key.reveal_base64() not in place.file.read_text()


def test_nothing_else_in_the_file_changes_and_rm_brings_every_byte_back(place: Place) -> None:
    before = place.file.read_text()

    place.client("phone", "--endpoint", "vpn.example.com")
    assert place.file.read_text().startswith(before.rstrip("\n"))
    done = place.peer("rm", "phone", "--tunnel", str(place.file))

    assert (done.status, done.out, done.err) == (0, "", "")
    assert place.file.read_text() == before


def test_rm_takes_the_comments_above_and_leaves_the_others(toml: Place) -> None:
    assert toml.peer("rm", "bob", "--tunnel", str(toml.file)).status == 0
    text = toml.file.read_text()
    assert "# our tunnel\n[interface]   # here\n" in text
    assert "Bob" not in text
    assert "since spring" not in text


@pytest.mark.parametrize("word", [BOB, BOB[:8]], ids=["key", "beginning"])
def test_rm_knows_a_peer_by_its_key(place: Place, word: str) -> None:
    assert place.peer("rm", word, "--tunnel", str(place.file)).status == 0
    assert load(place.file).peers == ()


def test_rm_of_nobody_changes_nothing(place: Place) -> None:
    done = place.peer("rm", "carol", "--tunnel", str(place.file))
    assert (done.status, done.err) == (
        1,
        f"error: {place.file}: there is no such peer; see: nvpn peer list --tunnel {place.file}\n",
    )
    assert place.file.read_text() == TEXTS[place.file.name]


def test_a_known_key_gets_what_was_given_and_nothing_is_printed(place: Place) -> None:
    done = place.add(
        "office", "--public-key", NEW, "--allowed-ips", "10.8.0.9, 10.20.0.0/16",
        "--endpoint", "[2001:db8::1]:51820", "--keepalive", "20",
    )  # fmt: skip

    assert (done.status, done.out, done.err) == (0, "", "")
    office = load(place.file).peers[-1]
    assert office.public_key.base64 == NEW
    assert [str(prefix) for prefix in office.allowed_ips] == ["10.8.0.9/32", "10.20.0.0/16"]
    assert str(office.endpoint) == "[2001:db8::1]:51820"
    assert office.persistent_keepalive == 20


def test_a_preshared_key_for_a_known_key_is_handed_over(place: Place) -> None:
    target = place.directory / "psk"
    done = place.add("office", "--public-key", NEW, "--psk", "-o", str(target))
    assert (done.status, done.out, done.err) == (0, "", "")
    psk = load(place.file).peers[-1].preshared_key
    assert psk is not None
    assert target.read_text() == f"{psk.reveal_base64()}\n"
    assert target.stat().st_mode & 0o777 == 0o600


def test_where_there_are_fragments_a_peer_is_one(toml: Place) -> None:
    fragments = toml.directory / "wg7.d"
    fragments.mkdir()

    toml.client("phone", "--endpoint", "vpn.example.com")

    assert toml.file.read_text() == TOML
    (fragment,) = fragments.iterdir()
    assert load(toml.file).peers[-1].name == "phone"
    assert fragment.stat().st_mode & 0o777 == 0o600
    assert toml.peer("rm", "phone", "--tunnel", str(toml.file)).status == 0
    assert list(fragments.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bob", "--endpoint", "a:1"), "there is a peer 'bob' already"),
        (("x", "--public-key", BOB), "is that of 'bob' already"),
        (("x", "--public-key", OURS.public().base64), "of this interface itself"),
        (("x", "--endpoint", "a:1", "--allowed-ips", "10.9.0.0/16"), "is a single address"),
        (("x", "--endpoint", "a:0"), "--endpoint: expected a port from 1 to 65535"),
        (("x", "--endpoint", "a:1", "--qr"), "standard output is no terminal"),
        (("x", "--endpoint", "a:1", "-o", "/"), "cannot write the configuration to /: "),
    ],
)
def test_what_is_refused_changes_nothing(
    toml: Place, arguments: tuple[str, ...], sentence: str
) -> None:
    done = toml.add(*arguments)
    assert done.status == 1
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert toml.file.read_text() == TOML


def test_what_only_a_printed_configuration_could_have_is_refused(toml: Place) -> None:
    done = toml.add("x", "--public-key", NEW, "--qr")
    assert done.status == 2
    assert done.err.startswith("error: --qr does not go with --public-key\n")
    assert toml.file.read_text() == TOML


def test_a_file_is_new_private_and_there_before_anything_changes(toml: Place) -> None:
    target = toml.directory / "phone.conf"
    target.write_text("mine")

    refused = toml.add("phone", "--endpoint", "a:1", "-o", str(target))
    assert refused.status == 1
    assert "a configuration is never overwritten" in refused.err
    assert (target.read_text(), toml.file.read_text()) == ("mine", TOML)

    target.unlink()
    done = toml.add("phone", "--endpoint", "a:1", "-o", str(target))
    assert (done.status, done.out, done.err) == (0, "", "")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert load(target).peers[0].public_key == OURS.public()


def test_files_of_a_refused_peer_are_not_left_behind(toml: Place) -> None:
    for option, name in (("-o", "x.conf"), ("--png", "x.png"), ("--svg", "x.svg")):
        target = toml.directory / name
        assert toml.add("bob", "--endpoint", "a:1", option, str(target)).status == 1
        assert not target.exists()


def test_list_shows_the_file_in_its_order(place: Place) -> None:
    place.add("phone", "--public-key", NEW)

    done = place.peer("list", "--tunnel", str(place.file))

    assert (done.status, done.err) == (0, "")
    rows = [line.split(maxsplit=3) for line in done.out.splitlines()]
    assert rows[0][0] == "PEER"
    assert [row[1:3] for row in rows[1:]] == [[BOB, "-"], [NEW, "-"]]
    assert rows[2][0] == "phone"
    assert rows[2][3] == "10.8.0.3/32, fd08::2/128"


def test_list_speaks_json_and_tells_no_secret(place: Place) -> None:
    place.add("phone", "--public-key", NEW, "--psk", "-o", str(place.directory / "psk"))

    done = place.peer("list", "--json", "--tunnel", str(place.file))

    found = json.loads(done.out)
    assert (found["interface"], found["is_running"]) == ("wg7", False)
    assert found["peers"][1] == {
        "name": "phone",
        "public_key": NEW,
        "allowed_ips": ["10.8.0.3/32", "fd08::2/128"],
        "endpoint": None,
        "has_preshared_key": True,
        "latest_handshake": None,
    }
    assert (place.directory / "psk").read_text().strip() not in done.out


# --- which tunnel -------------------------------------------------------------------------


def test_the_only_tunnel_needs_no_name(tmp_path: Path) -> None:
    here, there, absent = tmp_path / "nvpn", tmp_path / "wireguard", tmp_path / "absent"
    here.mkdir()
    there.mkdir()
    searched = (absent, here, there)
    with pytest.raises(ConfigError, match=r"there is no tunnel in .*; name its file"):
        choose_file(None, searched=searched)
    (here / "README.md").touch()
    (there / "wg0.conf").touch()
    assert choose_file(None, searched=searched) == there / "wg0.conf"
    (here / "wg0.toml").touch()  # the same tunnel, and what `up` would take
    assert choose_file(None, searched=searched) == here / "wg0.toml"
    (here / "lab.toml").touch()
    with pytest.raises(ConfigError, match=r"several tunnels in .*: lab, wg0; say which: --tunnel"):
        choose_file(None, searched=searched)
    assert choose_file("lab", searched=searched) == here / "lab.toml"


# --- the next free address ----------------------------------------------------------------


def hosts_in(text: str) -> set[int]:
    return {int(host) for host in ipaddress.ip_network(text, strict=False)}


@given(
    st.integers(24, 31),
    st.integers(0, 255),
    st.lists(st.tuples(st.integers(22, 32), st.integers(0, 1023)), max_size=12),
)
def test_the_free_address_is_the_lowest_that_nobody_has(
    length: int, own: int, others: list[tuple[int, int]]
) -> None:
    base = int(ipaddress.ip_address("10.8.0.0"))
    network = Interface((base + own).to_bytes(4, "big"), length)
    taken = [Prefix.of((base + host).to_bytes(4, "big"), size) for size, host in others]

    found = free_address(network, taken)

    inside = hosts_in(str(network))
    free = inside - {base + own}
    if length < 31:
        free -= {min(inside), max(inside)}
    for prefix in taken:
        if prefix.length >= length:
            free -= hosts_in(str(prefix))
    if not free:
        assert found is None
    else:
        assert found == Prefix(4, min(free), 32)


def test_an_ipv6_network_begins_at_one_and_is_not_counted_through() -> None:
    network = Interface.parse("fd00::5/64")
    assert free_address(network, []) == Prefix.parse("fd00::1/128")
    lower_half = Prefix.parse("fd00::/65")
    assert free_address(network, [lower_half]) == Prefix.parse("fd00::8000:0:0:0/128")
    assert free_address(network, [Prefix.parse("::/0")]) == Prefix.parse("fd00::1/128")


# --- codes --------------------------------------------------------------------------------


def decode(picture: Path) -> str:
    """What a real scanner reads."""
    if shutil.which("zbarimg") is None:
        pytest.skip("needs zbarimg; scripts/install-peers installs it")
    done = subprocess.run(
        ["zbarimg", "-q", "--raw", "--nodbus", "-Sdisable", "-Sqrcode.enable", str(picture)],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_a_scanner_reads_from_the_picture_what_is_in_the_file(toml: Place) -> None:
    picture, drawing = toml.directory / "phone.png", toml.directory / "phone.svg"
    target = toml.directory / "phone.conf"

    done = toml.add(
        "phone", "--endpoint", "vpn.example.com", "--psk", "--all",
        "--png", str(picture), "--svg", str(drawing), "-o", str(target),
    )  # fmt: skip

    assert (done.status, done.out, done.err) == (0, "", "")
    assert decode(picture) == target.read_text()
    assert drawing.read_text().startswith("<?xml")
    for file in (picture, drawing):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_scanner_reads_the_code_of_a_file_of_either_kind(place: Place) -> None:
    picture = place.directory / "own.png"
    done = place.peer("qr", str(place.file), "--png", str(picture))
    assert (done.status, done.out, done.err) == (0, "", "")
    assert decode(picture) == format_wgquick(load(place.file)) + "\n"


def test_a_configuration_comes_through_a_pipe_as_well(place: Place) -> None:
    picture = place.directory / "own.png"
    done = place.peer("qr", "-", "--png", str(picture), stdin=TEXTS[place.file.name])
    assert (done.status, done.err) == (0, "")
    assert decode(picture) == format_wgquick(load(place.file)) + "\n"


def test_what_apps_do_not_know_is_named_and_left_out(toml: Place) -> None:
    toml.file.write_text(TOML.replace("listen_port", 'post_up = "true"\nlisten_port'))
    picture = toml.directory / "own.png"
    done = toml.peer("qr", str(toml.file), "--png", str(picture))
    assert done.err == "warning: not in the code, as the apps do not know it: hooks\n"
    assert "PostUp" not in decode(picture)


def test_a_code_for_the_terminal_is_for_a_terminal(toml: Place) -> None:
    pipe = toml.peer("qr", str(toml.file))
    assert (pipe.status, pipe.out) == (1, "")
    assert pipe.err == (
        "error: cannot show a QR code; standard output is no terminal;"
        " take --png FILE, or --force\n"
    )
    forced = toml.peer("qr", str(toml.file), "--force")
    assert forced.status == 0
    assert forced.err == "warning: the code holds a private key: let nobody else see it\n"
    assert len(set(map(len, forced.out.splitlines()))) == 1

    status, seen = run_on_terminal(*NVPN, "peer", "qr", str(toml.file), PYTHONUTF8="1")
    assert status == 0
    assert "\x1b[97;40m█" in seen.decode()


def test_the_blocks_on_the_terminal_are_the_code() -> None:
    """Every half block is two modules; a scanner sees nothing else."""
    code = qr.make_code("hello")
    halves = {" ": (1, 1), "▀": (0, 1), "▄": (1, 0), "█": (0, 0)}
    lines = qr.draw_on_terminal(code, colour=False).splitlines()
    border = 4
    for y, row in enumerate(code.matrix):
        for x, module in enumerate(row):
            cell = lines[(y + border) // 2][x + border]
            assert halves[cell][(y + border) % 2] == module


def test_a_configuration_that_is_too_long_is_refused_with_its_size() -> None:
    qr.make_code("a" * qr.MOST_BYTES)
    with pytest.raises(PlatformError) as caught:
        qr.make_code("a" * (qr.MOST_BYTES + 1))
    assert str(caught.value) == (
        "cannot make a QR code; the configuration has 2954 bytes, and a code holds 2953;"
        " write it to a file instead: -o FILE"
    )


# --- the running tunnel -------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("peers")) as made:
        yield made


@pytest.fixture(scope="module")
def machines(world: World) -> tuple[Machine, Machine]:
    """A server on 10.77.1.1, up with :data:`TOML`, and a machine that has nothing."""
    server, client = Machine(world, "a"), Machine(world, "b")
    world.link(server.host, client.host)
    server.write(TOML)
    server.nvpn("up", "wg0.toml")
    return server, client


@pytest.mark.root
def test_what_is_printed_brings_the_other_side_up(machines: tuple[Machine, Machine]) -> None:
    server, client = machines
    arguments = ("--tunnel", "wg0.toml", "--endpoint", "10.77.1.1", "--psk", "-o", "phone.conf")
    done = server.nvpn("peer", "add", "phone", *arguments)
    assert done.stderr == ""

    client.write((server.etc / "phone.conf").read_text(), "wg0.conf")
    client.nvpn("up", "wg0.conf")

    assert client.host.ping("10.8.0.1", count=2) == (2, 2)
    rows = server.nvpn("peer", "list", "--tunnel", "wg0.toml").stdout.splitlines()
    assert rows[2].split()[0] == "phone"
    assert rows[2].split()[2] in ("now", *map(str, range(60)))
    assert [row[0] for row in server.record()[1:]] == [row.split()[1] for row in rows[1:]]

    assert server.nvpn("peer", "rm", "phone", "--tunnel", "wg0.toml").stderr == ""

    assert [row[0] for row in server.record()[1:]] == [BOB]
    assert (server.etc / "wg0.toml").read_text() == TOML


@pytest.mark.root
def test_when_the_tunnel_refuses_the_file_is_as_before(machines: tuple[Machine, Machine]) -> None:
    server, _ = machines
    server.host.run("ip", "route", "add", "10.50.0.0/16", "dev", "lo")

    refused = server.nvpn(
        "peer", "add", "office", "--public-key", NEW, "--tunnel", "wg0.toml",
        "--allowed-ips", "10.8.0.9,10.50.0.0/16", status=1,
    )  # fmt: skip

    assert "10.50.0.0/16" in refused.stderr
    assert (server.etc / "wg0.toml").read_text() == TOML
    assert [row[0] for row in server.record()[1:]] == [BOB]


@pytest.mark.root
def test_another_file_of_the_same_name_is_not_taken_for_the_tunnels(
    machines: tuple[Machine, Machine],
) -> None:
    server, _ = machines
    (server.etc / "other").mkdir()
    other = server.write(TOML, "other/wg0.toml")

    refused = server.nvpn("peer", "rm", "bob", "--tunnel", str(other), status=1)

    assert refused.stderr == (
        "error: cannot change the running wg0; it was started from another file than"
        f" {other}; name that one\n"
    )
    assert other.read_text() == TOML
    assert [row[0] for row in server.record()[1:]] == [BOB]


@pytest.mark.root
def test_a_tunnel_without_a_file_is_told_the_change_alone(
    machines: tuple[Machine, Machine],
) -> None:
    """As `wg-quick` runs nvpn: the file is wg-quick's, and the device knows of none."""
    server, _ = machines
    server.nvpn("device", "wg7")
    file = server.write(CONF, "wg7.conf")

    added = server.nvpn(
        "peer", "add", "office", "--public-key", NEW, "--tunnel", "wg7.conf",
        "--endpoint", "localhost:5",
    )  # fmt: skip
    assert added.stderr == (
        "warning: wg7 was not started by nvpn from a file, so that no routes have changed\n"
    )
    ((key, _, endpoint, allowed_ips, *_),) = server.record("wg7")[1:]
    assert (key, allowed_ips) == (NEW, "10.8.0.3/32,fd08::2/128")
    assert endpoint in ("127.0.0.1:5", "[::1]:5")

    server.nvpn("peer", "rm", NEW, "--tunnel", "wg7.conf")
    assert server.record("wg7")[1:] == []
    assert file.read_text() == CONF
    server.nvpn("down", "wg7")
