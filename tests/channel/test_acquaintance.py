from __future__ import annotations

from nvpn.channel.acquaintance import (
    FIRST_LOOK,
    FIRST_PAUSE,
    HOLDS,
    LONGEST_PAUSE,
    MAX_PEERS,
    SESSION,
    Acquaintances,
)
from nvpn.channel.messages import Hello
from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey

A, B = (PublicKey(bytes([n]) * 32) for n in (0xAA, 0xBB))
NOW = 1000 * SECOND
HELLO = Hello("a", "1", ("lease",))
HOUR = 3600 * SECOND


class World:
    """A peer that renews its session every two minutes, and what it is asked."""

    def __init__(self) -> None:
        self.knowing = Acquaintances()
        self.asked: list[int] = []
        self.now = NOW

    def session(self, *, data: bool = True, seconds: int = 120) -> None:
        """One session, in which data flows or not."""
        begun = self.now
        self.knowing.begin_session(A, begun)
        end = begun + seconds * SECOND
        while (at := self.knowing.next_look()) is not None and at <= end:
            self.now = at
            while (peer := self.knowing.take_look(at)) is not None:
                assert peer == A
                if self.knowing.look(A, at if data else begun - 1, at):
                    self.asked.append(at)
        self.now = end

    def answer(self) -> None:
        self.knowing.introduce(A, HELLO, self.now)

    def stay_silent(self) -> None:
        self.knowing.fall_silent(A, self.now)


def test_a_peer_without_data_is_not_asked() -> None:
    world = World()
    for _ in range(100):
        world.session(data=False)
    assert world.asked == []
    assert world.knowing.next_look() is not None


def test_in_a_session_without_data_we_look_less_and_less() -> None:
    knowing = Acquaintances()
    knowing.begin_session(A, NOW)
    looks = []
    while (at := knowing.next_look()) is not None:
        if knowing.take_look(at) is not None:
            looks.append((at - NOW) // SECOND)
            knowing.look(A, 0, at)
    assert looks == [10, 20, 40, 80, 160]


def test_a_peer_is_asked_once_in_a_session_in_which_data_flows() -> None:
    world = World()
    world.session()
    assert world.asked == [NOW + FIRST_LOOK]
    world.answer()
    assert world.knowing.get(A) == HELLO
    world.session()
    world.session()
    assert len(world.asked) == 1


def test_silence_is_remembered_for_an_hour_then_two_and_at_most_a_day() -> None:
    world = World()
    for _ in range(30 * 30 * 4):  # four days and some
        before = len(world.asked)
        world.session()
        assert len(world.asked) <= before + 1
        if len(world.asked) > before:
            world.stay_silent()
    pauses = [(b - a) // HOUR for a, b in zip(world.asked, world.asked[1:], strict=False)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert set(pauses[5:]) == {24}
    assert LONGEST_PAUSE == 24 * HOUR
    assert len(world.asked) == 9


def test_while_an_answer_is_to_come_nobody_asks_again() -> None:
    world = World()
    world.session()
    world.session()
    world.session()
    assert len(world.asked) == 1


def test_who_introduces_himself_need_not_be_asked() -> None:
    world = World()
    world.answer()
    world.session()
    assert world.asked == []
    assert world.knowing.get(A) == HELLO


def test_who_introduces_himself_before_we_look_is_not_asked_either() -> None:
    knowing = Acquaintances()
    knowing.begin_session(A, NOW)
    knowing.introduce(A, HELLO, NOW + SECOND)
    assert knowing.take_look(NOW + FIRST_LOOK) is None
    assert knowing.next_look() is None


def test_who_was_silent_and_speaks_is_heard() -> None:
    world = World()
    world.session()
    world.stay_silent()
    world.answer()
    assert world.knowing.get(A) == HELLO
    world.now += HOLDS
    world.session()
    assert len(world.asked) == 2
    world.stay_silent()
    assert world.knowing.get(A) is None
    world.now += FIRST_PAUSE  # the first again, for it had spoken meanwhile
    world.session()
    assert len(world.asked) == 3


def test_an_introduction_ends_with_the_session_and_silence_does_not() -> None:
    world = World()
    world.answer()
    world.knowing.end_session(A)
    assert world.knowing.get(A) is None
    world.session()
    assert len(world.asked) == 1
    world.stay_silent()
    world.knowing.end_session(A)
    world.session()
    assert len(world.asked) == 1


def test_after_an_hour_it_is_asked_for_anew_and_holds_until_then() -> None:
    world = World()
    world.session()
    world.answer()
    world.now += HOLDS - SECOND
    world.session()
    assert len(world.asked) == 1
    world.session()
    assert len(world.asked) == 2
    assert world.knowing.get(A) == HELLO


def test_nobody_looks_at_a_session_that_is_over() -> None:
    knowing = Acquaintances()
    knowing.begin_session(A, NOW)
    assert knowing.take_look(NOW + FIRST_LOOK) == A
    assert not knowing.look(A, 0, NOW + FIRST_LOOK)
    assert knowing.take_look(NOW + SESSION) is None
    assert knowing.next_look() is None

    knowing.begin_session(A, NOW + SESSION)
    knowing.end_session(A)
    assert knowing.take_look(NOW + 2 * SESSION) is None
    knowing.begin_session(A, NOW + 3 * SESSION)
    knowing.forget(A)
    assert knowing.take_look(NOW + 4 * SESSION) is None
    assert not knowing.look(A, NOW, NOW)
    assert len(knowing) == 0


def test_what_is_remembered_is_bounded() -> None:
    knowing = Acquaintances()
    for n in range(MAX_PEERS + 10):
        knowing.introduce(PublicKey(n.to_bytes(32, "big")), HELLO, NOW)
    assert len(knowing) == MAX_PEERS
    assert knowing.get(PublicKey(bytes(32))) is None
