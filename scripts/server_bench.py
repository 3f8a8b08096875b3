"""What a server costs its clients (for scripts/bench): each with both datapaths."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator

import checkout  # noqa: F401 - finds nvpn
from rounds import Rows, interleave, table

from nvpn.datapath.choice import VARIABLE, find_missing
from tests.support.crowd import INSIDE, Crowd
from tests.support.machines import Machine
from tests.support.world import World

CLIENTS = 500
AMONG, STALLED, PINGS = 50, 10, 50


def datapaths() -> list[str]:
    return ["python"] if find_missing() else ["native", "python"]


@contextlib.contextmanager
def fresh(world: World, datapath: str) -> Iterator[World]:
    """A world for one run, whose daemons have the datapath."""
    directory = world.directory / os.urandom(4).hex()
    directory.mkdir()
    made = World(directory, f"bs{os.urandom(2).hex()}")
    os.environ[VARIABLE] = datapath
    try:
        yield made
    finally:
        del os.environ[VARIABLE]
        made.close()


def crowd(options: argparse.Namespace, world: World) -> Rows:
    """All want a lease at once; then some ping and one sends, alone and beside others that
    misbehave."""

    def once(name: str) -> list[float]:
        with fresh(world, name) as storm:
            many = Crowd(storm, options.peers or CLIENTS)
            many.server.nvpn("up", "wg0.toml")
            told = many.lease()
            assert not told["failed"], told["failed"]
        with fresh(world, name) as mixed:
            some = Crowd(mixed, AMONG)
            some.server.nvpn("up", "wg0.toml")
            honest, others = slice(AMONG - STALLED), slice(AMONG - STALLED, None)
            some.guest.nvpn("up", "wg0.toml")
            alone, free = some.ping(honest, PINGS), transfer(some, options.seconds)
            with some.misbehaving(others):
                beside, taken = some.ping(honest, PINGS), transfer(some, options.seconds)
        lost = 100 * (1 - beside["answered"] / beside["sent"])
        return [
            told["seconds"],
            alone["median_ms"],
            beside["median_ms"],
            beside["median_ms"] / alone["median_ms"],
            lost,
            free,
            taken / free,
        ]

    rows = interleave(datapaths(), options.rounds, once)
    table(
        f"crowd: {options.peers or CLIENTS} at once; {AMONG}, of whom {STALLED} misbehave",
        [
            "s, all leased",
            "ms, ping alone",
            "ms, beside",
            "beside / alone",
            "% lost",
            "Gbit/s, alone",
            "beside / alone",
        ],
        rows,
    )
    return rows


def transfer(crowd: Crowd, seconds: float) -> float:
    """Gbit/s of TCP from a client on its own machine to the server."""
    done = crowd.guest.host.iperf3(INSIDE, crowd.server.host, seconds=seconds)
    return float(done["end"]["sum_received"]["bits_per_second"] / 1e9)


def port_filter(options: argparse.Namespace, world: World) -> Rows:
    """A TCP transfer into a host without a filter, behind one, and behind one that takes
    answers only, while the host is whom the data comes to."""

    def once(name: str) -> list[float]:
        with fresh(world, name) as made:
            alice, bob = Machine(made, "a"), Machine(made, "b")
            made.link(alice.host, bob.host)
            rates = []
            for ports in ("", 'disallowed_ports = ["tcp/22", "udp/1-1023"]', "allowed_ports = []"):
                write(alice, bob, 1, 2, ports)
                write(bob, alice, 2, 1, "")
                for machine in (alice, bob):
                    machine.nvpn("up", "wg0.toml")
                # Alice asks, and Bob sends: it passes as an answer.
                done = alice.host.iperf3("10.9.0.2", bob.host, "-R", seconds=options.seconds)
                rates.append(done["end"]["sum_received"]["bits_per_second"] / 1e9)
                for machine in (alice, bob):
                    machine.nvpn("down", "wg0")
        bare, closed, answers = rates
        return [bare, closed, answers, closed / bare, answers / bare]

    rows = interleave(datapaths(), options.rounds, once)
    table(
        "filter: TCP towards the host that filters",
        ["Gbit/s, no filter", "two lists", "answers only", "lists / none", "answers / none"],
        rows,
    )
    return rows


def write(machine: Machine, other: Machine, mine: int, theirs: int, ports: str) -> None:
    machine.write(
        f"""
[interface]
private_key = "PRIVATE"
address = ["10.9.0.{mine}/24"]
listen_port = 51820
{ports}

[[peer]]
public_key = "{other.public_key}"
endpoint = "10.77.1.{theirs}:51820"
allowed_ips = ["10.9.0.{theirs}/32"]
"""
    )
