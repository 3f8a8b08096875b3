"""``nvpn show --watch``: the table again and again, with what is going on just now.

On a terminal it takes the whole screen, and gives it back as it was; through a pipe each
table follows the last one. Tunnels may come and go meanwhile.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from nvpn.cli.output import write_output, writing
from nvpn.cli.paint import is_terminal
from nvpn.cli.rates import Rates
from nvpn.cli.rows import format_rows
from nvpn.cli.status import ask_status
from nvpn.cli.table import draw_tunnel, open_console
from nvpn.control import client
from nvpn.control.records import TunnelRecord
from nvpn.errors import ControlError, PlatformError

DEFAULT_SECONDS: Final = 2.0
SHORTEST, LONGEST = 0.1, 3600.0

_QUIET: Final = "dim"


class View:
    """What one look at the tunnels comes to.

    Args:
        which: the interface, or ``all``.
        most_in_table: peers; a tunnel with more is drawn as rows.
        up_since: Unix seconds by interface, where it is known.
    """

    def __init__(
        self,
        which: str,
        *,
        verbose: bool,
        most_in_table: int,
        up_since: Callable[[list[TunnelRecord]], dict[str, int]],
    ) -> None:
        self._which = which
        self._verbose = verbose
        self._most_in_table = most_in_table
        self._up_since = up_since
        self._rates = Rates()

    def draw(self, width: int) -> RenderableType:
        """The tunnels as they are now, for so many columns.

        Raises:
            PlatformError: nobody can be asked.
        """
        tunnels = _look(self._which)
        self._rates.look(tunnels, time.monotonic())
        if not tunnels:
            nothing = "no tunnel is up" if self._which == "all" else f"{self._which} is not up"
            return Text(nothing, style=_QUIET)
        now, since = int(time.time()), self._up_since(tunnels)
        return Group(*(self._draw_tunnel(one, now, since, width) for one in tunnels))

    def _draw_tunnel(
        self, tunnel: TunnelRecord, now: int, since: dict[str, int], width: int
    ) -> RenderableType:
        rates = self._rates.of(tunnel)
        ask_status(tunnel)
        if len(tunnel.peers) > self._most_in_table:
            text = format_rows([tunnel], now, rates=rates)
            return Text(text, no_wrap=True, overflow="ignore")
        return draw_tunnel(
            tunnel,
            now,
            since=since.get(tunnel.name),
            verbose=self._verbose,
            width=width,
            rates=rates,
        )


def watch(view: View, seconds: float) -> int:
    """Draw every ``seconds`` until somebody ends it; that is how it is meant: status 0."""
    console = open_console()
    try:
        if is_terminal(sys.stdout) and not console.is_dumb_terminal:
            _watch_on_terminal(view, seconds, console)
        else:
            _watch_through_pipe(view, seconds, console)
    except KeyboardInterrupt:
        pass
    return 0


def _watch_on_terminal(view: View, seconds: float, console: Console) -> None:
    # The screen is given back whatever ends us.
    signal.signal(signal.SIGTERM, _leave)
    pace = _Pace(seconds)
    with _Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            clock = time.strftime("%H:%M:%S")
            head = Text(f"{clock}  every {seconds:g} s, {keyboard.hint} ends", style=_QUIET)
            live.update(Group(head, view.draw(console.width)), refresh=True)
            if keyboard.says_quit(pace.rest()):
                return


def _watch_through_pipe(view: View, seconds: float, console: Console) -> NoReturn:
    pace = _Pace(seconds)
    gap = ""
    while True:
        drawn = view.draw(console.width)
        with writing(), console.capture() as captured:
            console.print(drawn, crop=False)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        write_output(f"{gap}{stamp}\n{captured.get()}")
        gap = "\n"
        time.sleep(pace.rest())


class _Pace:
    """Every so many seconds, however long what is between takes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic()

    def rest(self) -> float:
        """Seconds until the next time."""
        now = time.monotonic()
        self._next = max(self._next + self._seconds, now)
        return self._next - now


class _Keyboard:
    """What is typed does not show on the screen, and ``q`` ends, as with top and less."""

    def __init__(self) -> None:
        self._terminal = sys.stdin.fileno() if is_terminal(sys.stdin) else -1

    @property
    def hint(self) -> str:
        """What to type."""
        return "Ctrl-C" if self._terminal < 0 else "q"

    def __enter__(self) -> _Keyboard:
        if self._terminal >= 0:
            self._before = termios.tcgetattr(self._terminal)
            quiet = termios.tcgetattr(self._terminal)
            quiet[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(self._terminal, termios.TCSANOW, quiet)
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal >= 0:
            # What was typed here was not meant for the shell.
            termios.tcsetattr(self._terminal, termios.TCSAFLUSH, self._before)

    def says_quit(self, seconds: float) -> bool:
        """Whether ``q`` is typed in that time; it passes if not."""
        end = time.monotonic() + seconds
        while self._terminal >= 0:
            rest = max(end - time.monotonic(), 0)
            if not select.select([self._terminal], [], [], rest)[0]:
                return False
            typed = os.read(self._terminal, 64)
            if b"q" in typed.lower():
                return True
            if not typed:
                self._terminal = -1  # it is gone
        time.sleep(max(end - time.monotonic(), 0))
        return False


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _look(which: str) -> list[TunnelRecord]:
    """Those that are up. Raises PlatformError."""
    tunnels = []
    for name in client.list_interfaces():
        if which in ("all", name):
            try:
                tunnels.append(client.get(name))
            except PlatformError as error:
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise
                # It went down just now.
            except ControlError:
                pass  # the same
    return tunnels
