"""Runs a piece of work in a process of its own, from which only its answer comes back.

What goes to the background afterwards must not have begun threads or an event loop.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from nvpn.errors import NvpnError, PlatformError, Refused, Unavailable

_KINDS: Final = {"refused": Refused, "unavailable": Unavailable, "failed": NvpnError}


def run_apart(work: Callable[[], Any]) -> Any:
    """What the work returns: anything that JSON can carry.

    Raises:
        Refused, Unavailable: as the work did, with its sentence.
        NvpnError: with that of any other of ours.
        PlatformError: no process could be started, or it ended without a word.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        raise PlatformError("start a process", errno=error.errno or 0) from None
    if child == 0:
        os.close(reading)
        _work(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            told = stream.read()
    finally:
        os.waitpid(child, 0)
    if not told:
        raise PlatformError("finish", hint="the process that was to do it has ended")
    kind, value = json.loads(told)
    if kind in _KINDS:
        raise _KINDS[kind](value)
    return value


def _work(work: Callable[[], Any], writing: int) -> NoReturn:
    try:
        answer = _answer(work)
        with os.fdopen(writing, "wb") as stream:
            stream.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


def _answer(work: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "done", work()
    except Refused as error:
        return "refused", str(error)
    except Unavailable as error:
        return "unavailable", str(error)
    except NvpnError as error:
        return "failed", str(error)
