from __future__ import annotations

import errno
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.control import client
from nvpn.control.paths import socket_path, state_path
from nvpn.errors import ControlError, PlatformError


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "wireguard"
    path.mkdir()
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(path))
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path / "state"))
    return path


class CannedDaemon:
    """Listens, and answers each connection with the same bytes, after it was asked."""

    def __init__(self, name: str, answer: bytes | None) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(socket_path(name))
        self._listener.listen()
        self._answer = answer
        self._held: list[socket.socket] = []
        self.asked: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._answer is None:
                self._held.append(connection)
                continue
            with connection:
                asked = b""
                while not asked.endswith(b"\n\n") and (chunk := connection.recv(65536)):
                    asked += chunk
                if asked:
                    self.asked.append(asked)
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        for connection in self._held:
            connection.close()


@pytest.fixture
def canned(request: pytest.FixtureRequest) -> Iterator[CannedDaemon]:
    daemon = CannedDaemon("wg0", request.param)
    yield daemon
    daemon.close()


def test_only_sockets_that_answer_are_interfaces(directory: Path) -> None:
    daemon = CannedDaemon("wg0", b"errno=0\n\n")
    (directory / "file.sock").write_text("")
    (directory / "wg1").write_text("")
    (directory / "a name with spaces.sock").write_text("")
    stale = directory / "wg2.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    assert client.list_interfaces() == ["wg0"]
    assert not stale.exists()
    assert (directory / "file.sock").exists()
    assert client.is_running("wg0")
    assert not client.is_running("wg2")
    daemon.close()


def test_no_directory_means_no_interfaces(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(directory / "missing"))
    assert client.list_interfaces() == []
    assert not client.is_running("wg0")


@pytest.mark.parametrize("name", ["wg0", "../wg0", "", "x" * 16, "a/b"])
def test_an_interface_that_is_not_there_is_told_as_wg_does(name: str) -> None:
    for call in (client.get, client.daemon_pid):
        with pytest.raises(PlatformError) as refused:
            call(name)
        assert refused.value.errno == errno.ENODEV
        assert "No such device" in str(refused.value)


@pytest.mark.parametrize("canned", [b"errno=0\n\n"], indirect=True)
def test_a_request_is_sent_as_the_specification_has_it(canned: CannedDaemon) -> None:
    assert client.request("wg0", "set", ["listen_port=7", "fwmark=0"]) == []
    assert client.request("wg0", "get") == []
    assert canned.asked == [b"set=1\nlisten_port=7\nfwmark=0\n\n", b"get=1\n\n"]
    with pytest.raises(ValueError, match="no line end"):
        client.request("wg0", "set", ["listen_port=7\nfwmark=0"])


@pytest.mark.parametrize(
    ("canned", "number", "text"),
    [
        (b"errno=-98\n\n", errno.EADDRINUSE, "Address already in use"),
        (b"errno=98\n\n", errno.EADDRINUSE, "Address already in use"),
        (b"nvpn_message=one\nnvpn_message=two\nerrno=-22\n\n", errno.EINVAL, "one\ntwo"),
        (b"", errno.EPROTO, "does not know the request get"),
        (b"listen_port=7\n", errno.EIO, "in the middle of its answer"),
        (b"errno=x\n\n", errno.EPROTO, "answered nonsense"),
        (b"listen_port\nerrno=0\n\n", errno.EPROTO, "answered nonsense"),
    ],
    indirect=["canned"],
)
def test_every_refusal_says_what_the_daemon_meant(
    canned: CannedDaemon, number: int, text: str
) -> None:
    with pytest.raises(ControlError) as refused:
        client.get("wg0")
    assert refused.value.errno == number
    assert text in str(refused.value)


@pytest.mark.parametrize("canned", [None], indirect=True)
def test_a_daemon_that_hangs_is_not_waited_for_for_ever(canned: CannedDaemon) -> None:
    with pytest.raises(ControlError, match=r"did not answer in 0\.05 seconds") as refused:
        client.get("wg0", timeout=0.05)
    assert refused.value.errno == errno.ETIMEDOUT


def test_the_client_imports_nothing_heavy() -> None:
    """`nvpn show` has 60 ms for everything."""
    program = "import sys, nvpn.control.client; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(client.__file__).parents[2])},
    ).stdout.split()
    heavy = {"asyncio", "dataclasses", "inspect", "typing", "re", "nacl", "cryptography", "numpy"}
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_what_is_no_name_leads_nowhere(name: str) -> None:
    for path in (socket_path, state_path):
        with pytest.raises(ValueError, match="interface name"):
            path(name)


def test_paths_follow_the_environment(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert socket_path("wg0") == str(directory / "wg0.sock")
    assert state_path("wg0") == str(tmp_path / "state" / "wg0.json")
    monkeypatch.delenv("NVPN_RUNTIME_DIR")
    monkeypatch.setenv("NVPN_STATE_DIR", "")
    assert socket_path("wg0") == "/var/run/wireguard/wg0.sock"
    assert state_path("wg0") == "/var/lib/nvpn/wg0.json"
