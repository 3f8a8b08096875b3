"""Side by side with the real `wg`: the same words, the same answers, the same bytes sent."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.cli import NVPN, Done, here, nvpn, run
from tests.support.wg_daemon import NotingDaemon, noting_daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for /var/run/wireguard"),
    pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg (wireguard-tools)"),
]

ADA, BOB, EVE = (PrivateKey(bytes([n]) * 32).public() for n in (1, 2, 3))
SECRET = PrivateKey(b"\x05" * 32).reveal_base64()


class Both:
    """wg and nvpn, asked the same of the same daemon."""

    def __init__(
        self,
        name: str,
        daemon: NotingDaemon,
        directory: Path,
        capture: pytest.CaptureFixture[str],
        patch: pytest.MonkeyPatch,
    ) -> None:
        self.name = name
        self.daemon = daemon
        self.directory = directory
        self.sent: list[str] = []
        self._capture = capture
        self._patch = patch

    def let(self, variable: str, value: str) -> None:
        """Set a variable for both."""
        self._patch.setenv(variable, value)

    def __call__(self, *words: str, stdin: str | None = None) -> Done:
        """What both say, after it was found to be the same; usage names the program."""
        theirs = run("wg", *words, stdin=stdin)
        their_sets = self.daemon.take()
        ours = here(self._capture, *words) if stdin is None else nvpn(*words, stdin=stdin)
        our_sets = self.daemon.take()
        assert plain(ours) == plain(theirs)
        # wg ends its requests with two blank lines.
        assert our_sets == [f"{text.rstrip()}\n\n" for text in their_sets]
        self.sent = our_sets
        return ours

    def file(self, text: str, name: str = "wg.conf") -> str:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)


def plain(done: Done) -> Done:
    """Without what is meant to differ: the program's name, keys, what older tools lack."""
    text = done.err.replace("Usage: wg", "Usage: nvpn")
    text = re.sub(r"(correct length or format)(: `.*'| \(.*\))", r"\1", text)
    text = re.sub(r"(trailing character in key file): `.*'", r"\1", text)
    text = text.replace("[+|-]<ip1>", "<ip1>").replace("[+|-]<ip2>", "<ip2>")
    for missing in ("Protocol not supported", "Operation not supported"):
        text = text.replace(missing, "No such device")
    return Done(done.status, done.out, text)


@pytest.fixture(scope="module")
def noting() -> Iterator[tuple[str, NotingDaemon]]:
    with noting_daemon() as found:
        yield found


@pytest.fixture
def both(
    noting: tuple[str, NotingDaemon],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Both:
    name, daemon = noting
    daemon.answer, daemon.errno = [], 0
    daemon.take()
    return Both(name, daemon, tmp_path, capsys, monkeypatch)


PEER = f"peer {ADA.base64}"


@pytest.mark.parametrize(
    "line",
    [
        "listen-port 51820 fwmark 0xCA6C",
        "fwmark 51820",
        "fwmark oFF listen-port 0",
        "listen-port domain",
        PEER,
        f"{PEER} remove",
        f"{PEER} remove allowed-ips 10.0.0.0/8",
        f"{PEER} allowed-ips 10.1.0.0/16,fd00:0::/8 persistent-keepalive 25 endpoint 192.0.2.1:9",
        f"{PEER} allowed-ips 10.0.0.1,::1 allowed-ips 10.0.0.2 persistent-keepalive off",
        f"{PEER} endpoint [2001:0db8::1]:domain peer {BOB.base64} endpoint [fe80::1%lo]:9",
        f"{PEER} allowed-ips 10.9.0.1/24,fd00::1/64,::ffff:10.0.0.0/104",
        f"{PEER} preshared-key /dev/null",
        f'{PEER} allowed-ips ""',
        "private-key /dev/null",
    ],
)
def test_words_are_sent_as_wg_sends_them(both: Both, line: str) -> None:
    words = [word.replace('""', "") for word in line.split()]

    assert both("set", both.name, *words).status == 0
    assert len(both.sent) == 1


def test_keys_come_from_files(both: Both) -> None:
    secret = both.file(f"{SECRET}\n\n \t\n", "secret")

    assert both("set", both.name, "private-key", secret).status == 0
    words = (*PEER.split(), "preshared-key", "/dev/stdin")
    assert both("set", both.name, *words, stdin=SECRET).status == 0
    assert f"preshared_key={PrivateKey.from_base64(SECRET).reveal_hex()}" in both.sent[0]


@pytest.mark.parametrize(
    "line",
    [
        "foo",
        "listen-port",
        "remove",
        "endpoint 192.0.2.1:9",
        "listen-port zz",
        "fwmark zz",
        "fwmark 0x",
        "fwmark 0xzz",
        "fwmark 4294967296",
        "fwmark -1",
        "peer zz",
        f"{PEER} listen-port 1",
        f"{PEER} persistent-keepalive zz",
        f"{PEER} persistent-keepalive 65536",
        f"{PEER} persistent-keepalive",
        f"{PEER} endpoint x",
        f"{PEER} endpoint x:",
        f"{PEER} endpoint [x",
        f"{PEER} endpoint [::1]9",
        f"{PEER} endpoint 192.0.2.1:zz",
        f"{PEER} endpoint [::1%lo]:9",
        f"{PEER} endpoint nowhere.invalid:9",
        f'{PEER} endpoint ""',
        f"{PEER} allowed-ips 10.0.0.0/99",
        f"{PEER} allowed-ips 10.0.0.0/",
        f"{PEER} allowed-ips fd00::/129",
        f"{PEER} allowed-ips 10.0.0/8",
        f"{PEER} allowed-ips 10.0.0.0/8,",
        f"{PEER} allowed-ips 10.0.0.1/8,x",
        "private-key /nonexistent",
        'listen-port ""',
    ],
)
def test_mistakes_get_the_same_words_and_send_nothing(both: Both, line: str) -> None:
    both.let("WG_ENDPOINT_RESOLUTION_RETRIES", "0")
    words = [word.replace('""', "") for word in line.split()]

    done = both("set", both.name, *words)

    assert done.status == 1
    assert done.err
    assert both.sent == []


def test_a_command_that_fails_is_no_empty_file(both: Both) -> None:
    """Its key would be removed otherwise by a slip such as <(nosuch command)."""
    done = both("set", both.name, "private-key", "/dev/stdin", stdin="")
    assert done == Done(1, "", "Invalid length key in key file\n")


@pytest.mark.parametrize("text", ["x", SECRET[:-2], SECRET[:-1] + "x", SECRET + "x", SECRET * 2])
def test_files_without_a_key_are_refused_and_not_quoted(both: Both, text: str) -> None:
    done = both("set", both.name, "private-key", both.file(text))

    assert done.status == 1
    assert SECRET[:10] not in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("set",),
        ("set", "wg9"),
        ("setconf",),
        ("setconf", "wg9"),
        ("addconf", "wg9"),
        ("syncconf", "wg9", "a", "b"),
        ("showconf",),
        ("showconf", "wg9", "x"),
        ("set", "wg9", "listen-port", "1"),
        ("showconf", "wg9"),
        ("setconf", "wg9", "/dev/null"),
        ("setconf", "wg9", "/nonexistent"),
        ("set", "a-name-that-is-too-long", "listen-port", "1"),
    ],
    ids=" ".join,
)
def test_usage_and_absent_interfaces(both: Both, words: tuple[str, ...]) -> None:
    assert both(*words).status == 1


def test_an_interface_that_syncconf_cannot_ask(both: Both) -> None:
    file = both.file(f"[Peer]\nPublicKey = {ADA.base64}\n")
    done = both("syncconf", "wg9", file)
    assert done.err == "Unable to retrieve current interface configuration: No such device\n"


@pytest.mark.parametrize("number", [1, 22, 98])
def test_a_daemon_that_refuses_is_quoted(both: Both, number: int) -> None:
    both.daemon.errno = number

    done = both("set", both.name, "listen-port", "1")

    assert done == Done(1, "", f"Unable to modify interface: {os.strerror(number)}\n")
    assert both("setconf", both.name, "/dev/null") == done


def test_retries_that_are_no_number_matter_to_those_who_look_up(both: Both) -> None:
    both.let("WG_ENDPOINT_RESOLUTION_RETRIES", "x")

    assert both("set", both.name, *PEER.split(), "endpoint", "192.0.2.1:9").status == 1
    assert both("set", both.name, *PEER.split()).status == 0


FILES = {
    "nothing": "",
    "an interface": "[Interface]\nListenPort = 51820\nFwMark = 0xca6c\n",
    "everything": f"""
        [interface] # in any case
        privatekey = {SECRET}
        LISTENPORT = 51 820
        [PEER]
        PublicKey = {ADA.base64} # Ada
        PresharedKey = {SECRET}
        AllowedIPs = 10.1.0.0/16, 10.2.0.1
        AllowedIPs = fd00::/64
        Endpoint = [2001:db8::1] : 51820
        PersistentKeepalive = 25
        [Peer]
        PersistentKeepalive = off
        PublicKey={BOB.base64}
        PresharedKey = {SECRET}
        AllowedIPs = 10.9.0.1/24""",
    "a peer twice": f"[Peer]\nPublicKey={ADA.base64}\n[Peer]\nPublicKey={ADA.base64}\n",
    "a key twice": "[Interface]\nListenPort = 1\nListenPort = 2\n",
    "without a public key": "[Peer]\nAllowedIPs = 10.0.0.0/8\n",
    "wg-quick's": "[Interface]\nAddress = 10.0.0.1/24\n",
    "without a section": "ListenPort = 1\n",
    "with another section": "[Interface]\n[Peers]\n",
    "with a bare word": "[Interface]\nListenPort\n",
    "with nothing behind a key": f"[Peer]\nPublicKey={ADA.base64}\nAllowedIPs =\n",
    "with a bad key": "[Interface]\nPrivateKey = abc\n",
    "with a bad number": "[Interface]\nFwMark = abc\n",
    "with a bad prefix": f"[Peer]\nPublicKey={ADA.base64}\nAllowedIPs = 10.0.0.0/8, x\n",
    "with a bad endpoint": "[Peer]\nEndpoint = x\n",
    "CRLF": "[Interface]\r\nListenPort = 7\r\n",
}


@pytest.mark.parametrize("name", FILES, ids=lambda name: name.replace(" ", "-"))
def test_files_are_read_as_wg_reads_them(both: Both, name: str) -> None:
    file = both.file(FILES[name])
    for verb in ("setconf", "addconf", "syncconf"):
        both(verb, both.name, file)


def test_syncconf_takes_away_what_the_file_does_not_have(both: Both) -> None:
    both.daemon.answer = ["listen_port=1", f"public_key={EVE.hex}", f"public_key={ADA.hex}"]
    both("syncconf", both.name, both.file(FILES["everything"]))
    both("syncconf", both.name, both.file(FILES["an interface"]))

    both("syncconf", both.name, both.file(FILES["everything"]))
    assert f"public_key={EVE.hex}\nremove=true\npublic_key={ADA.hex}\n" in both.sent[0]
    assert "replace_peers" not in both.sent[0]


def test_a_directory_is_no_empty_configuration(both: Both) -> None:
    """Where wg takes it for one, and removes all peers."""
    done = nvpn("setconf", both.name, str(both.directory))

    assert done == Done(1, "", "fopen: Is a directory\n")
    assert both.daemon.take() == []


def test_help_is_ours(both: Both) -> None:
    for verb in ("set", "setconf", "addconf", "syncconf", "showconf"):
        done = nvpn(verb, "--help")
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith(f"Usage: nvpn {verb} INTERFACE")


def test_they_start_without_what_they_do_not_need() -> None:
    loaded = run(
        NVPN[0],
        "-c",
        "import sys; from nvpn.cli.main import main; "
        "main(['set', 'wg9', 'listen-port', '1']); print(*sys.modules)",
    ).out.split()
    heavy = {"asyncio", "dataclasses", "logging", "hashlib", "pyroute2", "rich", "nvpn.config"}
    assert "nvpn.control.wg_config" in loaded
    assert not heavy & set(loaded)
