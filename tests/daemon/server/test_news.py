"""That clients would be told something else by now, and how many come at once to hear it."""

from __future__ import annotations

import asyncio

from nvpn.daemon.server.news import RATE, News
from nvpn.model.keys import PublicKey
from tests.support.virtual_loop import play_virtually

KEYS = [PublicKey(number.to_bytes(32, "big")) for number in range(1, 10_001)]


class Audience:
    """Who is told, and when; of each key those for which ``is_there`` says so."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.said: list[tuple[float, PublicKey]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.absent: set[PublicKey] = set()
        self.news = News(
            self._say,
            holders=lambda: KEYS,
            spawn=lambda work: self.tasks.append(self.loop.create_task(work)),
        )

    def moments(self) -> list[float]:
        return [at for at, _ in self.said]

    def _say(self, key: PublicKey) -> bool:
        if key in self.absent:
            return False
        self.said.append((self.loop.time(), key))
        return True


def test_ten_thousand_clients_do_not_come_at_once() -> None:
    async def scenario() -> None:
        audience, begun = Audience(), asyncio.get_running_loop().time()
        audience.news.tell()
        await asyncio.sleep(3600)
        assert [key for _, key in audience.said] == KEYS
        moments = audience.moments()
        assert moments[0] == begun
        for moment, later in zip(moments, moments[RATE:], strict=False):
            assert later - moment > 0.99
        assert moments[-1] - begun < 1.1 * len(KEYS) / RATE

    play_virtually(scenario)


def test_those_who_are_not_there_hold_up_nobody() -> None:
    async def scenario() -> None:
        audience, begun = Audience(), asyncio.get_running_loop().time()
        audience.absent = set(KEYS[:-1])
        audience.news.tell()
        await asyncio.sleep(3600)
        assert audience.said == [(begun, KEYS[-1])]

    play_virtually(scenario)


def test_what_comes_together_is_told_once() -> None:
    async def scenario() -> None:
        audience = Audience()
        audience.news.tell(after=5)
        await asyncio.sleep(4.9)
        audience.news.tell(after=5)
        assert audience.said == []
        await asyncio.sleep(3600)
        assert len(audience.said) == len(KEYS)
        assert audience.tasks[0].done()

    play_virtually(scenario)


def test_what_comes_while_some_have_heard_is_told_once_more_to_all() -> None:
    async def scenario() -> None:
        audience = Audience()
        audience.news.tell()
        await asyncio.sleep(1)
        assert 0 < len(audience.said) < len(KEYS)
        for _ in range(3):
            audience.news.tell()
        await asyncio.sleep(3600)
        assert [key for _, key in audience.said] == [*KEYS, *KEYS]
        assert len(audience.tasks) == 1
        audience.news.tell()  # long afterwards
        await asyncio.sleep(3600)
        assert len(audience.said) == 3 * len(KEYS)

    play_virtually(scenario)
