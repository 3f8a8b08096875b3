"""Who can see the memory of a daemon."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable

import pytest

from nvpn.daemon.secrecy import keep_memory_private

NOBODY = 65_534
_PR_SET_DUMPABLE = 4


def in_child(work: Callable[[], bool]) -> bool:
    """Run the work as an ordinary user in a process of its own."""
    child = os.fork()
    if not child:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def may_read_memory_of(process: int) -> bool:
    def read() -> bool:
        try:
            os.close(os.open(f"/proc/{process}/mem", os.O_RDONLY))
        except PermissionError:
            return False
        return True

    return in_child(read)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become two ordinary processes")
@pytest.mark.parametrize("private", [False, True])
def test_another_process_of_the_same_user_cannot_read_the_keys(private: bool) -> None:
    child = os.fork()
    if not child:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as a program that began so
            if private:
                keep_memory_private()
            os.kill(os.getpid(), signal.SIGSTOP)  # until the test is done
        finally:
            os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        assert may_read_memory_of(child) is not private
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_there_is_no_core_file() -> None:
    child = os.fork()
    if not child:
        keep_memory_private()
        os._exit(0 if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
