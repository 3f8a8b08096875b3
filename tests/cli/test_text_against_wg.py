"""Byte for byte: the real `wg show` and ours ask the same sockets, through pipe and terminal."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nvpn.cli.text import FIELDS
from nvpn.model.keys import PrivateKey
from tests.support.cli import (
    NVPN,
    Done,
    clean_environment,
    fake_daemon,
    key,
    run,
    run_on_terminal,
)
from tests.support.own_namespace import in_new_namespace
from tests.support.world import is_answering, wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace"),
    pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg (wireguard-tools)"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)"),
]

# wg knows one directory only: let it be ours, for this program alone.
_IN_OUR_DIRECTORY = (
    'mount -t tmpfs none "$(realpath /var/run)" && mkdir /var/run/wireguard && '
    'mount --bind "$1" /var/run/wireguard && shift && exec "$@"'
)

SECOND, MINUTE, HOUR, DAY, YEAR = 1, 60, 3600, 86400, 365 * 86400


def device(*, private: bool = True, port: int = 0, mark: int = 0) -> list[str]:
    lines = [f"private_key={key(77)}"] if private else []
    lines += [f"listen_port={port}"] if port else []
    return lines + ([f"fwmark={mark}"] if mark else [])


def peer(
    number: int,
    *,
    psk: bool = False,
    endpoint: str = "",
    handshake: int = 0,
    nanoseconds: int = 0,
    rx: int = 0,
    tx: int = 0,
    keepalive: int = 0,
    allowed: tuple[str, ...] = (),
) -> list[str]:
    lines = [f"public_key={key(number)}", f"preshared_key={key(5) if psk else key(0)}"]
    lines += ["protocol_version=1"]
    lines += [f"endpoint={endpoint}"] if endpoint else []
    lines += [f"last_handshake_time_sec={handshake}", f"last_handshake_time_nsec={nanoseconds}"]
    lines += [f"tx_bytes={tx}", f"rx_bytes={rx}", f"persistent_keepalive_interval={keepalive}"]
    return lines + [f"allowed_ip={prefix}" for prefix in allowed]


def handshakes(now: int) -> list[str]:
    ages = [
        *(0, 1, 59, 60, 61, MINUTE * 2, HOUR, HOUR + 1, DAY, DAY + HOUR, 2 * DAY, YEAR),
        *(YEAR + DAY + HOUR + MINUTE + SECOND, 2 * YEAR + 5 * DAY, now - 1, -1, -5 * YEAR),
    ]
    lines = device()
    for number, age in enumerate(ages, 1):
        lines += peer(number, handshake=now - age)
    return lines


def sizes(now: int) -> list[str]:
    counts = [0, 1, 999, 1023, 1024, 1025, 1535, 10240, 2**64 - 1]
    for power in (20, 30, 40, 50):
        counts += [2**power - 1, 2**power, 2**power + 2 ** (power - 1) + 12345]
    lines = device()
    for number, count in enumerate(counts, 1):
        lines += peer(number, rx=count, tx=counts[-number])
    return lines


def order(now: int) -> list[str]:
    """Ties by the second and by the nanosecond, and those that never were, spread about."""
    lines = device()
    for number, (age, nanoseconds) in enumerate(
        [(0, 0), (5, 3), (9, 0), (5, 4), (0, 0), (5, 3), (7, 0), (0, 7), (5, 0), (9, 0)], 1
    ):
        lines += peer(number, handshake=now - age if age else 0, nanoseconds=nanoseconds)
    return lines


def endpoints(now: int) -> list[str]:
    loopback = socket.if_nametoindex("lo")
    lines = device(port=1, mark=1)
    for number, endpoint in enumerate(
        [
            "192.0.2.7:51820",
            "192.0.2.7:0",
            "[2001:db8::1]:51820",
            "[2001:0db8:0000::0001]:51820",
            "[::ffff:192.0.2.7]:65535",
            "[::1]:1",
            "[fe80::1%lo]:51820",
            f"[fe80::1%{loopback}]:51820",
            "[fe80::1%4711]:51820",
            "[fe80::1]:51820",
            "[2001:db8::1%7]:51820",
        ],
        1,
    ):
        lines += peer(number, endpoint=endpoint)
    return lines


def prefixes(now: int) -> list[str]:
    many = tuple(f"10.{n // 256}.{n % 256}.0/24" for n in range(3000))
    odd = ("0.0.0.0/0", "::/0", "::ffff:10.0.0.1/128", "fd00:0:0:0::/64", "2001:db8::/32")
    return [*device(), *peer(1, allowed=many), *peer(2), *peer(3, allowed=odd)]


def everything(now: int) -> list[str]:
    return [
        *device(port=51820, mark=0xCA6C),
        *peer(1, psk=True, endpoint="192.0.2.7:51820", handshake=now - 75, rx=5, tx=7,
              keepalive=25, allowed=("10.0.0.0/8", "fd00::/64")),
        *peer(2, keepalive=1, rx=3),
        *peer(3, psk=True, keepalive=65535, handshake=now + 9, allowed=("10.9.0.0/16",)),
    ]  # fmt: skip


CASES: dict[str, Callable[[int], list[str]]] = {
    "no key": lambda now: device(private=False),
    "a key alone": lambda now: device(),
    "no key, but a peer": lambda now: [*device(private=False, port=9), *peer(1)],
    "port and mark": lambda now: device(port=65535, mark=0xFFFFFFFF),
    "handshakes": handshakes,
    "sizes": sizes,
    "order": order,
    "endpoints": endpoints,
    "prefixes": prefixes,
    "everything": everything,
    "keys that wg does not know": lambda now: [
        *device(),
        f"nvpn_public_key={PrivateKey.from_hex(key(77)).public().hex}",
        *("nvpn_mtu=1420", "nvpn_drop=bad-tag 3"),
        *peer(1),
        *("nvpn_name=laptop", "nvpn_handshake_attempts=4"),
    ],
}


class Bench:
    """A directory of control sockets, and both programs looking at it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def argv(self, *command: str) -> tuple[str, ...]:
        return (
            "unshare",
            "-m",
            "sh",
            "-c",
            _IN_OUR_DIRECTORY,
            "sh",
            str(self.directory),
            *command,
        )

    def both(self, *arguments: str, **variables: str) -> tuple[Done, Done]:
        """wg and nvpn, asked in the same second."""
        for _ in range(100):
            before = run(*self.argv("wg", "show", *arguments), **variables)
            ours = run(*self.argv(*NVPN, "show", *arguments), **variables)
            if run(*self.argv("wg", "show", *arguments), **variables) == before:
                return before, ours
        raise AssertionError("wg never said the same twice")

    def both_on_terminals(self, *arguments: str, **variables: str) -> tuple[object, object]:
        for _ in range(100):
            before = run_on_terminal(*self.argv("wg", "show", *arguments), **variables)
            ours = run_on_terminal(*self.argv(*NVPN, "show", *arguments), **variables)
            if run_on_terminal(*self.argv("wg", "show", *arguments), **variables) == before:
                return before, ours
        raise AssertionError("wg never said the same twice")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def wg0(request: pytest.FixtureRequest, bench: Bench) -> Iterator[str]:
    """One tunnel of every kind."""
    lines = CASES[request.param](int(time.time()))
    with fake_daemon(bench.directory, "wg0", lines):
        yield "wg0"


def test_the_text_for_people(bench: Bench, wg0: str) -> None:
    theirs, ours = bench.both(wg0)
    assert theirs.status == 0
    assert ours == theirs


def test_the_text_on_a_terminal_has_the_same_colours(bench: Bench, wg0: str) -> None:
    theirs, ours = bench.both_on_terminals(wg0)
    assert ours == theirs
    assert b"\x1b[32m" in theirs[1]  # type: ignore[index]


def test_every_field(bench: Bench, wg0: str) -> None:
    for field in FIELDS:
        theirs, ours = bench.both(wg0, field)
        assert theirs.status == 0
        assert ours == theirs, field


def test_keys_are_shown_to_those_who_ask(bench: Bench, wg0: str) -> None:
    theirs, ours = bench.both(wg0, WG_HIDE_KEYS="never")
    assert ours == theirs


@pytest.mark.parametrize("mode", ["always", "never", "auto", "nonsense"])
def test_the_colour_mode(bench: Bench, mode: str) -> None:
    with fake_daemon(bench.directory, "wg0", everything(int(time.time()))):
        theirs, ours = bench.both("wg0", WG_COLOR_MODE=mode)
        assert ours == theirs
        assert ("\x1b" in ours.out) == (mode == "always")
        theirs_there, ours_there = bench.both_on_terminals("wg0", WG_COLOR_MODE=mode)
        assert ours_there == theirs_there


def test_random_tunnels(bench: Bench) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    dice = random.Random(seed)
    now = int(time.time())
    lines = device(port=dice.randrange(65536), mark=dice.randrange(2**32))
    for number in range(1, 300):
        lines += peer(
            number,
            psk=dice.random() < 0.5,
            endpoint=dice.choice(["", f"10.0.0.{dice.randrange(256)}:{dice.randrange(65536)}"]),
            handshake=dice.choice([0, now - int(10 ** dice.uniform(0, 9.2)), now + 99]),
            nanoseconds=dice.randrange(10**9),
            rx=int(2 ** dice.uniform(0, 64)) - 1,
            tx=int(2 ** dice.uniform(0, 64)) - 1,
            keepalive=dice.choice([0, dice.randrange(65536)]),
            allowed=tuple(f"10.{dice.randrange(256)}.0.0/16" for _ in range(dice.randrange(4))),
        )
    with fake_daemon(bench.directory, "wg0", lines):
        for arguments in (("wg0",), ("wg0", "dump"), ("all", "dump")):
            theirs, ours = bench.both(*arguments)
            assert ours == theirs, f"seed {seed}"


@in_new_namespace
def test_a_tunnel_of_our_own(bench: Bench) -> None:
    """The real daemon instead of canned answers, told by wg what to be."""
    private, psk = (bench.directory / name for name in ("private", "psk"))
    for path in (private, psk):
        path.touch(0o600)
        path.write_text(run("wg", "genkey").out)
    public = run("wg", "pubkey", stdin=run("wg", "genkey").out).out.strip()
    daemon = subprocess.Popen(bench.argv(*NVPN, "-f", "s8own"), env=clean_environment())
    try:
        wait_until(lambda: is_answering(bench.directory / "s8own.sock"), 30, "it answers")
        wg_set = bench.argv("wg", "set", "s8own")
        for settings in (
            ("private-key", str(private), "fwmark", "0xca6c", "listen-port", "45678"),
            ("peer", public, "preshared-key", str(psk), "endpoint", "[::1]:9",
             "persistent-keepalive", "25", "allowed-ips", "10.0.0.0/8,fd00::/64"),
        ):  # fmt: skip
            assert run(*wg_set, *settings) == Done(0, "", "")
        for arguments in ((), ("s8own",), *(("s8own", field) for field in FIELDS)):
            theirs, ours = bench.both(*arguments)
            assert ours == theirs
            assert theirs.out
        assert "public key: " in bench.both("s8own")[1].out
    finally:
        daemon.terminate()
        assert daemon.wait(30) == 0


def test_several_interfaces_at_once(bench: Bench) -> None:
    now = int(time.time())
    with ExitStack() as stack:
        for name, lines in (("wg0", everything(now)), ("wg1", device()), ("wg2", sizes(now))):
            stack.enter_context(fake_daemon(bench.directory, name, lines))
        for arguments in ((), ("all",), ("interfaces",)):
            theirs, ours = bench.both(*arguments)
            assert ours == theirs
        for field in FIELDS:
            theirs, ours = bench.both("all", field)
            if field == "endpoints" and ours != theirs:
                # Older tools name the interface before the first peer only.
                heads = [f"wg{n}\t" for n in range(3)]
                assert [line.split("\t")[-2:] for line in ours.out.splitlines()] == [
                    line.split("\t")[-2:] for line in theirs.out.splitlines() if line not in heads
                ]
                assert all(line.startswith("wg") for line in ours.out.splitlines())
            else:
                assert ours == theirs, field


def test_no_interface_at_all(bench: Bench) -> None:
    for arguments in ((), ("all",), ("interfaces",), ("all", "dump"), ("all", "nonsense")):
        theirs, ours = bench.both(*arguments)
        assert ours == theirs == Done(0, "", "")


def complaint(done: Done) -> tuple[int, str, str]:
    """Without what depends on the kernel: whether it has WireGuard itself."""
    text = done.err.replace("Usage: wg", "Usage: nvpn")
    for missing in ("Protocol not supported", "Operation not supported"):
        text = text.replace(missing, "No such device")
    return done.status, done.out, text


@pytest.mark.parametrize(
    "arguments",
    [
        ("wg9",),
        ("wg9", "peers"),
        ("wg9", "nonsense"),
        ("wg0", "nonsense"),
        ("all", "nonsense"),
        ("wg0", "peers", "dump"),
        ("interfaces", "dump"),
    ],
    ids=" ".join,
)
def test_mistakes_get_the_same_words_and_status(bench: Bench, arguments: tuple[str, ...]) -> None:
    with fake_daemon(bench.directory, "wg0", device()):
        theirs, ours = bench.both(*arguments)
        assert complaint(ours) == complaint(theirs)
        assert ours.status == 1


def test_a_daemon_that_refuses_is_quoted(bench: Bench) -> None:
    with fake_daemon(bench.directory, "wg0", [], errno=13):
        for arguments in (("wg0",), ("all",), (), ("wg0", "dump"), ("all", "dump")):
            theirs, ours = bench.both(*arguments)
            assert ours == theirs
            assert ours.err.endswith("Permission denied\n")


def test_one_that_refuses_does_not_spoil_the_others(bench: Bench) -> None:
    with (
        fake_daemon(bench.directory, "wg0", [], errno=5),
        fake_daemon(bench.directory, "wg1", device()),
    ):
        theirs, ours = bench.both("all", "public-key")
        assert ours == theirs
        assert ours.status == 0


def test_nonsense_from_a_daemon_is_a_protocol_error(bench: Bench) -> None:
    for lines in (["private_key=xyz"], ["nonsense"], [f"public_key={key(1)}", "rx_bytes=many"]):
        with fake_daemon(bench.directory, "wg0", lines):
            theirs, ours = bench.both("wg0")
            assert ours == theirs
            assert ours.status == 1
        (bench.directory / "wg0.sock").unlink()


def test_the_socket_of_a_dead_daemon_is_passed_over_and_removed(bench: Bench) -> None:
    for program in (("wg", "show"), (*NVPN, "show")):
        with fake_daemon(bench.directory, "wg0", device()):
            pass
        assert (bench.directory / "wg0.sock").exists()
        assert run(*bench.argv(*program, "interfaces")) == Done(0, "", "")
        assert not (bench.directory / "wg0.sock").exists()


def test_other_files_in_the_directory_are_left_alone(bench: Bench) -> None:
    (bench.directory / "notes.sock").write_text("mine")
    (bench.directory / "readme").write_text("mine")
    theirs, ours = bench.both("interfaces")
    assert ours == theirs == Done(0, "", "")
    assert (bench.directory / "notes.sock").read_text() == "mine"
