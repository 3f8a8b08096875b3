"""Packets between a host and the correspondents of a :class:`tests.support.datapaths.Rig`."""

from __future__ import annotations

import hashlib
import random

import pytest

from nvpn.datapath.commands import SetAdmission
from nvpn.wire.crypto import mac
from tests.support.cores import ipv4, ipv6
from tests.support.datapaths import SETUPS

setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
families = pytest.mark.parametrize("version", [4, 6], ids=["outside ipv4", "outside ipv6"])


def to(number: int, size: int = 64, version: int = 4) -> bytes:
    """A packet from the host to correspondent ``number``."""
    data = random.Random(size).randbytes(size)
    if version == 4:
        return ipv4("10.0.0.1", f"10.0.{number}.2", data)
    return ipv6("fd00::1", f"fd00:{number}::2", data)


def coming_from(number: int, size: int = 64, version: int = 4, tos: int = 0) -> bytes:
    """A packet from correspondent ``number`` to the host."""
    data = random.Random(size).randbytes(size)
    if version == 4:
        return ipv4(f"10.0.{number}.2", "10.0.0.1", data, tos=tos)
    return ipv6(f"fd00:{number}::2", "fd00::1", data, tos=tos)


def initiation(key: bytes, seed: int = 1) -> bytes:
    """148 bytes that pass admission, and nothing more."""
    body = b"\1\0\0\0" + random.Random(seed).randbytes(112)
    return body + mac(key, body) + bytes(16)


MAC1_KEY = hashlib.blake2s(b"mac1").digest()
ADMIT = SetAdmission(MAC1_KEY, bytes(32), bytes(32))
