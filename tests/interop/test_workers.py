"""A tunnel of several workers and queues on real devices: traffic, its end, a new namespace."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.machines import Machine
from tests.support.streams import stream
from tests.support.world import World, wait_until

pytestmark = [pytest.mark.root, pytest.mark.interop]

NUMBERS = {"a": 1, "b": 2}
SEVERAL = "workers = 3\nqueues = 2"
SEGMENT = 1420 - 20 - 32  # headers of IP and of TCP with timestamps


@dataclass
class Two:
    """Machines a and b, 10.77.1.1 and .2 outside, 10.9.0.1 and .2 inside; nvpn runs on both."""

    a: Machine
    b: Machine
    near: subprocess.Popen[str]


def two(world: World, near: str = SEVERAL, far: str = SEVERAL) -> Two:
    a, b = Machine(world, "a"), Machine(world, "b")
    world.link(a.host, b.host)
    processes = []
    for mine, theirs, options in ((a, b, near), (b, a, far)):
        number, other = NUMBERS[mine.name], NUMBERS[theirs.name]
        mine.write(
            f"""
[interface]
private_key = "PRIVATE"
address = ["10.9.0.{number}/24", "fd09::{number}/64"]
listen_port = 51820
{options}

[[peer]]
public_key = "{theirs.public_key}"
allowed_ips = ["10.9.0.{other}", "fd09::{other}"]
endpoint = "10.77.1.{other}:51820"
"""
        )
        processes.append(mine.start("up", "-f", "wg0.toml"))
    for process in processes:
        Machine.wait_until_ready(process)
    return Two(a, b, processes[0])


@pytest.mark.parametrize("far", [SEVERAL, ""], ids=["several-to-several", "several-to-one"])
def test_many_streams_pass_in_both_directions(world: World, far: str) -> None:
    t = two(world, far=far)
    for speaker, number in ((t.a, 2), (t.b, 1)):
        assert speaker.host.ping(f"10.9.0.{number}") == (3, 3)
        assert speaker.host.ping(f"fd09::{number}") == (3, 3)
    a, b = t.a.host, t.b.host
    stream(a, b, "10.9.0.2", 1_500_000, count=8)
    stream(b, a, "10.9.0.1", 1_500_000, count=8)
    with ThreadPoolExecutor() as both:
        there = both.submit(stream, a, b, "10.9.0.2", 1_500_000, count=4)
        back = both.submit(stream, b, a, "10.9.0.1", 1_500_000, count=4)
    assert there.result() == back.result() == SEGMENT
    assert t.a.host.ping("10.9.0.2", count=100, interval=0.01) == (100, 100)


def test_no_flow_is_forgotten_in_any_queue(world: World) -> None:
    t = two(world)
    assert t.a.host.ping("10.9.0.2", count=1) == (1, 1)
    sockets = "import socket; [socket.socket(2, 2).sendto(b'.' * 32, ('10.9.0.2', 9 + n))"
    t.a.host.run("python3", "-c", f"{sockets} for n in range(200)]")

    def received() -> int:
        out = t.b.host.run("nstat", "-asz", "UdpNoPorts")
        return int(out.split()[-2])

    wait_until(lambda: received() >= 200, 30, "all 200 datagrams come out")


def test_datagrams_of_a_flow_stay_in_order(world: World) -> None:
    t = two(world)
    assert t.a.host.ping("10.9.0.2") == (3, 3)
    for direction in ((), ("-R",)):
        result: Any = t.a.host.iperf3(
            *("10.9.0.2", t.b.host, "-u", "-b", "20M", "-l", "1300", "-P", "4", *direction),
            seconds=1,
        )
        streams = [stream["udp"] for stream in result["end"]["streams"]]
        assert [stream["out_of_order"] for stream in streams] == [0] * 4
        assert all(stream["packets"] > 1000 for stream in streams)


def test_the_deletion_of_the_interface_ends_it(world: World) -> None:
    t = two(world)
    t.a.host.run("ip", "link", "delete", "wg0")
    assert t.near.wait(30) == 0
    assert t.a.is_clean()


def test_in_another_namespace_it_carries_on(world: World) -> None:
    t = two(world)
    assert t.a.host.ping("10.9.0.2") == (3, 3)
    inner = world.host("inner")
    t.a.host.run("ip", "link", "set", "wg0", "netns", inner.netns)
    inner.run("ip", "address", "add", "10.9.0.1/24", "dev", "wg0")
    inner.run("ip", "link", "set", "wg0", "up")
    wait_until(lambda: inner.ping("10.9.0.2", count=1, wait=1) == (1, 1), 30, "a ping passes")
    stream(inner, t.b.host, "10.9.0.2", 200_000, count=8)
    inner.run("ip", "link", "delete", "wg0")
    assert t.near.wait(30) == 0


def test_workers_that_nobody_needs_end_with_the_tunnel(world: World, datapath: str) -> None:
    t = two(world, near="workers = 16")
    assert t.a.host.ping("10.9.0.2") == (3, 3)
    threads = len(os.listdir(f"/proc/{t.near.pid}/task"))
    assert threads > 16 if datapath == "native" else threads < 16
    t.a.nvpn("down", "wg0")
    assert t.near.wait(30) == 0
    assert t.a.is_clean()
