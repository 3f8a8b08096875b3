"""How the demonstration is told: what each event means in words, and the plain telling."""

from __future__ import annotations

from typing import Any, Protocol

from nvpn.cli.health import short_bytes
from nvpn.cli.output import write_output
from nvpn.cli.text import format_tunnel
from nvpn.control.records import TunnelRecord

Event = dict[str, Any]

TITLE = "nvpn demo: two hosts on this machine alone, and a tunnel between them"
CLOSING = (
    "On two real hosts: a wg0.toml on each ('man nvpn.toml' tells how), then 'nvpn up wg0.toml'."
)


class View(Protocol):
    """Somebody who tells the user."""

    def begin(self) -> None:
        """Before anything happens."""

    def tell(self, event: Event) -> None:
        """Something happened."""

    def show(self, host: str, tunnel: TunnelRecord, now: int) -> None:
        """The status of the tunnel on a host."""

    def end(self, *, happy: bool) -> None:
        """It is over, or was given up; the terminal must be as it was."""


class PlainView:
    """Lines, for pipes and logs."""

    def begin(self) -> None:
        """Print the title."""
        write_output(f"{TITLE}\n")

    def tell(self, event: Event) -> None:
        """Print a line for each thing that is done."""
        sentence = describe(event)
        if sentence:
            write_output(f"- {sentence}\n")

    def show(self, host: str, tunnel: TunnelRecord, now: int) -> None:
        """Print what `wg show` would."""
        text = format_tunnel(tunnel, now=now, colour=False, show_keys=False)
        indented = "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())
        write_output(f"- nvpn show on {host}:\n{indented}")

    def end(self, *, happy: bool) -> None:
        """Print where to go from here."""
        if happy:
            write_output(f"{CLOSING}\n")


def describe(event: Event) -> str:
    """What was done, in a line; empty for an event that is only progress."""
    kind = event["kind"]
    if kind == "hosts":
        hosts = " and ".join(f"{name} ({address})" for name, address in event["addresses"].items())
        return f"two hosts: {hosts}, joined by a cable"
    if kind == "keys":
        return "keys and a wg0.toml for each of them"
    if kind == "up":
        return f"nvpn up wg0.toml on both: up after {event['seconds']:.2f} s"
    if kind == "ping":
        return _describe_ping(event["address"], event["answers"], event["with_handshake"])
    if kind == "transfer":
        sender, receiver = event["towards"]
        size, seconds = event["bytes"], event["seconds"]
        return (
            f"{sender} to {receiver}: {format_rate(size, seconds)}, "
            f"{short_bytes(size)} in {seconds:.1f} s"
        )
    if kind == "down":
        return "both are down again, and nothing is left behind"
    return ""


def format_rate(size: int, seconds: float) -> str:
    """``1.83 Gbit/s``: decimal units, as networks are measured."""
    rate = size * 8 / seconds if seconds > 0 else 0.0
    if rate >= 1e9:
        return f"{rate / 1e9:.2f} Gbit/s"
    return f"{rate / 1e6:.0f} Mbit/s"


def _describe_ping(address: str, answers: list[float | None], with_handshake: bool) -> str:
    times = [answer * 1000 for answer in answers if answer is not None]
    text = f"ping {address}: {len(times)} of {len(answers)} answered"
    if with_handshake and len(times) == len(answers) > 1:
        return (
            f"{text}, the first after {times[0]:.1f} ms with its handshake, "
            f"then in {_median(times[1:]):.2f} ms"
        )
    return f"{text}, in {_median(times):.2f} ms" if times else text


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
