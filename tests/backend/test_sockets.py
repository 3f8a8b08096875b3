"""The sockets of a tunnel: when they are bound, where, and with which mark."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from nvpn.errors import ControlError, PlatformError
from nvpn.model.changes import (
    AddPeer,
    SetFwmark,
    SetListenPort,
)
from nvpn.transport.udp import UdpSockets, open_udp
from tests.support.descriptors import descriptors
from tests.support.memory_tunnel import MemoryTunnel
from tests.support.ports import free_port, free_ports, is_free
from tests.support.scenarios import A, apply, play


def test_the_port_is_bound_only_while_the_link_is_up_and_remembered_while_it_is_not() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        before = len(descriptors())
        port = free_port()
        await apply(tunnel, SetListenPort(port))
        assert is_free(port)
        await tunnel.backend.bring_up()
        await tunnel.backend.bring_up()
        assert not is_free(port)
        await tunnel.backend.bring_down()
        assert is_free(port)
        assert tunnel.backend.listen_port == port
        assert len(descriptors()) == before
        await tunnel.backend.bring_up()
        assert not is_free(port)
        await tunnel.close()
        assert is_free(port)

    play(scenario)


def test_a_random_port_is_chosen_when_the_link_comes_up_and_stays() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        assert tunnel.backend.snapshot().listen_port == 0
        await tunnel.backend.bring_up()
        port = tunnel.backend.snapshot().listen_port
        assert port
        await tunnel.backend.bring_down()
        await tunnel.backend.bring_up()
        assert tunnel.backend.snapshot().listen_port == port
        await tunnel.close()

    play(scenario)


def test_a_changed_port_moves_the_sockets_and_closes_the_old_ones() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        first, second = free_ports(2)
        await apply(tunnel, SetListenPort(first))
        await tunnel.backend.bring_up()
        before = len(descriptors())
        await apply(tunnel, SetListenPort(second))
        assert is_free(first)
        assert not is_free(second)
        assert len(descriptors()) == before
        await apply(tunnel, SetListenPort(second))
        await apply(tunnel, SetListenPort(0))
        assert tunnel.backend.listen_port not in (0, second)
        assert len(descriptors()) == before
        await tunnel.close()

    play(scenario)


def test_a_port_that_is_taken_refuses_the_plan_and_the_old_port_goes_on() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        await tunnel.backend.bring_up()
        port = tunnel.backend.listen_port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("", 0))
            taken = other.getsockname()[1]
            with pytest.raises(ControlError) as refused:
                await apply(tunnel, AddPeer(A), SetFwmark(5), SetListenPort(taken))
        assert refused.value.errno == errno.EADDRINUSE
        snapshot = tunnel.backend.snapshot()
        assert (snapshot.peers, snapshot.fwmark, snapshot.listen_port) == ((), 0, port)
        assert not is_free(port)
        await tunnel.close()

    play(scenario)


def test_a_taken_port_keeps_the_link_down_and_a_second_try_works() -> None:
    async def scenario() -> None:
        tunnel = MemoryTunnel()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("", 0))
            await apply(tunnel, SetListenPort(other.getsockname()[1]))
            with pytest.raises(ControlError):
                await tunnel.backend.bring_up()
        await tunnel.backend.bring_up()
        assert not is_free(tunnel.backend.listen_port)
        await tunnel.close()

    play(scenario)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN for SO_MARK")
def test_a_mark_is_set_on_the_sockets_that_are_there() -> None:
    async def scenario() -> None:
        opened: list[UdpSockets] = []

        def open_sockets(port: int, mark: int) -> UdpSockets:
            opened.append(open_udp(port, mark))
            return opened[-1]

        tunnel = MemoryTunnel(open_sockets=open_sockets)
        await apply(tunnel, SetFwmark(1))
        await tunnel.backend.bring_up()
        assert [mark_of(fd) for fd in (opened[0].ipv4, opened[0].ipv6)] == [1, 1]
        await apply(tunnel, SetFwmark(0xCA6C))
        assert [mark_of(fd) for fd in (opened[0].ipv4, opened[0].ipv6)] == [0xCA6C, 0xCA6C]
        await apply(tunnel, SetListenPort(0))
        assert mark_of(opened[1].ipv4) == 0xCA6C
        await apply(tunnel, SetFwmark(0))
        assert mark_of(opened[1].ipv4) == 0
        assert len(opened) == 2
        await tunnel.close()

    play(scenario)


def test_a_mark_that_is_not_permitted_refuses_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sockets: UdpSockets, mark: int) -> None:
        raise PlatformError("set the firewall mark", errno=errno.EPERM)

    async def scenario() -> None:
        tunnel = MemoryTunnel()
        await tunnel.backend.bring_up()
        monkeypatch.setattr("nvpn.backend.sockets.set_fwmark", refuse)
        with pytest.raises(ControlError) as refused:
            await apply(tunnel, SetFwmark(5), AddPeer(A))
        assert refused.value.errno == errno.EPERM
        assert tunnel.backend.snapshot().peers == ()
        assert tunnel.backend.snapshot().fwmark == 0
        await tunnel.close()

    play(scenario)


def mark_of(fd: int) -> int:
    borrowed = socket.socket(fileno=os.dup(fd))
    with borrowed:
        return borrowed.getsockopt(socket.SOL_SOCKET, 36)
