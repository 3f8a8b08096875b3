"""Who is asked where an interface may be a daemon's, the kernel's, or both."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nvpn.control import client, kernel
from nvpn.errors import PlatformError
from tests.support.control_socket import RecordingBackend, RunningServer
from tests.support.servers import NAME, running


class Kernel:
    """A kernel with interfaces of its own, which remembers what it was asked."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []

    def request(self, name: str, operation: str, lines: Sequence[str] = ()) -> list[str]:
        self.asked.append((name, operation, tuple(lines)))
        return ["listen_port=4711"] if operation == "get" else []


@pytest.fixture
def asked_kernel(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Has ``wg7``, and one that shares its name with a daemon of ours."""
    found = Kernel("wg7", NAME)
    monkeypatch.setattr(kernel, "list_kernel_interfaces", lambda: found.names)
    monkeypatch.setattr(kernel, "is_kernel_interface", lambda name: name in found.names)
    monkeypatch.setattr(kernel, "request", found.request)
    return found


@pytest.fixture
def recorded(asked_kernel: Kernel, backend: RecordingBackend) -> Iterator[RunningServer]:
    with running(backend) as server:
        yield server


def test_both_kinds_are_listed_the_kernel_s_first_and_none_twice(
    recorded: RunningServer, asked_kernel: Kernel
) -> None:
    assert client.list_interfaces() == ["wg7", NAME]


def test_the_kernel_answers_where_there_is_no_daemon(asked_kernel: Kernel) -> None:
    assert client.get("wg7").listen_port == 4711
    client.request("wg7", "set", ["listen_port=1"])
    assert asked_kernel.asked == [("wg7", "get", ()), ("wg7", "set", ("listen_port=1",))]


def test_a_daemon_is_preferred_to_the_kernel(
    recorded: RunningServer, asked_kernel: Kernel
) -> None:
    assert client.get(NAME).listen_port == 0
    assert asked_kernel.asked == []


def test_what_only_a_daemon_can_do_is_not_asked_of_the_kernel(asked_kernel: Kernel) -> None:
    with pytest.raises(PlatformError) as raised:
        client.request("wg7", "nvpn_reload")
    assert raised.value.errno == errno.ENODEV
    assert asked_kernel.asked == []


def test_what_neither_has_is_no_device(asked_kernel: Kernel) -> None:
    for name in ("wg8", "not/a/name"):
        with pytest.raises(PlatformError) as raised:
            client.get(name)
        assert raised.value.errno == errno.ENODEV
