"""Runs a test in a network namespace of its own that vanishes by itself."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


def on_a_thread(call: Callable[[], T]) -> T:
    """What the call returns or raises, made on a thread that may go where it likes."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def in_new_namespace(test: Callable[..., Any]) -> Callable[..., Any]:
    """The test, run in a thread that has a network namespace to itself.

    It needs root and /dev/net/tun, and is skipped without. Child processes of the thread
    are born in its namespace.
    """

    @functools.wraps(test)
    def wrapped(*arguments: Any, **options: Any) -> None:
        def run() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            test(*arguments, **options)

        on_a_thread(run)

    why = "" if os.geteuid() == 0 and Path("/dev/net/tun").exists() else "needs root and TUN"
    return pytest.mark.root(pytest.mark.skipif(bool(why), reason=why)(wrapped))
