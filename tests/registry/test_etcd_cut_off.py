"""Servers on a real etcd, one of which cannot reach it; and an etcd that was set back."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nvpn.errors import Unavailable
from nvpn.model.clock import SECOND, Now, read_clocks
from nvpn.model.keys import PublicKey
from nvpn.registry.model import (
    ClientAdmitted,
    ClientRevoked,
    Ending,
    LeaseEnded,
    LeaseGiven,
    RegistryChange,
    RegistryRefused,
)
from nvpn.registry.registry import Registry
from tests.support.etcd import Etcd, needs_etcd
from tests.support.etcd_store import store_at, until
from tests.support.ports import free_ports
from tests.support.registry import admit_all, key_of, settings_of
from tests.support.tcp_relay import Relay

pytestmark = needs_etcd

LEASE = 60
SAFETY = 30


class Ahead:
    """The clocks of this machine, but ``by`` seconds later."""

    by = 0

    def __call__(self) -> Now:
        now = read_clocks()
        return Now(now.boot + self.by * SECOND, now.wall + self.by * SECOND)


class Server:
    """A registry at this port of an etcd."""

    def __init__(self, name: str, port: int, clocks: Ahead, pool: str) -> None:
        self.told: list[RegistryChange] = []
        self.registry = Registry(
            store_at(f"http://127.0.0.1:{port}"),
            settings_of(pool, server=name, lease_seconds=LEASE),
            file_peers={},
            clocks=clocks,
            random=os.urandom,
            on_change=self.told.append,
        )

    def heard(self) -> list[RegistryChange]:
        told, self.told[:] = list(self.told), []
        return told


@asynccontextmanager
async def servers(
    *ports: int, clocks: Ahead, clients: list[PublicKey], pool: str
) -> AsyncIterator[list[Server]]:
    store = store_at(f"http://127.0.0.1:{ports[-1]}")
    await admit_all(store, clients)
    await store.close()
    opened = [Server(f"server {port}", port, clocks, pool) for port in ports]
    try:
        for one in opened:
            await one.registry.open()
            one.heard()
        yield opened
    finally:
        for one in opened:
            await one.registry.close()


@pytest.mark.once
def test_a_server_that_is_cut_off_lets_go_before_another_leases_the_address(
    tmp_path: Path,
) -> None:
    etcd, clocks = Etcd(tmp_path / "etcd"), Ahead()
    mine, other = key_of(1), key_of(2)
    (port,) = free_ports(1, socket.SOCK_STREAM)

    async def story() -> None:
        async with (
            Relay(etcd.port, port) as relay,
            servers(port, etcd.port, clocks=clocks, clients=[mine, other], pool="10.8.0.0/30") as (
                here,
                there,
            ),
        ):
            lease = await here.registry.lease(mine)
            await until(lambda: there.registry.lease_of(mine))
            relay.cut()
            here.heard()
            for clocks.by in range(0, 2 * LEASE - SAFETY, 10):
                await here.registry.expire()
                await there.registry.expire()
                assert (await here.registry.lease(mine)).addresses == lease.addresses
                with pytest.raises(RegistryRefused):
                    await there.registry.lease(other)
            assert here.heard() == []
            clocks.by = 2 * LEASE - SAFETY
            await here.registry.expire()
            assert here.heard() == [LeaseEnded(mine, lease.prefixes, Ending.EXPIRED)]
            with pytest.raises(Unavailable, match="the lease is over"):
                await here.registry.lease(mine)
            clocks.by = 2 * LEASE + 5
            await there.registry.expire()
            assert (await there.registry.lease(other)).addresses == lease.addresses
            relay.join()
            await until(lambda: here.told)
            assert here.heard() == [LeaseGiven(other, lease.prefixes)]

    run(etcd, story)


@pytest.mark.once
def test_an_etcd_that_was_set_back_is_read_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    etcd, clocks = Etcd(tmp_path / "etcd"), Ahead()
    early, late, later = key_of(1), key_of(2), key_of(3)

    async def story() -> None:
        async with servers(
            etcd.port, etcd.port, clocks=clocks, clients=[early, late], pool="10.8.0.0/24"
        ) as (here, there):
            kept = await here.registry.lease(early)
            etcd.kill()
            etcd.save()
            etcd.start()
            lost = await patiently(here.registry, late)
            invited = await here.registry.invite("later", expires_at=clocks().wall + 60 * SECOND)
            await here.registry.enrol(invited.invitation.public_key, later)
            await until(lambda: there.registry.may_speak(later))
            for one in (here, there):
                assert ClientAdmitted(later, "later") in one.heard()
            etcd.kill()
            etcd.set_back()
            with caplog.at_level(logging.WARNING):
                etcd.start()
                for one in (here, there):
                    await until(lambda one=one: ClientRevoked(later) in one.told)  # type: ignore[misc]
                    told = one.heard()
                    assert LeaseEnded(late, lost.prefixes, Ending.MOVED) in told
                    assert not any(isinstance(each, LeaseGiven) for each in told)
                    assert one.registry.lease_of(late) is None
                    assert one.registry.lease_of(early) == kept
            said = [one.message for one in caplog.records if "was set back" in one.message]
            assert len(said) == 2  # one of each server
            # From there it goes on.
            assert await there.registry.lease(late, (lost.addresses[0].address,))
            await until(lambda: LeaseGiven(late, lost.prefixes) in here.told)
            await here.registry.release(early)
            await until(lambda: there.registry.lease_of(early) is None)

    run(etcd, story)


async def patiently(registry: Registry, client: PublicKey):  # type: ignore[no-untyped-def]
    while True:
        try:
            return await registry.lease(client)
        except Unavailable:
            await asyncio.sleep(0.02)


def run(etcd: Etcd, story) -> None:  # type: ignore[no-untyped-def]
    etcd.start()
    etcd.wait()
    try:
        asyncio.run(asyncio.wait_for(story(), 120))
    finally:
        etcd.kill()
