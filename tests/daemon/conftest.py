"""Machines to type commands on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.machines import Machine
from tests.support.world import World, new_world

PEER = PrivateKey(bytes(range(32))).public().base64
CONFIG = f"""
[interface]
private_key = "PRIVATE"
address = ["10.9.0.1/24", "fd09::1/64"]

[[peer]]
name = "bob"
public_key = "{PEER}"
endpoint = "127.0.0.1:5"
allowed_ips = ["10.9.0.2/32", "10.20.0.0/16", "fd09::2/128", "fd20::/48"]
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with new_world(tmp_path) as made:
        yield made


@pytest.fixture
def machine(world: World) -> Machine:
    return Machine(world, "a")


@dataclass
class Pair:
    """Two machines on one cable, 10.77.1.1 and 10.77.1.2; configured to be each other's peer."""

    alice: Machine
    bob: Machine

    def configuration(self, machine: Machine, extra: str = "", *, endpoint: bool = True) -> str:
        other = self.bob if machine is self.alice else self.alice
        mine, theirs = (1, 2) if machine is self.alice else (2, 1)
        where = f'endpoint = "10.77.1.{theirs}:51820"' if endpoint else ""
        return f"""
[interface]
private_key = "PRIVATE"
address = "10.9.0.{mine}/24"
listen_port = 51820

[[peer]]
public_key = "{other.public_key}"
allowed_ips = ["10.9.0.{theirs}/32"]
{where}
{extra}
"""


@pytest.fixture
def pair(world: World) -> Pair:
    made = Pair(Machine(world, "a"), Machine(world, "b"))
    world.link(made.alice.host, made.bob.host)
    return made
