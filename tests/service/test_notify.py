"""What a service manager is told about a tunnel in front."""

from __future__ import annotations

import signal
import time
import uuid
from pathlib import Path

import pytest

from nvpn.daemon.background import FrontReporter
from nvpn.daemon.notify import NotifyReporter, front_reporter
from tests.support.machines import Machine
from tests.support.notify_socket import NotifySocket

CONFIG = """
[interface]
private_key = "PRIVATE"
address = "10.9.0.1/24"
"""


def test_without_a_manager_nobody_is_told() -> None:
    assert isinstance(front_reporter({}), FrontReporter)
    assert isinstance(front_reporter({"NOTIFY_SOCKET": ""}), FrontReporter)
    assert isinstance(front_reporter({"NOTIFY_SOCKET": "vsock:2:1234"}), FrontReporter)


def test_commands_that_we_run_do_not_get_the_socket(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PATH": "/bin"}
    assert isinstance(front_reporter(environment), NotifyReporter)
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_life_is_told_in_the_words_of_sd_notify(kind: str, tmp_path: Path) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@nvpn-{uuid.uuid4()}"
    with NotifySocket(address) as ear:
        reporter = front_reporter({"NOTIFY_SOCKET": address})
        reporter.ready()
        before = time.monotonic_ns() // 1000
        reporter.reloading()
        reporter.ready()
        reporter.stopping()

        first, reloading, second, stopping = ear.rest()

    assert first == second == {"READY": "1", "STATUS": "up"}
    since = int(reloading.pop("MONOTONIC_USEC"))
    assert before <= since <= time.monotonic_ns() // 1000
    assert reloading == {"RELOADING": "1", "STATUS": "reloading"}
    assert stopping == {"STOPPING": "1", "STATUS": "going down"}


def test_warnings_stay_in_the_status_of_the_start_and_are_one_line(tmp_path: Path) -> None:
    with NotifySocket(str(tmp_path / "notify")) as ear:
        reporter = NotifyReporter(ear.address)
        reporter.warn("no name servers\nREADY=1")
        reporter.ready()
        reporter.reloading()
        reporter.ready()

        warned, ready, _, again = ear.rest()

    assert warned == {"STATUS": "starting; no name servers READY=1"}
    assert ready == {"READY": "1", "STATUS": "up; no name servers READY=1"}
    assert again == {"READY": "1", "STATUS": "up"}


def test_what_hooks_print_goes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with NotifySocket(str(tmp_path / "notify")) as ear:
        NotifyReporter(ear.address).show("[#] true")
        assert ear.rest() == []
    assert capsys.readouterr().err == "[#] true\n"


def test_a_manager_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    nobody = NotifyReporter(str(tmp_path / "nobody"))
    nobody.ready()

    ear = NotifySocket(str(tmp_path / "notify"))
    reporter = NotifyReporter(ear.address)
    ear.close()
    reporter.ready()
    reporter.stopping()


def test_a_manager_that_does_not_listen_makes_nobody_wait(tmp_path: Path) -> None:
    with NotifySocket(str(tmp_path / "notify")) as ear:
        reporter = NotifyReporter(ear.address)
        for _ in range(10_000):  # far more than a socket's queue holds
            reporter.reloading()
        assert 0 < len(ear.rest()) < 10_000


@pytest.mark.parametrize("address", ["@", "/" + "x" * 200, "/\0"])
def test_an_address_that_cannot_be_is_nobodys(address: str) -> None:
    NotifyReporter(address).ready()


@pytest.mark.root
def test_a_tunnel_in_front_tells_when_it_is_ready_reloads_and_ends(
    machine: Machine, tmp_path: Path
) -> None:
    machine.write(CONFIG)
    with NotifySocket(str(tmp_path / "notify")) as ear:
        machine.environment["NOTIFY_SOCKET"] = ear.address
        tunnel = machine.start("up", "-f", "wg0.toml")
        assert ear.next()["READY"] == "1"
        assert machine.addresses() == {"10.9.0.1/24"}

        machine.nvpn("reload", "wg0")
        assert [message.get("RELOADING") for message in (ear.next(), ear.next())] == ["1", None]

        machine.write("nonsense")
        machine.nvpn("reload", "wg0", status=1)
        assert "RELOADING" in ear.next()
        assert ear.next()["READY"] == "1"

        tunnel.send_signal(signal.SIGTERM)
        assert ear.next()["STOPPING"] == "1"
        assert tunnel.wait(30) == 0
        assert ear.rest() == []
