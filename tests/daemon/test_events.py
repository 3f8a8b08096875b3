from __future__ import annotations

import asyncio
import json

from nvpn.daemon.event_lines import EventStream, format_event, format_time
from nvpn.daemon.events import (
    AT_ONCE,
    BEGINNING,
    FIRST_KEPT,
    KINDS,
    Admitted,
    BreakerChanged,
    Event,
    EventBus,
    Happening,
    Leased,
    LeaseEnded,
    Lost,
    PeerConnected,
    PeerDisconnected,
    Refused,
    Revoked,
    Roamed,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import Prefix
from tests.support.scenarios import ELSEWHERE, A, B, play

NOON = 1_795_521_600_123_456_789


def bus() -> EventBus:
    return EventBus(lambda: NOON)


def test_every_subscriber_hears_what_comes_after_it_came() -> None:
    async def scenario() -> None:
        stream = bus()
        stream.publish(Admitted(A))
        early = stream.subscribe()
        stream.publish(Admitted(B, "laptop"))
        late = stream.subscribe()
        stream.publish(Revoked(A))
        assert [one.event for one in await early.next()] == [Admitted(B, "laptop"), Revoked(A)]
        assert await late.next() == [Happening(NOON, Revoked(A))]
        assert {kind: count for kind, count in stream.counts.items() if count} == {
            "admitted": 2,
            "revoked": 1,
        }
        assert set(stream.counts) == set(KINDS) >= {"connected", "leased", "breaker"}

    play(scenario)


def test_who_comes_for_the_beginning_is_told_it_as_long_as_it_may_have_been_missed() -> None:
    async def scenario() -> None:
        now = NOON
        stream = EventBus(lambda: now)
        stream.publish(Admitted(A))
        now += BEGINNING // 2
        stream.publish(Revoked(A))
        told = stream.subscribe(from_start=True)
        stream.publish(Admitted(B))
        assert await told.next() == [
            Happening(NOON, Admitted(A)),
            Happening(now, Revoked(A)),
            Happening(now, Admitted(B)),
        ]
        now = NOON + BEGINNING + 1
        late = stream.subscribe(from_start=True)
        stream.publish(Revoked(B))
        assert await late.next() == [Happening(now, Revoked(B))]

    play(scenario)


def test_of_a_stormy_beginning_the_last_is_told_and_how_much_that_is_not() -> None:
    async def scenario() -> None:
        stream = bus()
        for number in range(FIRST_KEPT + 7):
            stream.publish(Admitted(A, f"{number}"))
        told, more = stream.subscribe(from_start=True), []
        for _ in range(FIRST_KEPT // AT_ONCE + 1):
            more += await told.next()
        assert more[0] == Happening(NOON, Lost(7))
        assert [one.event.name for one in more[1:]] == [
            f"{number}" for number in range(7, FIRST_KEPT + 7)
        ]

    play(scenario)


def test_a_reader_waits_until_there_is_something() -> None:
    async def scenario() -> None:
        stream = bus()
        subscription = stream.subscribe()
        waiting = asyncio.ensure_future(subscription.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.publish(Admitted(A))
        assert [one.event for one in await waiting] == [Admitted(A)]

    play(scenario)


def test_who_reads_too_slowly_is_told_how_much_it_missed_and_nobody_else_misses_anything() -> None:
    async def scenario() -> None:
        stream = bus()
        slow, quick = stream.subscribe(3), stream.subscribe()
        for _ in range(5):
            stream.publish(Admitted(A))
        assert [one.event for one in await slow.next()] == [Admitted(A)] * 3 + [Lost(2)]
        assert len(await quick.next()) == 5
        stream.publish(Revoked(A))
        assert [one.event for one in await slow.next()] == [Revoked(A)]

    play(scenario)


def test_many_events_are_given_some_at_a_time() -> None:
    async def scenario() -> None:
        stream = bus()
        subscription = stream.subscribe(250)
        for _ in range(300):
            stream.publish(Admitted(A))
        stream.close()
        parts = []
        while part := await subscription.next():
            parts.append(len(part))
        assert parts == [100, 100, 50 + 1], "and that the rest is lost"

    play(scenario)


def test_the_end_comes_after_what_is_there() -> None:
    async def scenario() -> None:
        stream = bus()
        subscription = stream.subscribe()
        stream.publish(Admitted(A))
        stream.close()
        stream.publish(Admitted(B))
        assert [one.event for one in await subscription.next()] == [Admitted(A)]
        assert await subscription.next() == []
        assert await stream.subscribe().next() == []

    play(scenario)


def test_a_reader_that_went_away_keeps_nothing() -> None:
    async def scenario() -> None:
        stream = bus()
        gone = stream.subscribe(1)
        gone.close()
        gone.close()
        stream.publish(Admitted(A))
        assert await gone.next() == []

    play(scenario)


def test_listeners_hear_at_once() -> None:
    stream = bus()
    heard: list[Event] = []
    stream.listen(heard.append)
    stream.publish(Admitted(A))
    assert heard == [Admitted(A)]


def test_what_follows_from_an_event_is_told_after_it() -> None:
    async def scenario() -> None:
        stream = bus()
        subscription = stream.subscribe()
        stream.listen(lambda event: stream.publish(Revoked(A)) if event == Admitted(A) else None)
        stream.publish(Admitted(A))
        assert [one.event for one in await subscription.next()] == [Admitted(A), Revoked(A)]

    play(scenario)


# --- lines --------------------------------------------------------------------------------


def line(event: Event) -> dict[str, object]:
    text = format_event("wg0", Happening(NOON, event))
    assert text.isascii()
    assert text.isprintable()
    told: dict[str, object] = json.loads(text)
    assert list(told)[:3] == ["time", "interface", "event"]
    assert told.pop("time") == "2026-11-24T12:00:00.123456Z"
    assert told.pop("interface") == "wg0"
    return told


def test_a_line_has_the_fields_of_its_event() -> None:
    prefixes = (Prefix.parse("10.8.0.2/32"), Prefix.parse("fd42::2/128"))
    texts = ["10.8.0.2/32", "fd42::2/128"]
    peer = A.base64
    assert line(PeerConnected(A, "é\n", ELSEWHERE, prefixes)) == {
        "event": "connected",
        "peer": peer,
        "name": "é\n",
        "endpoint": "192.0.2.1:51820",
        "addresses": texts,
    }
    assert line(PeerDisconnected(A, why="silent")) == {
        "event": "disconnected",
        "peer": peer,
        "name": None,
        "endpoint": None,
        "addresses": [],
        "why": "silent",
    }
    where = Endpoint.parse("[2001:db8::1]:7")
    assert line(Roamed(A, "a", where))["endpoint"] == "[2001:db8::1]:7"
    assert line(Leased(A, "a", prefixes)) == {
        "event": "leased",
        "peer": peer,
        "name": "a",
        "addresses": texts,
    }
    assert line(LeaseEnded(A, "a", prefixes, "expired"))["why"] == "expired"
    assert line(Refused(A, "", "exhausted", "no address is free")) == {
        "event": "refused",
        "peer": peer,
        "name": None,
        "code": "exhausted",
        "why": "no address is free",
    }
    assert line(Admitted(A, "a")) == {"event": "admitted", "peer": peer, "name": "a"}
    assert line(Revoked(A, "a")) == {"event": "revoked", "peer": peer, "name": "a"}
    assert line(BreakerChanged("etcd", "open")) == {
        "event": "breaker",
        "service": "etcd",
        "state": "open",
    }
    assert line(Lost(7)) == {"event": "lost", "count": 7}


def test_times_are_those_of_rfc_3339() -> None:
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"
    assert format_time(1_000_000_000) == "1970-01-01T00:00:01.000000Z"


def test_a_stream_begins_when_it_is_asked_for_and_ends_with_the_bus() -> None:
    async def scenario() -> None:
        events = bus()
        stream = EventStream("wg0", events)(())
        events.publish(Admitted(A))
        events.publish(Admitted(B))
        lines = (await stream.next()).splitlines()
        assert [json.loads(text)["peer"] for text in lines] == [A.base64, B.base64]
        events.close()
        assert await stream.next() == ""
        stream.close()

    play(scenario)
