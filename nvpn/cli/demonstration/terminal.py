"""The telling for terminals: ticks, a spinner while we wait, bars while bytes flow."""

from __future__ import annotations

from types import TracebackType
from typing import Final

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from nvpn.cli.demonstration.view import CLOSING, TITLE, Event, describe, format_rate
from nvpn.cli.table import draw_tunnel, open_console
from nvpn.control.records import TunnelRecord

_NEXT: Final = {
    "hosts": "making keys",
    "keys": "nvpn up wg0.toml on both",
    "up": "ping",
    "ping": "ping",
    "transfer": "transfer",
    "status": "taking both down",
}
"""What comes after an event, to be shown while we wait for it."""


class TerminalView:
    """A line for each thing done, and below a live one for what is going on."""

    def __init__(self, seconds: float) -> None:
        self._console = open_console()
        self._live = Live(
            console=self._console, refresh_per_second=12, transient=True, redirect_stderr=False
        )
        self._seconds = seconds

    def __enter__(self) -> TerminalView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def begin(self) -> None:
        """Print the title and start to spin."""
        self._console.print(Text(TITLE, style="bold"))
        self._console.print()
        self._live.start()
        self._wait_for("making two hosts")

    def tell(self, event: Event) -> None:
        """Tick off what is done, or move the bar."""
        if event["kind"] == "progress":
            self._live.update(self._bar(event))
            return
        sentence = describe(event)
        if not sentence:
            return
        failed = event["kind"] == "ping" and not any(event["answers"])
        self._live.update(Text())
        mark = Text("✗ ", style="bold red") if failed else Text("✓ ", style="bold green")
        self._console.print(Text.assemble(mark, sentence))
        if event["kind"] in _NEXT:
            self._wait_for(_NEXT[event["kind"]])

    def show(self, host: str, tunnel: TunnelRecord, now: int) -> None:
        """The table of `nvpn show`."""
        self._live.update(Text())
        self._console.print()
        self._console.print(Text.assemble(("nvpn show", "bold"), f" on {host}:"))
        self._console.print(draw_tunnel(tunnel, now, width=self._console.width))
        if host != "alice":
            self._console.print()
        self._wait_for(_NEXT["status"])

    def end(self, *, happy: bool) -> None:
        """Stop the live line and say where to go from here."""
        self._live.stop()
        if happy:
            self._console.print()
            self._console.print(Text(CLOSING))

    def _wait_for(self, what: str) -> None:
        self._live.update(Spinner("dots", text=Text(f"{what} …", style="dim")))

    def _bar(self, event: Event) -> Table:
        sender, receiver = event["towards"]
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(
            Text("▸", style="bold cyan"),
            Text(f"{sender} to {receiver}"),
            ProgressBar(
                total=self._seconds,
                completed=event["seconds"],
                width=28,
                complete_style="cyan",
                finished_style="green",
            ),
            Text(format_rate(event["bytes"], event["seconds"]), style="bold"),
        )
        return line
