"""What a server costs its clients (for scripts/bench): each with both datapaths."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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
    """All want a lease at once; then some ping and one sends: alone, beside others that stall,
    beside others that misbehave, and beside a process that takes as much of the processors as
    those did and sends nothing."""

    def once(name: str) -> list[float]:
        with fresh(world, name) as storm:
            many = Crowd(storm, options.peers or CLIENTS)
            many.server.nvpn("up", "wg0.toml")
            told = many.lease()
            assert not told["failed"], told["failed"]
        with fresh(world, name) as mixed:
            some = Crowd(mixed, AMONG)
            some.server.nvpn("up", "wg0.toml")
            some.guest.nvpn("up", "wg0.toml")
            honest, others = slice(AMONG - STALLED), slice(AMONG - STALLED, None)

            def measure() -> tuple[float, float, float]:
                told = some.ping(honest, PINGS)
                lost = 100 * (1 - told["answered"] / told["sent"])
                return told["median_ms"], lost, transfer(some, options.seconds)

            ping, _, rate = measure()
            row = [told["seconds"], ping, rate]
            for how in ("stall", "misbehave"):
                with some.misbehaving(others, how) as process:
                    begun, used = time.monotonic(), processor_seconds(process)
                    slower, lost, less = measure()
                    used = processor_seconds(process) - used
                    share = used / (time.monotonic() - begun)
                row += [slower / ping, lost, less / rate, share]
            with burning(share):
                slower, _, less = measure()
            return [*row, slower / ping, less / rate]

    rows = interleave(datapaths(), options.rounds, once)
    columns = ["ping / alone", "% lost", "TCP / alone", "processors taken"]
    part(rows, f"crowd: {options.peers or CLIENTS} at once", 0, ["s, all leased"])
    part(rows, f"crowd: of {AMONG}, nobody is in the way", 1, ["ms, ping", "Gbit/s, TCP"])
    part(rows, f"crowd: {STALLED} of {AMONG} stall", 3, columns)
    part(rows, f"crowd: {STALLED} of {AMONG} misbehave", 7, columns)
    part(rows, "crowd: the same processors taken, nothing sent", 11, columns[::2])
    return rows


def part(rows: Rows, title: str, first: int, columns: list[str]) -> None:
    """A table of some of the columns."""
    last = first + len(columns)
    table(title, columns, {name: [row[first:last] for row in runs] for name, runs in rows.items()})


def processor_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def burning(share: float) -> Iterator[None]:
    """A process that takes so much of one processor, in slices of 5 ms."""
    process = subprocess.Popen([sys.executable, "-c", _BURN, str(min(share, 1.0))])
    try:
        yield
    finally:
        process.kill()
        process.wait()


_BURN = """
import sys, time
share, used = float(sys.argv[1]), time.process_time
begun, at_first = time.monotonic(), used()
while True:
    while used() - at_first < share * (time.monotonic() - begun):
        pass
    time.sleep(0.005)
"""


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
