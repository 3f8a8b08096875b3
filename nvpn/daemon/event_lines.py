"""Events as lines of JSON, for ``nvpn events`` and whoever reads it.

Names are part of the interface: fields may be added, none changes its meaning. The first are
always ``time`` (RFC 3339, UTC), ``interface`` and ``event``; null is "not known".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone
from typing import Final

from nvpn.daemon.events import EventBus, Happening, Subscription
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey

_MICROSECOND: Final = 1000


def format_event(interface: str, happening: Happening) -> str:
    """One line, without its end, in ASCII: no name can steer a terminal."""
    line: dict[str, object] = {
        "time": format_time(happening.at),
        "interface": interface,
        "event": happening.event.kind,
    }
    for field in fields(happening.event):
        line[field.name] = _plain(getattr(happening.event, field.name))
    return json.dumps(line, separators=(",", ":"))


def format_time(wall: int) -> str:
    """Unix nanoseconds as ``2026-11-24T12:00:00.000000Z``."""
    seconds, nanoseconds = divmod(wall, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    text = moment.replace(microsecond=nanoseconds // _MICROSECOND, tzinfo=None)
    return f"{text.isoformat(timespec='microseconds')}Z"


class EventStream:
    """What the control socket serves to each client that asks for events."""

    def __init__(self, interface: str, bus: EventBus) -> None:
        self._interface = interface
        self._bus = bus

    def __call__(self, lines: Sequence[str]) -> EventLines:
        """Every event from now on, until the tunnel ends; ``from=start``: and the first ones."""
        from_start = "from=start" in lines
        return EventLines(self._interface, self._bus.subscribe(from_start=from_start))


class EventLines:
    """A subscription as text."""

    def __init__(self, interface: str, subscription: Subscription) -> None:
        self._interface = interface
        self._subscription = subscription

    async def next(self) -> str:
        """One or more lines, waiting for them; empty: the end."""
        happenings = await self._subscription.next()
        return "\n".join(format_event(self._interface, one) for one in happenings)

    def close(self) -> None:
        """The reader is gone."""
        self._subscription.close()


def _plain(value: object) -> object:
    if isinstance(value, PublicKey):
        return value.base64
    if isinstance(value, Endpoint):
        return str(value)
    # A prefix is a tuple, too.
    if type(value) is tuple:
        return [str(one) for one in value]
    return None if value == "" else value
