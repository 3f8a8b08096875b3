from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.daemon.status import StatusParts
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import TunnelSnapshot
from tests.support.cli import NVPN, fake_daemon, here, key, nvpn, run, run_on_terminal
from tests.support.control_socket import RecordingBackend, RunningServer

LINES = [
    f"private_key={key(7)}",
    "listen_port=51820",
    "fwmark=51820",
    f"nvpn_public_key={key(8)}",
    "nvpn_mtu=1420",
    "nvpn_datapath=python (TSO)",
    "nvpn_datapath_reason=nothing else is built",
    "nvpn_drop=no-route 4",
]


def lines(peers: int = 1) -> list[str]:
    told = list(LINES)
    for number in range(1, peers + 1):
        told += [
            f"public_key={key(number)}",
            f"preshared_key={key(9)}",
            "endpoint=192.0.2.7:51820",
            f"last_handshake_time_sec={int(time.time()) - 5}",
            "last_handshake_time_nsec=0",
            "tx_bytes=1024",
            "rx_bytes=2048",
            "persistent_keepalive_interval=25",
            "allowed_ip=10.0.0.2/32",
            f"nvpn_name=laptop{number}",
            "nvpn_session_age=5250000000",
            "nvpn_handshake_attempts=0",
        ]
    return told


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def wg0(directory: Path) -> Iterator[str]:
    with fake_daemon(directory, "wg0", lines()):
        yield "wg0"


def is_table(text: str) -> bool:
    return text.startswith("╭─  wg0 ") and "laptop1" in text


def is_plain(text: str) -> bool:
    return text.startswith("interface: wg0\n  public key: ")


def on_terminal(*arguments: str, **variables: str) -> str:
    status, screen = run_on_terminal(*NVPN, "show", *arguments, **variables)
    assert status == 0
    return screen.decode().replace("\r\n", "\n")


def test_through_a_pipe_it_is_the_text_of_wg(wg0: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_plain(nvpn("show").out)
    for arguments in ((), ("wg0",), ("all",), ("--plain",), ("--plain", "wg0")):
        assert is_plain(here(capsys, "show", *arguments).out)


def test_on_a_terminal_it_is_a_table(wg0: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_table(on_terminal(NO_COLOR="1"))
    assert is_table(here(capsys, "show", "--table").out)
    assert is_table(here(capsys, "show", "-v", "wg0").out)
    assert is_table(here(capsys, "status", "--table", "wg0").out)


def test_on_a_terminal_wgs_arguments_get_wgs_text(wg0: str) -> None:
    assert on_terminal("wg0", "listen-port") == "51820\n"
    for arguments in (("wg0",), ("all",), ("--plain",)):
        assert is_plain(on_terminal(*arguments, WG_COLOR_MODE="never"))


def test_a_dumb_terminal_gets_text(wg0: str) -> None:
    assert is_plain(on_terminal(TERM="dumb"))


def test_colour_is_used_where_it_is_wanted(wg0: str) -> None:
    assert "\x1b[32m" in on_terminal()
    assert "\x1b" not in on_terminal(NO_COLOR="1")
    assert "\x1b[32m" in on_terminal("wg0")
    assert "\x1b" not in on_terminal("wg0", NO_COLOR="1")
    assert "\x1b" not in nvpn("show", "wg0", FORCE_COLOR="1").out
    assert "\x1b" not in nvpn("show", "--table").out
    assert "\x1b[32m" in nvpn("show", "--table", FORCE_COLOR="1").out


def test_only_colours_that_a_theme_defines_are_used(wg0: str) -> None:
    screen = on_terminal(COLORTERM="truecolor")
    assert "\x1b[38;" not in screen
    assert "\x1b[48;" not in screen
    for background in range(40, 48):
        assert f";{background}m" not in screen
        assert f"[{background}m" not in screen


def test_an_encoding_without_our_signs_is_borne(wg0: str) -> None:
    done = nvpn("show", "--table", PYTHONIOENCODING="ascii")
    assert (done.status, done.err) == (0, "")
    assert "laptop1" in done.out
    assert done.out.isascii()


def test_the_table_follows_the_width_of_the_terminal(wg0: str) -> None:
    for columns in (60, 100):
        status, screen = run_on_terminal(
            *NVPN, "show", columns=columns, NO_COLOR="1", TERM="vt100"
        )
        assert status == 0
        first = screen.decode().splitlines()[0]
        assert len(first) == columns


def test_more_than_fifty_peers_are_rows(directory: Path) -> None:
    with fake_daemon(directory, "wg0", lines(51)):
        screen = on_terminal()
        assert screen.splitlines()[1].split()[:2] == ["PEER", "ENDPOINT"]
    (directory / "wg0.sock").unlink()
    with fake_daemon(directory, "wg0", lines(50)):
        assert is_table(on_terminal(NO_COLOR="1"))


def test_json_has_everything_but_the_secrets(wg0: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = here(capsys, "show", "--json")
    assert done.status == 0
    (interface,) = json.loads(done.out)["interfaces"]
    (peer,) = interface.pop("peers")
    assert abs(interface.pop("up_since") - time.time()) < 60
    assert interface == {
        "name": "wg0",
        "public_key": PublicKey.from_hex(key(8)).base64,
        "listen_port": 51820,
        "fwmark": 51820,
        "mtu": 1420,
        "datapath": "python (TSO)",
        "datapath_reason": "nothing else is built",
        "drops": {"no-route": 4},
        "problems": [],
    }
    assert abs(peer.pop("latest_handshake") - time.time()) < 60
    assert peer == {
        "name": "laptop1",
        "public_key": PublicKey.from_hex(key(1)).base64,
        "has_preshared_key": True,
        "endpoint": "192.0.2.7:51820",
        "allowed_ips": ["10.0.0.2/32"],
        "session_age": 5.25,
        "handshake_attempts": 0,
        "rx_bytes": 2048,
        "tx_bytes": 1024,
        "filtered": 0,
        "persistent_keepalive": 25,
        "owner": None,
        "is_invitation": False,
        "health": "fresh",
        "problems": [],
    }
    for secret in (7, 9):
        assert PublicKey.from_hex(key(secret)).base64 not in done.out


def test_json_tells_invitations_from_clients(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = [
        line
        for number, name in ((1, "invitation tablet"), (2, "tablet"), (3, "invitation desk"))
        for line in (f"public_key={key(number)}", f"nvpn_name={name}", "nvpn_owner=lease")
    ]
    with fake_daemon(directory, "wg0", [*lines(0), *peers, "allowed_ip=10.0.0.2/32"]):
        (interface,) = json.loads(here(capsys, "show", "--json").out)["interfaces"]
    told = {one["name"]: one["is_invitation"] for one in interface["peers"]}
    # Somebody with an address is no invitation, whatever it is called.
    assert told == {"invitation tablet": True, "tablet": False, "invitation desk": False}


def test_json_has_what_the_daemon_tells_beside_and_under_names_of_its_own(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = StatusParts()
    parts.add("breakers", lambda: [{"name": "etcd", "state": "open"}])
    parts.add("peers", lambda: "not ours to tell")

    async def backend() -> RecordingBackend:
        return RecordingBackend(TunnelSnapshot("wg0", datapath="native"))

    with RunningServer("wg0", backend, operations={"nvpn_status": parts.answer}):
        (interface,) = json.loads(here(capsys, "show", "wg0", "--json").out)["interfaces"]
    assert interface["breakers"] == [{"name": "etcd", "state": "open"}]
    assert (interface["name"], interface["peers"]) == ("wg0", [])


def test_json_of_nothing_is_still_json(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(here(capsys, "show", "--json").out) == {"interfaces": []}


def test_without_tunnels_a_terminal_is_told_what_to_do(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_terminal().startswith("No tunnel is up. 'nvpn up FILE' brings one up")
    done = here(capsys, "show")
    assert (done.status, done.out, done.err) == (0, "", "")


def test_a_tunnel_that_is_not_there_is_told_with_those_that_are(
    wg0: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "show", "--table", "wg9")
    assert (done.status, done.out) == (1, "")
    assert done.err == "error: there is no tunnel wg9; running: wg0\n"


def test_one_tunnel_in_trouble_does_not_hide_the_others(
    wg0: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_daemon(directory, "wg1", [], errno=13):
        done = here(capsys, "show", "--table")
    assert done.status == 1
    assert is_table(done.out)
    assert done.err == "error: wg1: Permission denied\n"


def test_a_socket_that_is_not_for_us_is_told_as_wg_does(wg0: str, directory: Path) -> None:
    (directory / "wg0.sock").chmod(0)
    # Root may open everything, unless it gives that right away.
    mortal = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    done = run(*(mortal if os.geteuid() == 0 else ()), *NVPN, "show", "wg0")
    assert (done.status, done.err) == (1, "Unable to access interface: Permission denied\n")


def test_quick_forms_import_nothing_heavy(wg0: str) -> None:
    heavy = {"rich", "asyncio", "dataclasses", "inspect", "nacl", "cryptography", "numpy",
             "pyroute2", "uvloop", "importlib.metadata", "json"}  # fmt: skip
    for arguments in (["show"], ["show", "wg0", "dump"], ["show", "interfaces"]):
        code = (
            "import sys; from nvpn.cli.main import main; "
            f"main({arguments!r}); print(*sys.modules, file=sys.stderr)"
        )
        done = run(NVPN[0], "-S", "-c", code)
        assert done.out
        assert not heavy & set(done.err.split())


@pytest.mark.parametrize("option", ["--table", "--watch", "--json", "--plain"])
def test_a_full_disk_is_told_of_in_a_sentence(wg0: str, option: str) -> None:
    done = run("sh", "-c", f"{' '.join(NVPN)} show {option} >/dev/full")
    assert done.status == 1
    assert done.err == "error: cannot write to standard output: No space left on device\n"
