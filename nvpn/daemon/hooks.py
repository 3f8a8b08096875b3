"""Runs the commands of a configuration, as a person would type them into a root shell.

The loop goes on meanwhile: a hook may ask the tunnel's own control socket. A hook is a
process group of its own, which is ended as a whole when its time is up or ours is; what it
leaves running in the background after its own end is the business of whoever wrote it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from nvpn.errors import PlatformError
from nvpn.netconf.linux_namespace import call_in

_log: Final = logging.getLogger(__name__)

SECONDS_AT_THE_END: Final = 60.0
"""How long a hook may hold up the end."""

_GRACE_SECONDS: Final = 2.0
"""Between SIGTERM and SIGKILL."""

_LAST_WORDS_SECONDS: Final = 0.2
"""How long the output of a hook that has ended is waited for: a child may hold it open."""

_LONGEST_LINE: Final = 4096
_CHUNK: Final = 1 << 14
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A command may hold a secret, and everybody may read a process's arguments, but only its user
# and root its environment.
_VARIABLE: Final = "NVPN_HOOK"
_RUN_VARIABLE: Final = f'hook=${_VARIABLE}; unset {_VARIABLE}; eval "$hook"'
# What whoever started us meant for us alone.
_OURS_ALONE: Final = frozenset({"WG_TUN_FD", "WG_UAPI_FD", "NOTIFY_SOCKET"})
_OURS_ALONE_PREFIXES: Final = ("LISTEN_", "WATCHDOG_")


async def run_hooks(
    kind: str,
    commands: Sequence[str],
    name: str,
    *,
    show: Callable[[str], None],
    limit: float | None,
    announce: Callable[[str], None] | None = None,
    first: int = 1,
    namespace: int = -1,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run commands one after the other, each to its end.

    Args:
        kind: what the file calls them, for messages: ``PreUp``.
        commands: for bash, with ``%i`` for the interface.
        show: gets every line that they write.
        limit: seconds that each may take; None for no end.
        announce: gets every command before it runs, which may hold secrets; None: ``show``.
        first: what number the first one has, for messages.
        namespace: descriptor of the network namespace to run them in; -1 for ours.
        variables: what their environment has beside ours; for what others chose, which a
            command line is no place for.

    Raises:
        PlatformError: which hook failed, its exit status, the last line it wrote.
    """
    for number, command in enumerate(commands, first):
        text = command.replace("%i", name)
        (announce or show)(f"[#] {text}")
        _log.info("%s hook %d", kind, number)
        hook = _Hook(f"run {kind} hook {number} of {name}", show)
        hook.start(text, namespace, variables or {})
        await hook.finish(limit)


class _Hook:
    """One command, from its start to its end."""

    def __init__(self, operation: str, show: Callable[[str], None]) -> None:
        self._operation = operation
        self._show = show
        self._loop = asyncio.get_running_loop()
        self._unfinished = bytearray()
        self._last_line = ""
        self._closed = asyncio.Event()

    def start(self, command: str, namespace: int, variables: Mapping[str, str]) -> None:
        """Raises PlatformError: no shell, no more processes, or descriptors."""
        shell = _find_shell()
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise PlatformError(self._operation, errno=error.errno or 0) from None

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [shell, "-c", _RUN_VARIABLE],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd="/",
                env={**_environment(os.environ), **variables, _VARIABLE: command},
                umask=0o022,
                start_new_session=True,
            )

        try:
            self._process = start() if namespace < 0 else call_in(namespace, start)
        except OSError as error:
            os.close(reading)
            raise PlatformError(self._operation, errno=error.errno or 0) from None
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        self._output = reading
        self._loop.add_reader(reading, self._read)

    async def finish(self, limit: float | None) -> None:
        """Wait for the end; cancelled, or after ``limit`` seconds, bring it about.

        Raises:
            PlatformError: it failed, or took too long.
        """
        try:
            held = os.pidfd_open(self._process.pid)
        except OSError as error:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._stop_reading()
            raise PlatformError(self._operation, errno=error.errno or 0) from None
        ended = asyncio.Event()
        self._loop.add_reader(held, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), limit)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _LAST_WORDS_SECONDS)
        except asyncio.TimeoutError:
            await self._end(ended)
            raise PlatformError(
                self._operation, hint=f"it has not ended after {limit:g} seconds"
            ) from None
        except asyncio.CancelledError:
            await self._end(ended)
            raise
        finally:
            self._loop.remove_reader(held)
            os.close(held)
        # Its output is read on: what it left in the background may still have to say
        # something, and would die of a pipe without a reader.
        self._judge(self._process.wait())

    async def _end(self, ended: asyncio.Event) -> None:
        """End the whole group: a shell alone would leave its command behind."""
        self._signal(signal.SIGTERM)
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended.wait(), _GRACE_SECONDS)
        finally:
            # Whatever of the group is left, even if its first process has ended.
            self._signal(signal.SIGKILL)
            self._stop_reading()
        await ended.wait()
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _judge(self, status: int) -> None:
        if not status:
            return
        told = f"exit status {status}" if status > 0 else signal.Signals(-status).name
        raise PlatformError(f"{self._operation}: {told}", hint=self._last_line)

    # --- output -------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._stop_reading()
            return
        *lines, rest = (bytes(self._unfinished) + data).split(b"\n")
        for line in lines:
            self._tell(line)
        # A hook that never ends its line must not fill our memory.
        while len(rest) > _LONGEST_LINE:
            self._tell(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._unfinished[:] = rest

    def _stop_reading(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._loop.remove_reader(self._output)
        os.close(self._output)
        if self._unfinished:
            self._tell(bytes(self._unfinished))

    def _tell(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if text:
            self._last_line = text
        self._show(text)


def _find_shell() -> str:
    path = os.environ.get("PATH") or _PATH
    if shell := shutil.which("bash", path=path):
        return shell
    _log.warning("hooks are written for bash, which is missing; sh runs them")
    return shutil.which("sh", path=path) or "/bin/sh"


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Ours, where nvpn's own directories may be moved, too: a hook may call nvpn."""
    kept = {
        name: value
        for name, value in ours.items()
        if name not in _OURS_ALONE and not name.startswith(_OURS_ALONE_PREFIXES)
    }
    kept.setdefault("PATH", _PATH)
    return kept
