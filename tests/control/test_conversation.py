"""The same words to nvpn and to wireguard-go, over real sockets, with real state behind them.

Each row of CONVERSATIONS is said to a fresh interface. Our answers and the state that
they leave are in the table; wireguard-go has to answer the same, except where the row
says how it differs, and then exactly so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from nvpn.backend.api import Backend
from nvpn.model.keys import PrivateKey
from tests.support.control_socket import Client, RunningServer
from tests.support.memory_tunnel import MemoryTunnel
from tests.support.world import ENGINES, SOCKETS, Tunnel, missing, new_world

SECRET = "5e" * 32
OURS = PrivateKey.from_hex(SECRET)
CLAMPED = OURS.reveal_hex()
ME = OURS.public().hex
A, B = "aa" * 32, "bb" * 32
ZERO = "0" * 64
PA, PB, PME = f"public_key={A}\n", f"public_key={B}\n", f"public_key={ME}\n"
OK = "errno=0\n\n"
EINVAL, EPROTO, EIO = "errno=-22\n\n", "errno=-71\n\n", "errno=-5\n\n"
NO_ANSWER = ""
# wireguard-go has a random port from the beginning on; this one stands for "no change".
ANY_PORT = "listen_port=50123"
RESET = f"set=1\nprivate_key={ZERO}\n{ANY_PORT}\nfwmark=0\nreplace_peers=true\n\n"


@dataclass(frozen=True)
class Row:
    """What is said, what is answered, and what ``get`` shows then.

    ``state`` names peers by their first two digits: see :func:`abridge`. ``go`` and
    ``go_state`` are wireguard-go's, None for the same, with the reason in ``because``.
    ``old_go`` is the last answer and the state of the version of 2022, if that is another.
    """

    name: str
    say: tuple[str, ...]
    answers: tuple[str, ...]
    state: str = ""
    go: tuple[str, ...] | None = None
    go_state: str | None = None
    old_go: tuple[str, str] | None = None
    because: str = ""
    finish: bool = False


def says(name: str, body: str, answer: str = OK, state: str = "", **other: object) -> Row:
    """One ``set``."""
    return Row(name, (f"set=1\n{body}\n",), (answer,), state, **other)  # type: ignore[arg-type]


# Nothing is applied when anything is wrong; wireguard-go keeps what came before.
HALF = "wireguard-go applies line by line"

CONVERSATIONS = [
    Row("several operations", ("set=1\nlisten_port=7\n\n", "set=1\nfwmark=5\n\n"), (OK, OK),
        "listen_port=7 fwmark=5"),
    Row("get with more", ("get=1\nx\n",), ("errno=22\n\n",), go=("errno=-22\n\n",),
        because="wg wants a positive errno after get"),
    Row("unknown operation", ("frob=1\n\n",), (NO_ANSWER,)),
    Row("get=2", ("get=2\n\n",), (NO_ANSWER,)),
    Row("CRLF", ("get=1\r\n\r\n",), (NO_ANSWER,)),
    Row("nothing said", ("",), (NO_ANSWER,), finish=True),
    Row("end before the blank line", ("set=1\nlisten_port=7\n",), (EPROTO,), go=(OK,),
        go_state="listen_port=7", finish=True,
        because="a client that died must not leave half of its changes"),
    says("empty set", ""),
    says("no equals sign", "listen_port\n", EPROTO),
    says("unknown key", "frob=1\n", EINVAL),
    says("unknown peer key", PA + "frob=1\n", EINVAL, go_state="[aa]", because=HALF),
    says("too long a line", "private_key=" + "5" * 70000 + "\n", EIO),
    says("error in the middle", "listen_port=7\nfwmark=x\nlisten_port=8\n", EINVAL,
         go_state="listen_port=7", because=HALF),
    # device keys
    says("private key", f"private_key={SECRET}\n", OK, f"private_key={CLAMPED}"),
    says("private key, upper case", f"private_key={SECRET.upper()}\n", OK,
         f"private_key={CLAMPED}"),
    says("private key removed", f"private_key={SECRET}\nprivate_key={ZERO}\n"),
    says("private key empty", "private_key=\n", EINVAL),
    says("private key short", f"private_key={SECRET[2:]}\n", EINVAL),
    says("private key long", f"private_key={SECRET}00\n", EINVAL),
    says("private key no hex", f"private_key={SECRET[1:]}g\n", EINVAL),
    says("listen port", "listen_port=65535\n", OK, "listen_port=65535"),
    says("listen port too big", "listen_port=65536\n", EINVAL),
    says("listen port negative", "listen_port=-1\n", EINVAL),
    says("listen port signed", "listen_port=+1\n", EINVAL),
    says("listen port spaced", "listen_port= 1\n", EINVAL),
    says("listen port empty", "listen_port=\n", EINVAL),
    says("listen port with zeros", "listen_port=007\n", OK, "listen_port=7"),
    says("fwmark", "fwmark=4294967295\n", OK, "fwmark=4294967295"),
    says("fwmark off", "fwmark=5\nfwmark=0\n"),
    says("fwmark hexadecimal", "fwmark=0x10\n", EINVAL),
    says("fwmark too big", "fwmark=4294967296\n", EINVAL),
    says("replace_peers false", "replace_peers=false\n", EINVAL),
    says("replace_peers after a peer", PA + "replace_peers=true\n", EINVAL, go_state="[aa]",
         because=HALF),
    says("device key after a peer", PA + "listen_port=7\n", EINVAL, go_state="[aa]",
         because=HALF),
    says("peer key before a peer", "endpoint=192.0.2.1:5\n", EINVAL),
    # peers
    says("peer", PA, OK, "[aa]"),
    says("two peers", PA + PB, OK, "[aa] [bb]"),
    says("the same peer twice", PA + PB + PA + "persistent_keepalive_interval=7\n", OK,
         "[aa persistent_keepalive_interval=7] [bb]"),
    says("peer, upper case", f"public_key={A.upper()}\n", OK, "[aa]"),
    says("peer zero", f"public_key={ZERO}\n", OK, "[00]"),
    says("peer short", f"public_key={A[2:]}\n", EINVAL),
    says("peer empty", "public_key=\n", EINVAL),
    says("ourselves", f"private_key={SECRET}\n{PME}allowed_ip=10.0.0.0/8\n{PA}", OK,
         f"private_key={CLAMPED} [aa]"),
    Row("replace peers", (f"set=1\n{PA}{PB}\n", f"set=1\nreplace_peers=true\n{PB}\n"), (OK, OK),
        "[bb]"),
    Row("become a peer's other half",
        (f"set=1\n{PA}{PME}allowed_ip=10.0.0.0/8\n\n", f"set=1\nprivate_key={SECRET}\n\n"),
        (OK, OK), f"private_key={CLAMPED} [aa]"),
    says("update only, unknown", PA + "update_only=true\nallowed_ip=10.0.0.0/8\n"),
    says("update only, late", PA + "allowed_ip=10.0.0.0/8\nupdate_only=true\n"),
    Row("update only, known",
        (f"set=1\n{PA}\n", f"set=1\n{PA}update_only=true\npersistent_keepalive_interval=9\n\n"),
        (OK, OK), "[aa persistent_keepalive_interval=9]"),
    says("update only false", PA + "update_only=false\n", EINVAL, go_state="[aa]", because=HALF),
    says("remove unknown", PA + "remove=true\n"),
    Row("remove", (f"set=1\n{PA}{PB}\n", f"set=1\n{PA}remove=true\n\n"), (OK, OK), "[bb]"),
    Row("keys after remove",
        (f"set=1\n{PA}\n", f"set=1\n{PA}remove=true\nallowed_ip=10.0.0.0/8\n{PB}\n"), (OK, OK),
        "[bb]"),
    says("nonsense after remove", PA + "remove=true\nallowed_ip=x\n", EINVAL),
    says("remove and add again", PA + "allowed_ip=10.0.0.0/8\n" + PA + "remove=true\n" + PA, OK,
         "[aa]"),
    says("remove false", PA + "remove=false\n", EINVAL, go_state="[aa]", because=HALF),
    says("preshared key", PA + f"preshared_key={SECRET}\n", OK, f"[aa preshared_key={SECRET}]"),
    says("preshared key off", PA + f"preshared_key={SECRET}\npreshared_key={ZERO}\n", OK, "[aa]"),
    says("preshared key short", PA + "preshared_key=00\n", EINVAL, go_state="[aa]", because=HALF),
    says("protocol version", PA + "protocol_version=1\n", OK, "[aa]"),
    says("protocol version 2", PA + "protocol_version=2\n", EINVAL, go_state="[aa]",
         because=HALF),
    says("keepalive", PA + "persistent_keepalive_interval=65535\n", OK,
         "[aa persistent_keepalive_interval=65535]"),
    says("keepalive too big", PA + "persistent_keepalive_interval=65536\n", EINVAL,
         go_state="[aa]", because=HALF),
    says("keepalive off", PA + "persistent_keepalive_interval=off\n", EINVAL, go_state="[aa]",
         because=HALF),
    # endpoints
    says("endpoint", PA + "endpoint=192.0.2.1:51820\n", OK, "[aa endpoint=192.0.2.1:51820]"),
    says("endpoint, IPv6", PA + "endpoint=[2001:db8:0:0::1]:5\n", OK,
         "[aa endpoint=[2001:db8::1]:5]"),
    says("endpoint with a zone", PA + "endpoint=[fe80::1%lo]:5\n", OK,
         "[aa endpoint=[fe80::1%lo]:5]", old_go=(OK, "[aa endpoint=[fe80::1]:5]")),
    says("endpoint port 0", PA + "endpoint=192.0.2.1:0\n", OK, "[aa endpoint=192.0.2.1:0]"),
    *(
        says(f"endpoint {text!r}", f"{PA}endpoint={text}\n", EINVAL, go_state="[aa]",
             because=HALF)
        for text in ("vpn.example.org:5", "192.0.2.1", "192.0.2.1:65536", "01.2.3.4:5",
                     "[1.2.3.4]:5", "2001:db8::1:5", "192.0.2.1:", ":5", "")
    ),
    # allowed IPs
    says("allowed IPs", PA + "allowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\nallowed_ip=0.0.0.0/0\n",
         OK, "[aa allowed_ip=0.0.0.0/0 allowed_ip=10.0.0.0/8 allowed_ip=fd00::/8]"),
    says("host bits", PA + "allowed_ip=10.9.0.1/24\nallowed_ip=fd00::1/64\n", OK,
         "[aa allowed_ip=10.9.0.0/24 allowed_ip=fd00::/64]"),
    says("twice the same", PA + "allowed_ip=10.0.0.0/8\nallowed_ip=10.0.0.0/8\n", OK,
         "[aa allowed_ip=10.0.0.0/8]"),
    says("a prefix moves", f"{PA}allowed_ip=10.0.0.0/8\n{PB}allowed_ip=10.0.0.0/8\n", OK,
         "[aa] [bb allowed_ip=10.0.0.0/8]"),
    says("replace allowed IPs",
         PA + "allowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\nallowed_ip=10.1.0.0/16\n", OK,
         "[aa allowed_ip=10.1.0.0/16]"),
    says("replace allowed IPs false", PA + "replace_allowed_ips=false\n", EINVAL,
         go_state="[aa]", because=HALF),
    *(
        says(f"allowed IP {text!r}", f"{PA}allowed_ip={text}\n", EINVAL, go_state="[aa]",
             because=HALF)
        for text in ("10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "fe80::%lo/64", "::/129",
                     "10.0.0/8", "+10.0.0.0/8", "")
    ),
    says("allowed IP '10.0.0.0/024'", PA + "allowed_ip=10.0.0.0/024\n", EINVAL, go_state="[aa]",
         old_go=(OK, "[aa allowed_ip=10.0.0.0/24]"), because=HALF),
]  # fmt: skip

MINUS = [
    says("minus by the owner", PA + "allowed_ip=10.0.0.0/8\nallowed_ip=-10.0.0.1/8\n", OK, "[aa]"),
    says("minus by another", f"{PA}allowed_ip=10.0.0.0/8\n{PB}allowed_ip=-10.0.0.0/8\n", OK,
         "[aa allowed_ip=10.0.0.0/8] [bb]"),
    says("minus of none", PA + "allowed_ip=-10.0.0.0/8\n", OK, "[aa]"),
    says("minus of nothing", PA + "allowed_ip=-\n", EINVAL, go_state="[aa]", because=HALF),
]  # fmt: skip


def abridge(get: str) -> str:
    """What is not at its default, peers and prefixes sorted: ``listen_port=7 [aa k=v] [bb]``."""
    device: list[str] = []
    peers: list[list[str]] = []
    for line in get.splitlines():
        key, _, value = line.partition("=")
        if line in ("", "errno=0", ANY_PORT) or key.startswith("nvpn_"):
            continue
        if key == "public_key":
            peers.append([value[:2]])
        elif not peers:
            device.append(line)
        elif line not in DEFAULTS:
            peers[-1].append(line)
    blocks = (f"[{' '.join([peer[0], *sorted(peer[1:])])}]" for peer in peers)
    return " ".join([*sorted(device, key=DEVICE_ORDER.index_of), *sorted(blocks, key=str.lower)])


class _Order:
    def index_of(self, line: str) -> int:
        return ("private_key", "listen_port", "fwmark").index(line.partition("=")[0])


DEVICE_ORDER = _Order()
DEFAULTS = {
    f"preshared_key={ZERO}",
    "protocol_version=1",
    "last_handshake_time_sec=0",
    "last_handshake_time_nsec=0",
    "tx_bytes=0",
    "rx_bytes=0",
    "persistent_keepalive_interval=0",
}


def converse(path: str, row: Row) -> tuple[tuple[str, ...], str]:
    """Say the row to a fresh interface: its answers, and its state afterwards."""
    with Client(path) as client:
        assert client.ask(RESET) == OK
    with Client(path) as client:
        answers = []
        for text in row.say:
            client.send(text)
            if row.finish:
                client.finish()
            answers.append(client.read_answer())
    with Client(path) as client:
        get = client.ask("get=1\n\n")
    assert get.endswith(OK)
    return tuple(answers), abridge(get)


def expected_order(state: str) -> str:
    """Peers in the order of :func:`abridge`."""
    head, bracket, tail = state.partition("[")
    if not bracket:
        return state
    blocks = sorted(("[" + tail).replace("] [", "]\n[").split("\n"), key=str.lower)
    return head + " ".join(blocks)


# --- nvpn -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nvpn_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVPN_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        tunnels: list[MemoryTunnel] = []

        async def make() -> Backend:
            tunnels.append(MemoryTunnel("u6conv"))
            return tunnels[0].backend

        with RunningServer("u6conv", make) as server:
            yield server.path


@pytest.mark.parametrize("row", [*CONVERSATIONS, *MINUS], ids=lambda row: row.name)
def test_nvpn_answers_as_the_table_says(nvpn_path: str, row: Row) -> None:
    assert converse(nvpn_path, row) == (row.answers, expected_order(row.state))


def test_get_begins_with_the_device_and_keeps_the_order_of_the_specification(
    nvpn_path: str,
) -> None:
    with Client(nvpn_path) as client:
        assert client.ask(RESET) == OK
        assert client.ask(
            f"set=1\nfwmark=5\nlisten_port=7\nprivate_key={SECRET}\n{PA}allowed_ip=10.0.0.0/8\n"
            f"endpoint=192.0.2.1:5\npersistent_keepalive_interval=25\npreshared_key={SECRET}\n\n"
        ) == OK  # fmt: skip
        keys = [line.partition("=")[0] for line in client.ask("get=1\n\n").splitlines() if line]
    assert [key for key in keys if not key.startswith("nvpn_")] == [
        "private_key",
        "listen_port",
        "fwmark",
        "public_key",
        "preshared_key",
        "protocol_version",
        "endpoint",
        "last_handshake_time_sec",
        "last_handshake_time_nsec",
        "tx_bytes",
        "rx_bytes",
        "persistent_keepalive_interval",
        "allowed_ip",
        "errno",
    ]


# --- wireguard-go ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=["wireguard-go", "wireguard-go-2022"])
def go(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """(engine, path of its socket)."""
    engine = ENGINES[request.param]
    why = missing() or ("" if engine.available else f"needs {engine.command[0]}")
    if why:
        pytest.skip(why)
    with new_world(tmp_path_factory.mktemp("go")) as world:
        host = world.host("go")
        tunnel = Tunnel(host, f"u6{os.urandom(3).hex()}", PrivateKey(bytes(32)), 0, ())
        host.start_engine(tunnel, engine)
        yield request.param, str(SOCKETS / f"{tunnel.interface}.sock")


@pytest.mark.root
@pytest.mark.interop
def test_wireguard_go_answers_the_same_but_for_what_the_table_says(go: tuple[str, str]) -> None:
    engine, path = go
    # Debian's is from before prefixes could be taken away one by one.
    rows = [*CONVERSATIONS, *(MINUS if engine == "wireguard-go" else [])]
    differences = []
    for row in rows:
        answers = row.answers if row.go is None else row.go
        state = expected_order(row.state if row.go_state is None else row.go_state)
        if engine != "wireguard-go" and row.old_go is not None:
            answers, state = (*answers[:-1], row.old_go[0]), row.old_go[1]
        got = converse(path, row)
        if got != (answers, state):
            differences.append((row.name, got, (answers, state)))
    assert not differences, "\n".join(map(str, differences))
