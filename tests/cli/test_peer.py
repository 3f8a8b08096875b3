"""Peers come and go in the file, and nothing else of it changes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from nvpn.cli.peer_actions import choose_file
from nvpn.config.load import load
from nvpn.errors import ConfigError
from tests.support.peer_files import BOB, NEW, OURS, TEXTS, TOML, Place


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
    done = place.peer("rm", "phone", "-i", str(place.file))

    assert (done.status, done.out, done.err) == (0, "", "")
    assert place.file.read_text() == before


def test_rm_takes_the_comments_above_and_leaves_the_others(toml: Place) -> None:
    assert toml.peer("rm", "bob", "-i", str(toml.file)).status == 0
    text = toml.file.read_text()
    assert "# our tunnel\n[interface]   # here\n" in text
    assert "Bob" not in text
    assert "since spring" not in text


@pytest.mark.parametrize("word", [BOB, BOB[:8]], ids=["key", "beginning"])
def test_rm_knows_a_peer_by_its_key(place: Place, word: str) -> None:
    assert place.peer("rm", word, "-i", str(place.file)).status == 0
    assert load(place.file).peers == ()


def test_rm_of_nobody_changes_nothing(place: Place) -> None:
    done = place.peer("rm", "carol", "-i", str(place.file))
    assert (done.status, done.err) == (
        1,
        f"error: {place.file}: there is no such peer; see: nvpn peer list -i {place.file}\n",
    )
    assert place.file.read_text() == TEXTS[place.file.name]


def test_rm_on_a_server_tells_where_its_clients_are(toml: Place) -> None:
    with toml.file.open("a") as file:
        file.write('\n[server]\npool = "10.8.0.0/24"\n')
    done = toml.peer("rm", "carol", "-i", str(toml.file))
    assert done.status == 1
    assert done.err.endswith(", and for those that the server has admitted: nvpn client list\n")


def test_on_a_server_the_peer_looks_where_clients_do(toml: Place) -> None:
    with toml.file.open("a") as file:
        file.write('\n[server]\npool = "10.8.0.0/24"\nendpoint = "vpn.example.net:443"\n')
    (us,) = toml.client("phone").peers
    assert str(us.endpoint) == "vpn.example.net:443"
    (us,) = toml.client("laptop", "--endpoint", "vpn.example.com").peers
    assert str(us.endpoint) == "vpn.example.com:51820"


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
    assert toml.peer("rm", "phone", "-i", str(toml.file)).status == 0
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

    done = place.peer("list", "-i", str(place.file))

    assert (done.status, done.err) == (0, "")
    rows = [line.split(maxsplit=3) for line in done.out.splitlines()]
    assert rows[0][0] == "PEER"
    assert [row[1:3] for row in rows[1:]] == [[BOB, "-"], [NEW, "-"]]
    assert rows[2][0] == "phone"
    assert rows[2][3] == "10.8.0.3/32, fd08::2/128"


def test_names_alone_are_listed_and_keys_of_those_without_one(place: Place) -> None:
    place.add("phone", "--public-key", NEW)

    done = place.peer("list", "--names", "--tunnel", str(place.file))  # the same as -i

    first = "bob" if place.file.suffix == ".toml" else BOB
    assert (done.status, done.out) == (0, f"{first}\nphone\n")


def test_list_speaks_json_and_tells_no_secret(place: Place) -> None:
    place.add("phone", "--public-key", NEW, "--psk", "-o", str(place.directory / "psk"))

    done = place.peer("list", "--json", "-i", str(place.file))

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
    with pytest.raises(ConfigError, match=r"several tunnels in .*: lab, wg0; say which: -i"):
        choose_file(None, searched=searched)
    assert choose_file("lab", searched=searched) == here / "lab.toml"
