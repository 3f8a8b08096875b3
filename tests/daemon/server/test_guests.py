"""Guests of one invitation, with a whole server in this process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nvpn.channel.messages import Hello
from nvpn.config.model import InterfaceConfig, ServerConfig, TunnelConfig
from nvpn.daemon.channel_port import ChannelPort
from nvpn.daemon.leasing.enrolment import enrol
from nvpn.daemon.server import guests
from nvpn.daemon.server.service import ServerService
from nvpn.daemon.surroundings import Surroundings
from nvpn.errors import Refused
from nvpn.model.changes import SetPrivateKey
from nvpn.model.clock import SECOND, Now, read_clocks
from nvpn.model.prefixes import Interface, Prefix
from nvpn.registry.invitation_text import InvitationText, parse_invitation
from nvpn.resilience.registry import Breakers
from tests.support.inviting import attempts_of, new_key
from tests.support.memory_tunnel import MemoryTunnel
from tests.support.registry import MemoryStore, Shelf

CONFIG = TunnelConfig(
    "wg0",
    Path("wg0.toml"),
    InterfaceConfig(addresses=(Interface.parse("10.8.0.1/24"),)),
    server=ServerConfig(pools=(Prefix.parse("10.8.0.0/24"),)),
)


@asynccontextmanager
async def inviting(uses: int) -> AsyncIterator[tuple[MemoryTunnel, InvitationText]]:
    """A server that has invited so many."""
    tunnel, loop = MemoryTunnel("wg0"), asyncio.get_running_loop()
    port = ChannelPort(tunnel.backend, loop=loop, introduce=lambda: Hello("server", "1", ()))
    await tunnel.backend.apply((SetPrivateKey(new_key()),))
    service = ServerService(
        CONFIG,
        backend=tunnel.backend,
        port=port,
        store=MemoryStore(Shelf()),
        breakers=Breakers(),
        around=Surroundings(
            loop=loop,
            spawn=loop.create_task,
            end=lambda status, why: None,
            warn=lambda sentence: None,
            show=lambda line: None,
        ),
        publish=lambda event: None,
        on_left=lambda key: None,
    )
    try:
        await service.prepare()
        await tunnel.backend.bring_up()
        port.open()
        service.start()
        lines = ["name=many", f"uses={uses}", f"endpoint=127.0.0.1:{tunnel.backend.listen_port}"]
        (told,) = await service.operations()["nvpn_invite"](lines)
        yield tunnel, parse_invitation(json.loads(told)["text"], wall=time.time_ns())
    finally:
        await service.close()
        port.close()
        await tunnel.close()


def an_hour_behind() -> Now:
    boot, wall = read_clocks()
    return Now(boot, wall - 3600 * SECOND)


def test_a_guest_whose_clock_is_behind_the_last_ones_gets_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guests, "ANSWERING_SECONDS", 0.05)

    async def scenario() -> list[str]:
        async with inviting(uses=2) as (_, invitation):
            names = [(await enrol(invitation, new_key().public())).name]
            late = enrol(
                invitation, new_key().public(), clocks=an_hour_behind, attempts=attempts_of(0.3)
            )
            return [*names, (await late).name]

    assert asyncio.run(scenario()) == ["many", "many-2"]


def test_the_peer_of_an_invitation_that_is_used_up_stays_as_it_is_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guests, "ANSWERING_SECONDS", 0.01)

    async def scenario() -> None:
        async with inviting(uses=1) as (tunnel, invitation):
            own, one_time = new_key().public(), invitation.secret.public()
            assert (await enrol(invitation, own)).name == "many"
            session = tunnel.backend.peer(one_time)
            await asyncio.sleep(0.1)
            now = tunnel.backend.peer(one_time)
            assert session is not None and now is not None
            assert now.last_handshake == session.last_handshake > 0
            # The same guest is told the same again; another one why it is refused.
            assert (await enrol(invitation, own)).name == "many"
            with pytest.raises(Refused, match="has been used"):
                await enrol(invitation, new_key().public())

    asyncio.run(scenario())


def test_guests_that_come_together_all_get_in_and_no_use_is_lost() -> None:
    async def scenario() -> None:
        async with inviting(uses=6) as (_, invitation):
            came = await asyncio.gather(
                *(
                    enrol(invitation, new_key().public(), seconds=60, attempts=attempts_of(0.3))
                    for _ in range(6)
                )
            )
            assert sorted(one.name for one in came) == [
                "many",
                *(f"many-{number}" for number in range(2, 7)),
            ]
            with pytest.raises(Refused, match="has been used"):
                await enrol(invitation, new_key().public())

    asyncio.run(scenario())
