"""Becomes a server's client, by an invitation's one-time key and before there is a tunnel.

A whole peer in this process, with a TUN device in memory and a UDP socket: no interface, no
root. It lives for one question.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from nvpn import __version__
from nvpn.backend.userspace import UserspaceBackend
from nvpn.channel.messages import Enrol, Enrolled, Goodbye, GoodbyeReason, Hello
from nvpn.config.model import HostPort
from nvpn.config.values import parse_endpoint
from nvpn.daemon.channel_port import ChannelPort
from nvpn.daemon.leasing.joining import Enrolment
from nvpn.daemon.leasing.port import our_name
from nvpn.daemon.leasing.servers import take_servers, usable_name
from nvpn.daemon.places import arrange, look_up
from nvpn.daemon.threads import run_in_thread
from nvpn.datapath.choice import Choice, create_datapath
from nvpn.errors import Unavailable
from nvpn.model.changes import AddPeer, Plan, SetCandidates, SetEndpoint, SetPrivateKey
from nvpn.model.clock import SECOND, Now, boot_ns, read_clocks
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey
from nvpn.model.notices import Notice, NoticeKind
from nvpn.overlay.memory import open_memory_tun
from nvpn.protocol.device import Device
from nvpn.protocol.tai64n import TimestampSource
from nvpn.registry.invitation_text import InvitationText
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.policy import RetryPolicy
from nvpn.wire.constants import DEFAULT_MTU

ENROL_SECONDS: Final = 20.0
"""How long the server may take in all, its name's look-up included."""

ATTEMPTS: Final = RetryPolicy(
    max_attempts=0, initial=SECOND, maximum=4 * SECOND, multiplier=1.5, jitter=0.5
)
"""How long one attempt waits for each of two answers: to its handshake, and to its question.

At first no longer than across the world and back, since who collides with another guest waits
in vain; then up to a few times that, until they have come apart.
"""

_LOOK_UP_SECONDS: Final = 8.0


async def enrol(
    invitation: InvitationText,
    public_key: PublicKey,
    *,
    seconds: float = ENROL_SECONDS,
    attempts: RetryPolicy = ATTEMPTS,
    tell: Callable[[str], object] = lambda _: None,
    clocks: Callable[[], Now] = read_clocks,
) -> Enrolment:
    """Have the server admit our key. Again with the same key: the same answer.

    Guests of one invitation share its key, so that they may take each other's session away:
    whoever gets no answer comes again with another.

    Args:
        tell: called once if two attempts fail, with what the trouble is.

    Raises:
        Refused: the invitation is used, expired or revoked; one sentence.
        Unavailable: no endpoint of the server answers; the invitation may be as good as before.
        PlatformError: no socket, …
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    endpoints = await _find(invitation)
    places = " or ".join(map(str, invitation.endpoints))
    trouble = (
        f"no answer from {places} (is the server up, and its UDP port open? An invitation that was"
        " used or revoked more than a day ago gets none, either)"
    )
    backoff = Backoff(attempts, os.urandom)
    while True:
        delay = backoff.next_delay()
        assert delay is not None  # without a limit
        patience = delay / SECOND
        attempt = _enrol(invitation, public_key, endpoints, patience, clocks)
        try:
            return await asyncio.wait_for(attempt, deadline - loop.time())
        except asyncio.TimeoutError:
            pass
        except Unavailable as error:
            trouble = str(error)
            await asyncio.sleep(min(patience, deadline - loop.time()))
        if loop.time() >= deadline:
            raise Unavailable(trouble)
        if backoff.attempts == 2:
            tell(trouble)


async def _enrol(
    invitation: InvitationText,
    public_key: PublicKey,
    endpoints: tuple[Endpoint, ...],
    patience: float,
    clocks: Callable[[], Now],
) -> Enrolment:
    with _peer_in_memory(clocks) as backend:
        try:
            await backend.apply(_plan(invitation, endpoints))
            await backend.bring_up()
            await asyncio.wait_for(_shake_hands(backend, invitation.server), patience)
            answer = await asyncio.wait_for(_ask(backend, invitation, public_key), patience)
        finally:
            await backend.close()
    return Enrolment(
        answer.name,
        _usable(answer.endpoints),
        usable_name(answer.server),
        take_servers(answer.servers, (invitation.server, public_key)),
    )


async def _shake_hands(backend: UserspaceBackend, server: PublicKey) -> None:
    answered = asyncio.Event()

    def notice(notice: Notice) -> None:
        if notice.kind is NoticeKind.HANDSHAKE_COMPLETED:
            answered.set()

    backend.subscribe(notice)
    backend.initiate(server)
    await answered.wait()


async def _ask(
    backend: UserspaceBackend, invitation: InvitationText, public_key: PublicKey
) -> Enrolled:
    name = our_name()
    port = ChannelPort(
        backend,
        loop=asyncio.get_running_loop(),
        introduce=lambda: Hello(name, __version__, ()),
    )
    port.open()
    try:
        return await port.ask(invitation.server, Enrol(public_key, name, __version__))
    finally:
        # It is an answer, too: without any the server would look for us for a while.
        port.tell(invitation.server, Goodbye(GoodbyeReason.STOPPING.value))
        port.close()


@contextmanager
def _peer_in_memory(clocks: Callable[[], Now]) -> Iterator[UserspaceBackend]:
    loop = asyncio.get_running_loop()
    tun, host = open_memory_tun()
    try:
        # Python's: it serves a socket pair anywhere, and there is nothing to be quick about.
        python = Choice(is_native=False)
        datapath = create_datapath(python, loop, tun, mtu=DEFAULT_MTU, max_segments=1)
        device = Device(datapath=datapath, random=os.urandom, timestamps=TimestampSource())
        backend = UserspaceBackend(
            name="join",
            device=device,
            datapath=datapath,
            mtu=DEFAULT_MTU,
            loop=loop,
            clocks=clocks,
        )
        datapath.on_events = backend.handle_events
        yield backend
    finally:
        tun.close()
        host.close()


async def _find(invitation: InvitationText) -> tuple[Endpoint, ...]:
    """Where the server may be, best first. Raises Unavailable."""
    looked = await asyncio.gather(*map(_look_up, invitation.endpoints))
    found = [places for places, _ in looked if places]
    if not found:
        raise Unavailable(" and ".join(reason for _, reason in looked))
    return arrange(found)


async def _look_up(place: HostPort) -> tuple[tuple[Endpoint, ...], str]:
    """Its addresses, or why there are none."""
    looking = run_in_thread(functools.partial(look_up, place), name="resolver")
    try:
        return await asyncio.wait_for(looking, _LOOK_UP_SECONDS), ""
    except asyncio.TimeoutError:
        return (), f"{place.host} does not resolve: no answer yet"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return (), f"{place.host} does not resolve: {reason}"


def _plan(invitation: InvitationText, endpoints: tuple[Endpoint, ...]) -> Plan:
    server = invitation.server
    return (
        SetPrivateKey(invitation.secret.copy()),
        AddPeer(server),
        SetEndpoint(server, endpoints[0]._replace(learned_at=boot_ns())),
        SetCandidates(server, endpoints),
    )


def _usable(texts: tuple[str, ...]) -> tuple[HostPort, ...]:
    """The endpoints of an answer that are any."""
    usable = []
    for text in texts:
        try:
            usable.append(parse_endpoint(text))
        except ValueError:
            continue
    return tuple(dict.fromkeys(usable))
