"""systemd-resolved over a bus that is real, absent, or silent. (With names: tests/daemon.)"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.netconf import resolved
from nvpn.netconf.api import Link
from nvpn.netconf.dns import WriterAbsentError
from nvpn.netconf.resolved import ResolvedWriter

LOOPBACK = Link(1, "lo", 65536, True)
WANTED = NameServers((bytes([10, 0, 0, 1]),), ("inside.test",))

BUS = """
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=%s</listen>
  <policy context="default">
    <allow user="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@contextmanager
def silent_bus(path: Path, *answers: bytes) -> Iterator[None]:
    """Accepts, gives one answer to each of the first requests, and then says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # Whoever asks may have heard enough.
            with connection, contextlib.suppress(ConnectionError):
                for answer in answers:
                    while (asked := connection.recv(4096)) and b"\r\n" not in asked:
                        pass
                    connection.sendall(answer)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the system's bus is for this test."""
    path = tmp_path / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    return path


def test_no_bus_is_absent(bus: Path) -> None:
    with pytest.raises(WriterAbsentError, match="there is no system bus"):
        ResolvedWriter().set(LOOPBACK, WANTED)


def test_a_bus_that_nobody_serves_any_more_is_absent(bus: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(bus))
    with pytest.raises(WriterAbsentError, match="there is no system bus"):
        ResolvedWriter().set(LOOPBACK, WANTED)


@pytest.mark.parametrize("address", ["tcp:host=127.0.0.1,port=1", "nonsense", "unix:"])
def test_an_address_that_is_no_unix_socket_is_absent(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    with pytest.raises(WriterAbsentError, match="names no unix socket"):
        ResolvedWriter().set(LOOPBACK, WANTED)


@pytest.mark.parametrize(
    "answers",
    [(), (b"OK 1234deadbeef\r\n",)],
    ids=["before it lets us in", "after it let us in"],
)
def test_a_bus_that_hangs_is_given_up(
    bus: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(resolved, "_SECONDS", 0.2)
    with silent_bus(bus, *answers), pytest.raises(PlatformError) as caught:
        ResolvedWriter().set(LOOPBACK, WANTED)
    assert not isinstance(caught.value, WriterAbsentError)
    assert str(caught.value) == (
        "cannot set name servers by systemd-resolved;"
        " the system bus did not answer within 0.2 seconds"
    )


def test_a_bus_that_refuses_us_says_so(bus: Path) -> None:
    with (
        silent_bus(bus, b"REJECTED EXTERNAL\r\n"),
        pytest.raises(PlatformError, match="the system bus does not let us in"),
    ):
        ResolvedWriter().set(LOOPBACK, WANTED)


@pytest.mark.parametrize(
    "answers",
    [
        (b"HTTP/1.1 400 Bad Request\r\n",),
        (b"\xff\xfe\r\n",),
        (b"OK 1234deadbeef\r\n", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"),
        (b"OK 1234deadbeef\r\n", b"l\x02\x01\x01" + bytes(11) + b"\xff" + b"\xff" * 64),
    ],
)
def test_what_is_no_bus_is_refused_whatever_it_says(
    bus: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(resolved, "_SECONDS", 0.3)
    with silent_bus(bus, *answers), pytest.raises(PlatformError):
        ResolvedWriter().set(LOOPBACK, WANTED)


@pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon")
def test_a_real_bus_without_resolved_is_absent(bus: Path, tmp_path: Path) -> None:
    configuration = tmp_path / "bus.conf"
    configuration.write_text(BUS % bus)
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline()
        with pytest.raises(
            WriterAbsentError, match=r"it says: The name org\.freedesktop\.resolve1"
        ):
            ResolvedWriter().set(LOOPBACK, WANTED)
    finally:
        daemon.terminate()
        daemon.wait(30)
        assert daemon.stdout is not None
        daemon.stdout.close()


def test_a_link_that_is_gone_needs_no_bus(bus: Path) -> None:
    with pytest.raises(OSError):
        socket.if_indextoname(999_999)
    ResolvedWriter().unset(Link(999_999, "gone", 1420, False))
    assert not os.path.exists(bus)
