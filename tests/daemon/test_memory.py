"""The state file: whole or not at all, private, never trusted."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.daemon.memory import PeerMemory, TunnelMemory, read_memory, write_memory
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PublicKey

ALICE = PublicKey(bytes(range(32)))
BOB = PublicKey(bytes(range(1, 33)))
MEMORY = TunnelMemory(
    timestamp=bytes(range(12)),
    listen_port=51820,
    peers={
        ALICE: PeerMemory(Endpoint.parse("192.0.2.1:51820"), 1_700_000_000_123_456_789),
        BOB: PeerMemory(Endpoint.parse("[2001:db8::1]:7")._replace(scope=3), 0),
    },
)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "wg0.json")

    write_memory(path, MEMORY)

    assert read_memory(path) == (MEMORY, "")


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "wg0.json"

    write_memory(str(path), MEMORY)

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["wg0.json"]


def test_no_file_is_no_memory_and_nothing_to_tell(tmp_path: Path) -> None:
    assert read_memory(str(tmp_path / "none.json")) == (TunnelMemory(), "")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": 2}',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"version": 1, "timestamp": "00", "listen_port": 0, "peers": {}}).encode(),
        json.dumps({"version": 1, "timestamp": None, "listen_port": -1, "peers": {}}).encode(),
        json.dumps({"version": 1, "timestamp": None, "listen_port": True, "peers": {}}).encode(),
        json.dumps(
            {"version": 1, "timestamp": None, "listen_port": 0, "peers": {"x": {}}}
        ).encode(),
    ],
    ids=range(11),
)
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wg0.json"
    path.write_bytes(content)

    assert read_memory(str(path)) == (TunnelMemory(), "it is not a state file")


@settings(deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text() | st.booleans(), st.lists))
def test_no_value_in_the_place_of_peers_raises(tmp_path_factory, value: object) -> None:
    path = tmp_path_factory.mktemp("state") / "wg0.json"
    document = {"version": 1, "timestamp": None, "listen_port": 0}
    for peers in (value, {ALICE.base64: value}, {ALICE.base64: {"last_handshake": value}}):
        path.write_text(json.dumps({**document, "peers": peers}))

        memory, problem = read_memory(str(path))

        assert problem or memory.listen_port == 0


def test_the_rest_of_a_killed_writer_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".wg0.json.new").write_text("half of")

    write_memory(str(tmp_path / "wg0.json"), MEMORY)

    assert os.listdir(tmp_path) == ["wg0.json"]


def test_a_link_planted_for_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".wg0.json.new").symlink_to(victim)

    write_memory(str(tmp_path / "wg0.json"), MEMORY)

    assert victim.read_text() == "precious"
    assert read_memory(str(tmp_path / "wg0.json")) == (MEMORY, "")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_full_disk_leaves_the_old_file_intact(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "m7", tmp_path], check=True)
    try:
        path = str(tmp_path / "wg0.json")
        write_memory(path, MEMORY)
        many = {
            PublicKey(number.to_bytes(32, "big")): PeerMemory(None, 1) for number in range(2000)
        }

        with pytest.raises(OSError, match="No space left"):
            write_memory(path, TunnelMemory(None, 0, many))

        assert read_memory(path) == (MEMORY, "")
        assert os.listdir(tmp_path) == ["wg0.json"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
