"""Keeps the state file of a running tunnel up to date, without slowing the tunnel.

Changes are collected and written by a thread, at most once a second, and once more at the
end. A disk that is full or read-only costs one warning: the tunnel does not depend on it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from nvpn.daemon.memory import PeerMemory, TunnelMemory, write_memory
from nvpn.daemon.threads import run_in_thread
from nvpn.daemon.timestamps import ReservedTimestamps
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind

_log: Final = logging.getLogger(__name__)

_FIRST_DELAY: Final = 0.05
_INTERVAL: Final = 1.0
_WRITING_SHARE: Final = 0.05
"""Of the time, at most, that writing takes: a slow disk or 10,000 peers write less often."""

_LAST_WRITE_SECONDS: Final = 0.5


class StateKeeper:
    """Collects what is worth remembering.

    Args:
        path: of the state file.
        memory: what it held at the start.
        spawn: starts a background task of the daemon.
        is_known: whether a peer is still configured; others are forgotten.
        remembers_peers: False for a device that others configure: then timestamps alone.
    """

    def __init__(
        self,
        path: str,
        memory: TunnelMemory,
        *,
        loop: asyncio.AbstractEventLoop,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        is_known: Callable[[PublicKey], bool],
        remembers_peers: bool = True,
    ) -> None:
        self._path = path
        self._loop = loop
        self._spawn = spawn
        self._is_known = is_known
        self._remembers_peers = remembers_peers
        self._peers = dict(memory.peers) if remembers_peers else {}
        self._listen_port = memory.listen_port if remembers_peers else 0
        self._reservation = memory.timestamp
        self.timestamps = ReservedTimestamps(
            memory.timestamp, save_now=self._reserve_now, save_soon=self._reserve_soon
        )
        self._timer: asyncio.TimerHandle | None = None
        self._has_changed = False
        self._pause = _FIRST_DELAY
        self._last_written_at = float("-inf")
        self._disk = threading.Lock()
        self._version = 0
        self._version_on_disk = 0
        self._has_complained = False
        self._closed = False

    def remember(self, notice: Notice) -> None:
        """Something happened to a peer."""
        if not self._remembers_peers or self._closed:
            return
        known = self._peers.get(notice.peer, PeerMemory())
        if notice.endpoint is not None:
            known = known._replace(endpoint=notice.endpoint)
        if notice.kind is NoticeKind.HANDSHAKE_COMPLETED:
            known = known._replace(last_handshake=notice.wall)
        elif notice.kind is not NoticeKind.ROAMED:
            return
        self._peers[notice.peer] = known
        self._save_soon()

    def remember_port(self, port: int) -> None:
        """The listen port that the kernel chose; 0 when the configuration does."""
        if self._remembers_peers and port != self._listen_port:
            self._listen_port = port
            self._save_soon()

    def close(self) -> None:
        """Write once more, with the exact last timestamp; wait for it half a second at most."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        last = self.timestamps.last
        if last is None and not self._peers and not self._listen_port:
            return
        self._reservation = last
        memory, version = self._collect()
        writer = threading.Thread(
            target=self._try_write, args=(memory, version), name="state", daemon=True
        )
        writer.start()
        writer.join(_LAST_WRITE_SECONDS)
        if writer.is_alive():
            _log.warning("the state file is not written: the disk does not answer")

    # --- timestamps ---------------------------------------------------------------------

    def _reserve_now(self, bound: bytes) -> None:
        self._reservation = max(self._reservation or b"", bound)
        self._write_or_complain()

    def _reserve_soon(self, bound: bytes) -> None:
        self._reservation = max(self._reservation or b"", bound)
        self._save_soon()

    # --- writing ------------------------------------------------------------------------

    def _save_soon(self) -> None:
        self._has_changed = True
        if self._timer is None and not self._closed:
            wait = max(self._pause, self._last_written_at + _INTERVAL - time.monotonic())
            self._timer = self._loop.call_later(wait, self._start_saving)

    def _start_saving(self) -> None:
        self._spawn(self._save())

    async def _save(self) -> None:
        self._has_changed = False
        memory, version = self._collect()
        begun = time.monotonic()
        problem = await run_in_thread(lambda: self._try_write(memory, version), name="state")
        self._last_written_at = time.monotonic()
        self._pause = max(_FIRST_DELAY, (self._last_written_at - begun) / _WRITING_SHARE)
        self._timer = None
        self._judge(problem, memory)
        if self._has_changed:  # while that was written
            self._save_soon()

    def _write_or_complain(self) -> None:
        memory, version = self._collect()
        self._judge(self._try_write(memory, version), memory)

    def _collect(self) -> tuple[TunnelMemory, int]:
        self._version += 1
        for peer in [peer for peer in self._peers if not self._is_known(peer)]:
            del self._peers[peer]
        memory = TunnelMemory(self._reservation, self._listen_port, dict(self._peers))
        return memory, self._version

    def _try_write(self, memory: TunnelMemory, version: int) -> str:
        with self._disk:
            if version < self._version_on_disk:
                return ""  # a later one overtook us
            try:
                write_memory(self._path, memory)
            except OSError as error:
                return os.strerror(error.errno or 0)
            self._version_on_disk = version
        return ""

    def _judge(self, problem: str, memory: TunnelMemory) -> None:
        if problem:
            if not self._has_complained:
                _log.warning(
                    "cannot write %s: %s; the tunnel goes on, but after a crash peers may need"
                    " longer to come back",
                    self._path,
                    problem,
                )
            self._has_complained = True
            return
        self._has_complained = False
        if memory.timestamp is not None:
            self.timestamps.is_reserved(memory.timestamp)
