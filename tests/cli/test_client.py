"""``nvpn client`` and ``nvpn peer add --from-pool``: whom the server has admitted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvpn.config.load import load
from nvpn.config.model import HostPort
from nvpn.errors import ControlError
from nvpn.model.keys import PrivateKey
from nvpn.model.prefixes import Interface, Prefix, parse_address
from tests.support.cli import here
from tests.support.played_server import PlayedServer, played_server

LAPTOP, PHONE, GUEST, SERVER = (
    PrivateKey(bytes([number]) * 32).public().base64 for number in (1, 2, 3, 4)
)


def client(name: str, key: str, **other: Any) -> dict[str, Any]:
    return {
        "name": name,
        "public_key": key,
        "origin": "joined",
        "host": None,
        "admitted_at": 1,
        "last_seen": None,
        "addresses": ["10.8.0.7/24"],
        "lease_seconds": 7200,
        "is_leased": True,
        "is_connected": True,
        "latest_handshake": int(time.time()) - 8000,
        "endpoint": "192.0.2.7:1",
        **other,
    }


def invitation(name: str, state: str) -> dict[str, Any]:
    return {
        "name": name,
        "public_key": GUEST,
        "made_at": 1,
        "expires_at": int(time.time()) + 8000,
        "uses": 2,
        "uses_left": 1,
        "state": state,
    }


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedServer]:
    with played_server(tmp_path, monkeypatch) as made:
        away = {
            "is_leased": False,
            "addresses": [],
            "latest_handshake": None,
            "is_connected": False,
        }
        made.answers["nvpn_clients"] = {
            "clients": [client("laptop", LAPTOP), client("phone", PHONE, **away)],
            "invitations": [invitation("guests", "open"), invitation("old", "used")],
        }
        made.answers["nvpn_client_revoke"] = {"name": "laptop", "public_key": LAPTOP}
        made.answers["nvpn_client_rename"] = {"name": "other", "public_key": LAPTOP}
        made.answers["nvpn_invitation_revoke"] = invitation("guests", "revoked")
        yield made


def test_names_alone_are_of_clients_and_those_without_one_have_their_key(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["nvpn_clients"]["clients"].append(client("", SERVER))
    done = here(capsys, "client", "list", "--names")

    assert (done.status, done.out) == (0, f"laptop\nphone\n{SERVER}\n")


def test_clients_and_open_invitations_are_listed(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "client", "list")

    assert done.status == 0
    rows = [row.split() for row in done.out.splitlines()]
    assert rows == [
        ["CLIENT", "ADDRESSES", "LEASE", "HANDSHAKE", "STATE", "KEY"],
        ["laptop", "10.8.0.7/24", "2", "h", "2", "h", "ago", "connected", LAPTOP],
        ["phone", "-", "-", "never", "away", PHONE],
        [],
        ["INVITATION", "LEFT", "USES", "STATE", "KEY"],
        ["guests", "2", "h", "1", "of", "2", "open", GUEST],
    ]


def test_a_phone_whose_addresses_are_not_to_be_had_is_not_only_away(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = {"origin": "static", "addresses": [], "lease_seconds": None}
    server.answers["nvpn_clients"] = {
        "clients": [
            client("phone", PHONE, **phone, is_leased=False),
            client("tablet", LAPTOP, **phone, is_leased=True, is_connected=False),
        ],
        "invitations": [],
    }
    _, lost, away = here(capsys, "client", "list").out.splitlines()

    assert lost.split() == ["phone", "-", "-", "2", "h", "ago", "no", "address", PHONE]
    assert away.split()[-2:] == ["away", LAPTOP]


def test_names_of_wide_letters_keep_the_columns_straight(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    clients = [client("笔记本电脑", LAPTOP), client("a" * 10, PHONE)]
    server.answers["nvpn_clients"] = {"clients": clients, "invitations": []}
    _, wide, narrow = here(capsys, "client", "list").out.splitlines()

    assert wide.index("10.8.0.7") + len("笔记本电脑") == narrow.index("10.8.0.7")


def test_a_client_that_has_left_is_not_connected_though_its_session_lives_on(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    left = client("laptop", LAPTOP, is_leased=False, addresses=[])
    server.answers["nvpn_clients"] = {"clients": [left], "invitations": []}
    row = here(capsys, "client", "list").out.splitlines()[1]

    assert " no lease " in row
    assert " connected " not in row


def test_a_client_is_not_renamed_to_nothing(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "client", "rename", "laptop", "")

    assert done.status == 1
    assert "the new name is empty" in done.err
    assert "nvpn_client_rename" not in {name for name, _ in server.asked}


def test_programs_get_all_of_it(server: PlayedServer, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(here(capsys, "client", "list", "--json").out)

    assert told["interface"] == "srv"
    assert [one["name"] for one in told["clients"]] == ["laptop", "phone"]
    assert [one["state"] for one in told["invitations"]] == ["open", "used"]


def test_a_server_without_clients_says_how_one_comes(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["nvpn_clients"] = {"clients": [], "invitations": []}

    assert "nvpn invite NAME" in here(capsys, "client", "list").out


def test_names_from_elsewhere_cannot_steer_a_terminal(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["nvpn_clients"] = {
        "clients": [client("a\x1b[2J", LAPTOP)],
        "invitations": [],
    }

    assert "\x1b" not in here(capsys, "client", "list").out


@pytest.mark.parametrize("called", ["laptop", LAPTOP, LAPTOP[:8]])
def test_a_client_is_revoked_by_its_name_or_its_key(
    called: str, server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "client", "revoke", called)

    assert (done.status, done.err) == (0, "the client laptop is revoked\n")
    assert server.asked_for("nvpn_client_revoke") == [("client", LAPTOP)]


def test_a_client_that_could_come_back_is_told_of(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"name": "laptop", "public_key": LAPTOP, "way_back": invitation("guests", "open")}
    server.answers["nvpn_client_revoke"] = answer
    done = here(capsys, "client", "revoke", "laptop")

    assert done.status == 0
    assert "the invitation guests, which is still open" in done.err
    assert done.err.endswith(f"nvpn client revoke {GUEST}\n")


def test_an_open_invitation_is_revoked_by_its_name(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "client", "revoke", "guests")

    assert (done.status, done.err) == (0, "the invitation guests is revoked\n")
    assert server.asked_for("nvpn_invitation_revoke") == [("invitation", GUEST)]


def test_an_invitation_of_the_same_name_goes_with_its_client(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["nvpn_clients"] = {
        "clients": [client("guests", LAPTOP)],
        "invitations": [invitation("guests", "open")],
    }
    assert here(capsys, "client", "revoke", "guests").status == 0

    assert server.asked_for("nvpn_client_revoke") == [("client", LAPTOP)]
    assert server.asked_for("nvpn_invitation_revoke") == [("invitation", GUEST)]


@pytest.mark.parametrize("called", ["nobody", LAPTOP[:7], "old"])
def test_nobody_is_revoked_by_a_name_that_nobody_has(
    called: str, server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "client", "revoke", called)

    assert done.status == 1
    assert "no such client" in done.err
    assert [name for name, _ in server.asked] == ["nvpn_invitations", "nvpn_clients"]


def test_a_client_is_renamed(server: PlayedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(capsys, "client", "rename", "laptop", "other one").status == 0

    assert server.asked_for("nvpn_client_rename") == [("old", LAPTOP), ("new", "other one")]


# --- a phone with stock WireGuard -------------------------------------------------------

LEASED: dict[str, Any] = {
    "name": "phone",
    "addresses": ["10.8.0.9/24", "fd42::9/64"],
    "server": SERVER,
    "endpoints": ["vpn.example:51820"],
    "routes": ["10.8.0.0/24", "fd42::/64"],
    "dns": ["10.8.0.1"],
    "search": ["corp.example"],
    "mtu": 1380,
}


def test_a_phone_gets_a_whole_configuration_and_keeps_its_key_to_itself(
    server: PlayedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.answers["nvpn_lease_peer"] = LEASED
    file = tmp_path / "phone.conf"
    done = here(capsys, "peer", "add", "phone", "--from-pool", "-o", str(file))

    assert (done.status, done.out, done.err) == (0, "", "")
    config = load(file)
    (peer,) = config.peers
    assert config.interface.addresses == tuple(
        map(Interface.parse, ("10.8.0.9/32", "fd42::9/128"))
    )
    assert config.interface.mtu == 1380
    assert config.interface.dns is not None
    assert config.interface.dns.servers == (parse_address("10.8.0.1"),)
    assert config.interface.dns.search == ("corp.example",)
    assert peer.public_key.base64 == SERVER
    assert peer.endpoint == HostPort("vpn.example", 51820)
    assert peer.allowed_ips == tuple(map(Prefix.parse, ("10.8.0.0/24", "fd42::/64")))
    assert config.interface.private_key is not None
    own = config.interface.private_key.public().base64
    assert server.asked_for("nvpn_lease_peer") == [("name", "phone"), ("public_key", own)]


def test_a_phone_may_be_led_through_the_server_whole(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["nvpn_lease_peer"] = {**LEASED, "endpoints": [], "dns": [], "search": []}
    done = here(
        capsys, "peer", "add", "phone", "--from-pool", "--all", "--endpoint", "192.0.2.1:7"
    )

    assert done.status == 0
    assert "AllowedIPs = 0.0.0.0/0, ::/0" in done.out
    assert "Endpoint = 192.0.2.1:7" in done.out
    assert "DNS" not in done.out


def test_a_phone_finds_the_server_at_the_port_that_it_listens_on(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["nvpn_lease_peer"] = LEASED
    done = here(capsys, "peer", "add", "phone", "--from-pool", "--endpoint", "vpn.example")

    assert done.status == 0
    assert "Endpoint = vpn.example:51820\n" in done.out


def test_a_phone_that_gets_no_configuration_is_no_client(
    server: PlayedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.answers["nvpn_lease_peer"] = {**LEASED, "endpoints": []}
    done = here(capsys, "peer", "add", "phone", "--from-pool")
    assert done.status == 1
    assert "--endpoint" in done.err
    ((_, key),) = server.asked_for("nvpn_client_revoke")
    assert ("public_key", key) in server.asked_for("nvpn_lease_peer")

    server.answers["nvpn_lease_peer"] = LEASED
    server.asked.clear()
    file = tmp_path / "phone.conf"
    file.write_text("something else")
    assert here(capsys, "peer", "add", "phone", "--from-pool", "-o", str(file)).status == 1
    ((_, key),) = server.asked_for("nvpn_client_revoke")
    assert ("public_key", key) in server.asked_for("nvpn_lease_peer")


def test_a_full_pool_is_told_in_the_servers_words(
    server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["nvpn_lease_peer"] = ControlError(28, "the pool 10.8.0.0/24 is exhausted")
    done = here(capsys, "peer", "add", "phone", "--from-pool")

    assert (done.status, done.err) == (1, "error: the pool 10.8.0.0/24 is exhausted\n")


@pytest.mark.parametrize(
    "option", [("--psk",), ("--public-key", LAPTOP), ("--allowed-ips", "10.8.0.9/32")]
)
def test_what_the_server_decides_cannot_be_given(
    option: tuple[str, ...], server: PlayedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "peer", "add", "phone", "--from-pool", *option)

    assert done.status == 2
    assert f"{option[0]} does not go with --from-pool" in done.err
    assert "nvpn_client_rename" not in {name for name, _ in server.asked}
