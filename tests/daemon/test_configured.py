"""What happens while a change to a tunnel is under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from nvpn.config.load import load
from nvpn.config.model import TunnelConfig
from nvpn.daemon.configured import Configured
from nvpn.daemon.ending import Ending
from nvpn.model.changes import Plan
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface
from nvpn.model.snapshot import TunnelSnapshot
from nvpn.netconf.api import Link

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
FILE = f"""\
[interface]
private_key = "{OWN}"
address = "10.9.0.1/24"
mtu = 1400
"""
FIRST, LEASED = Interface.parse("10.9.0.1/24"), Interface.parse("10.8.0.7/24")


class Scene:
    """A tunnel made of a host, a backend and peers that only remember what they are told."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "wg0.toml"
        self.path.write_text(FILE)
        file = load(self.path)
        self.mtu = 1400
        self.host_addresses = {FIRST}
        self.leased: frozenset[bytes] = frozenset()
        # Where a change waits until the test lets it go on.
        self.at_backend = asyncio.Event()
        self.may_go_on = asyncio.Event()
        fake = cast(Any, self)
        self.configured = Configured(
            None,
            backend=fake,
            host_side=fake,
            peers=fake,
            peer_side=fake,
            services=fake,
            network_watch=fake,
        )
        self.configured.begin(file)
        self.ending = Ending(
            fake,
            fake,
            netconf=fake,
            hooks=fake,
            config=lambda: self.configured.config,
            leased=lambda: self.leased,
            keepalives=dict,
            finish=self.nothing,
            settled=self.configured.settled,
        )

    def lease(self) -> TunnelConfig:
        """What the tunnel comes to with a lease."""
        file = self.configured.config
        assert file is not None
        addresses = (*file.interface.addresses, LEASED)
        return replace(file, interface=replace(file.interface, addresses=addresses, mtu=1300))

    async def be_leased(self) -> None:
        await self.configured.overlay(lambda: (self.lease(), ()))
        self.leased = frozenset({LEASED.address})

    # --- the parts ----------------------------------------------------------------------

    link = Link(7, "wg0", 1400, True)

    async def nothing(self) -> None:
        pass

    def with_mark(self, config: TunnelConfig) -> TunnelConfig:
        return config

    def extend(
        self, new: TunnelConfig, endpoints: Iterable[bytes], undo: contextlib.ExitStack
    ) -> Callable[[], None]:
        self.host_addresses = set(new.interface.addresses)
        self.follow_paths(new, endpoints)
        return lambda: None

    def follow_paths(self, config: TunnelConfig, endpoints: Iterable[bytes]) -> None:
        assert config.interface.mtu is not None
        self.mtu = config.interface.mtu

    async def change_name_servers(self, new: TunnelConfig) -> None:
        pass

    async def want(self, config: TunnelConfig) -> list[str]:
        return []

    def plan(self) -> Plan:
        return ()

    def place(self, added: Iterable[PublicKey]) -> Plan:
        return ()

    def told(self) -> None:
        pass

    def pass_over(self) -> None:
        pass

    async def apply(self, plan: Plan) -> None:
        self.at_backend.set()
        await self.may_go_on.wait()

    def snapshot(self) -> TunnelSnapshot:
        return TunnelSnapshot("wg0", load(self.path).interface.private_key)

    def addresses(self, link: Link) -> set[Interface]:
        return self.host_addresses


def play(tmp_path: Path, script: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(script(Scene(tmp_path)), 30)

    asyncio.run(run())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_is_saved_while_a_lease_is_put_into_force_has_nothing_of_it(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        leasing = asyncio.create_task(scene.be_leased())
        await scene.at_backend.wait()
        assert LEASED in scene.host_addresses

        saving = asyncio.create_task(scene.ending.save())
        await settle()
        scene.may_go_on.set()
        await asyncio.gather(leasing, saving)

        assert load(scene.path).interface.addresses == (FIRST,)

    play(tmp_path, script)


def test_paths_that_change_while_something_else_does_are_followed_as_it_is_then(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene) -> None:
        leasing = asyncio.create_task(scene.be_leased())
        await scene.at_backend.wait()
        assert scene.mtu == 1300

        scene.configured.follow_paths()
        scene.may_go_on.set()
        await leasing

        assert scene.mtu == 1300

    play(tmp_path, script)
