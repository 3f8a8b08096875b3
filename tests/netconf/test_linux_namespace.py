"""Network namespaces: opened by name or path, entered by a thread that ends with its visit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.errors import PlatformError
from nvpn.netconf.linux_namespace import call_in, open_namespace
from tests.support.descriptors import descriptors

OWN = "/proc/thread-self/ns/net"


@pytest.fixture
def named() -> Iterator[str]:
    name = f"h5-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


@contextlib.contextmanager
def opened(text: str) -> Iterator[int]:
    descriptor = open_namespace(text)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_ours_is_opened_by_no_name_and_not_inherited() -> None:
    with opened("") as descriptor:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == os.readlink(OWN)
        assert not os.get_inheritable(descriptor)


@pytest.mark.parametrize(
    "text", ["nvpn-nowhere", "/nowhere", "/dev/null", "/proc/self/ns/uts", "."]
)
def test_what_is_no_network_namespace_is_refused(text: str) -> None:
    before = descriptors()

    with pytest.raises(PlatformError, match=f"cannot open network namespace {text}"):
        open_namespace(text)

    assert descriptors() == before


@pytest.mark.root
def test_a_call_happens_there_and_the_caller_stays_here(named: str) -> None:
    here, threads = os.readlink(OWN), set(threading.enumerate())

    for text in (named, f"/run/netns/{named}"):
        with opened(text) as namespace:
            there = call_in(namespace, lambda: os.readlink(OWN))
            links = call_in(namespace, lambda: Path("/proc/thread-self/net/dev").read_text())

            assert there == f"net:[{os.fstat(namespace).st_ino}]" != here
            assert "lo:" in links
            assert os.readlink(OWN) == here
            assert set(threading.enumerate()) <= threads


@pytest.mark.root
def test_what_a_call_raises_comes_back(named: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with opened(named) as namespace, pytest.raises(ZeroDivisionError):
        call_in(namespace, fail)


@pytest.mark.root
def test_a_program_started_there_runs_there(named: str) -> None:
    with opened(named) as namespace:
        show = ["readlink", "/proc/self/ns/net"]
        done = call_in(namespace, lambda: subprocess.check_output(show, text=True))
        assert done.strip() == f"net:[{os.fstat(namespace).st_ino}]"
