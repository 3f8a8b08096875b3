"""``nvpn events``: what happens in running tunnels, a line of JSON for each thing, as it happens.

The lines are the daemons'; only that a tunnel came up or went down is noticed, and told, here.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import selectors
import stat
import sys
import time

from nvpn.cli.output import standard_stream, write_complaint, write_output
from nvpn.cli.paint import is_terminal
from nvpn.cli.usage import print_error
from nvpn.control import client
from nvpn.control.follow import Following
from nvpn.control.paths import socket_path
from nvpn.errors import ControlError, PlatformError

_OPERATION = "nvpn_events"
_LOOK_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[INTERFACE …]."""
    parser.add_argument(
        "interfaces",
        nargs="*",
        metavar="INTERFACE",
        help="Only these, until the last of them goes down; else all, those too that come later",
    )


def run(args: argparse.Namespace) -> int:
    """Follow until Ctrl-C, which is how it is meant to end: 0.

    Raises:
        PlatformError, ControlError: one that was named cannot be followed.
    """
    with _Followers() as followers:
        try:
            if args.interfaces:
                followers.follow_named(args.interfaces)
            else:
                followers.follow_all()
        except KeyboardInterrupt:
            pass
    return 0


class _Followers:
    """All tunnels that are followed."""

    def __init__(self) -> None:
        self._followed: dict[str, Following] = {}
        self._selector = selectors.DefaultSelector()
        if standard_stream("stdout") is not None and stat.S_ISFIFO(os.fstat(1).st_mode):
            # A pipe's end for writing is ready to be read when nobody reads any more: what
            # is behind `| grep -m1` is to go on then, not with the next event.
            self._selector.register(1, selectors.EVENT_READ)
        # Who refused, and which socket that was: it is told once of each.
        self._deaf: dict[str, tuple[int, int] | None] = {}

    def __enter__(self) -> _Followers:
        return self

    def __exit__(self, *_: object) -> None:
        for following in self._followed.values():
            following.close()
        self._selector.close()

    def follow_named(self, names: list[str]) -> None:
        """Until the last one ends. Raises PlatformError, ControlError."""
        for name in dict.fromkeys(names):
            try:
                self._follow(name)
            except PlatformError as error:
                if error.errno == errno.ENODEV and name in client.list_interfaces():
                    sentence = f"{name} is the kernel's own, which tells of no events"
                    raise ControlError(errno.EOPNOTSUPP, sentence) from None
                raise
        while self._followed:
            self._pass_on(None)

    def follow_all(self) -> None:
        """For ever. Those that tell nothing are named once. Raises PlatformError."""
        self._look_around(is_first=True)
        if not self._followed and is_terminal(sys.stderr):
            write_complaint("No tunnel is up that tells of events; waiting for one.\n")
        look_at = time.monotonic() + _LOOK_SECONDS
        while True:
            self._pass_on(max(look_at - time.monotonic(), 0))
            if time.monotonic() >= look_at:
                self._look_around(is_first=False)
                look_at = time.monotonic() + _LOOK_SECONDS

    def _look_around(self, *, is_first: bool) -> None:
        names = set(client.list_interfaces())
        for name in sorted(names - self._followed.keys()):
            asked = _socket_of(name)
            if name in self._deaf and self._deaf[name] == asked:
                continue
            try:
                self._follow(name, is_new=not is_first)
            except PlatformError as error:
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise
                # The kernel's own, or it went down just now, perhaps to come up again.
            except ControlError as error:
                if _socket_of(name) != asked:
                    continue  # it went down as we asked, and has come up again, perhaps
                self._deaf[name] = asked
                print_error(f"{name} is not followed: {error}")

    def _follow(self, name: str, *, is_new: bool = False) -> None:
        """``is_new``: it has come up since we looked, and has told something, perhaps."""
        lines = ("from=start",) if is_new else ()
        following = self._followed[name] = Following(name, _OPERATION, *lines)
        self._selector.register(following, selectors.EVENT_READ, name)
        if is_new:
            _tell(name, "up")
        _write(following.read())

    def _pass_on(self, seconds: float | None) -> None:
        if not self._selector.get_map():
            # Not every selector waits when there is nothing to wait for.
            time.sleep(seconds or 0)
            return
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                raise BrokenPipeError
            following = self._followed[key.data]
            lines = following.read()
            _write(lines)
            if lines is None:
                self._selector.unregister(following)
                self._followed.pop(key.data).close()
                _tell(key.data, "down")


def _socket_of(name: str) -> tuple[int, int] | None:
    """What tells it from the socket of a daemon that comes later; None: there is none."""
    try:
        status = os.stat(socket_path(name))
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _write(lines: list[str] | None) -> None:
    if lines:
        write_output("".join(f"{line}\n" for line in lines))


def _tell(name: str, event: str) -> None:
    now = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    line = {"time": f"{moment}.{int(now % 1 * 1e6):06d}Z", "interface": name, "event": event}
    _write([json.dumps(line, separators=(",", ":"))])
