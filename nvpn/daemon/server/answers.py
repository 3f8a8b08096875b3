"""What clients ask of a server over the control channel, and what they are answered."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from nvpn.channel.messages import Done, Enrol, Enrolled, LeaseRequest, Release, Settings
from nvpn.config.model import ServerConfig
from nvpn.daemon import events
from nvpn.daemon.channel_port import ChannelPort
from nvpn.daemon.leasing.port import our_name
from nvpn.daemon.server.terms import settings_for, with_servers
from nvpn.model.keys import PublicKey
from nvpn.registry.model import Refusal, RegistryRefused
from nvpn.registry.registry import Registry

_log: Final = logging.getLogger(__name__)


class Answers:
    """Each peer is who its key says; what it may ask for, the registry says.

    Args:
        registry: raises Unavailable while it is not open.
        in_force: until what the registry has told is in force.
        terms: what clients are told now.
        is_ours: whether a key is the server's own.
        name_of: what people call a peer.
        publish: told who was refused.
        on_left: called with a client that says that it goes.
        on_enrolled: called with the invitation's key when somebody has come by it.
    """

    def __init__(
        self,
        *,
        registry: Callable[[], Registry],
        in_force: Callable[[], Awaitable[None]],
        terms: Callable[[], ServerConfig],
        is_ours: Callable[[PublicKey], bool],
        name_of: Callable[[PublicKey], str],
        publish: Callable[[events.Event], None],
        on_left: Callable[[PublicKey], None],
        on_enrolled: Callable[[PublicKey], None],
    ) -> None:
        self._registry = registry
        self._in_force = in_force
        self._terms = terms
        self._is_ours = is_ours
        self._name_of = name_of
        self._publish = publish
        self._on_left = on_left
        self._on_enrolled = on_enrolled
        self._asking: set[PublicKey] = set()

    def serve_on(self, port: ChannelPort) -> None:
        """Answer whoever asks there."""
        port.serve(LeaseRequest, self._lease)
        port.serve(Release, self._release)
        port.serve(Enrol, self._enrol)

    def is_asking(self, peer: PublicKey) -> bool:
        """Whether its lease is on its way already."""
        return peer in self._asking

    async def _lease(self, peer: PublicKey, request: LeaseRequest) -> Settings:
        self._asking.add(peer)
        try:
            registry = self._registry()
            wanted = tuple(one.address for one in request.wanted)
            with self._telling_refusals(peer):
                if not registry.may_speak(peer):
                    raise RegistryRefused(
                        Refusal.NOT_ADMITTED,
                        "the server knows no client with this key: ask to be invited",
                    )
                lease = await registry.lease(peer, wanted, request.name)
            # The client must not use its addresses before everybody accepts them.
            await self._in_force()
            # If we are going down by now it is not, and the client is to ask another server.
            registry = self._registry()
            answer = settings_for(
                self._terms(),
                lease,
                registry.remaining(lease),
                name=self._name_of(peer),
                server=our_name(),
            )
            return with_servers(answer, registry.other_servers())
        finally:
            self._asking.discard(peer)

    async def _release(self, peer: PublicKey, request: Release) -> Done:
        await self._registry().release(peer)
        self._on_left(peer)
        return Done()

    async def _enrol(self, peer: PublicKey, request: Enrol) -> Enrolled:
        registry, terms = self._registry(), self._terms()
        with self._telling_refusals(peer):
            if self._is_ours(request.public_key):
                raise RegistryRefused(
                    Refusal.REFUSED, "that is the server's own key: make another one"
                )
            client = await registry.enrol(peer, request.public_key, request.name)
        await self._in_force()
        self._on_enrolled(peer)
        answer = Enrolled(
            name=client.name,
            endpoints=tuple(map(str, terms.endpoints)),
            server=our_name(),
        )
        return with_servers(answer, registry.other_servers())

    @contextlib.contextmanager
    def _telling_refusals(self, peer: PublicKey) -> Iterator[None]:
        try:
            yield
        except RegistryRefused as error:
            self._publish(events.Refused(peer, self._name_of(peer), error.code, str(error)))
            # A client may ask in vain many times a second.
            _log.debug("refused: %s", error, extra={"peer": peer.short})
            raise
