"""The play itself: ``python -m nvpn.cli.demonstration.stage SECONDS``.

Run by `nvpn demo`, never by people. Tells what happens as JSON, a line each, on standard
output. Process 1 of a namespace of its own: with it, everything ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from typing import Any, Final, NoReturn

from nvpn.cli.demonstration import namespaces
from nvpn.cli.demonstration.host import CABLE, INTERFACE, PORT, Host, RemoteHost, serve
from nvpn.errors import NvpnError
from nvpn.model.keys import KEY_LENGTH, PresharedKey, PrivateKey
from nvpn.netconf.linux import LinuxNetconf

OUTSIDE: Final = {"alice": "192.0.2.1", "bob": "192.0.2.2"}
INSIDE: Final = {"alice": "10.8.0.1", "bob": "10.8.0.2"}
INSIDE6: Final = {"alice": "fd00:8::1", "bob": "fd00:8::2"}

_CONFIGURATION: Final = """\
[interface]
private_key = "{private_key}"
address = ["{inside}/24", "{inside6}/64"]
listen_port = {port}

[[peer]]
name = "{peer}"
public_key = "{public_key}"
preshared_key = "{preshared_key}"
endpoint = "{outside}:{port}"
allowed_ips = ["{peer_inside}/32", "{peer_inside6}/128"]
"""


def main(seconds: float) -> int:
    """Set the stage, play, and strike it. 0 when all went well."""
    try:
        namespaces.require_tun()
        namespaces.enter_host()
    except NvpnError as error:
        report("failed", sentence=str(error))
        return 1
    namespaces.end_with_parent()
    child = os.fork()
    if child:
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
        namespaces.wait_as_keeper(child)
    namespaces.end_with_parent()
    directory, is_ours = namespaces.private_directory()
    try:
        play(directory, seconds)
    except NvpnError as error:
        report("failed", sentence=str(error))
        return 1
    finally:
        if is_ours:
            shutil.rmtree(directory, ignore_errors=True)
    return 0


def play(directory: str, seconds: float) -> None:
    """Everything that the audience sees, in order. Raises NvpnError."""
    started = time.monotonic()
    alice = Host("alice", _make_directory(directory, "alice"), report)
    bob = _start_bob(_make_directory(directory, "bob"))
    alice.connect(f"{OUTSIDE['alice']}/24")
    bob.call("connect", f"{OUTSIDE['bob']}/24")
    report("hosts", addresses=OUTSIDE)

    write_configurations(directory)
    report("keys")

    bob.begin("bring_up")
    alice.bring_up()
    bob.finish()
    alice.wait_until_up()
    bob.call("wait_until_up")
    report("up", interface=INTERFACE, seconds=time.monotonic() - started)

    # The first packet of all waits for the handshake.
    for address, count, with_handshake in ((INSIDE["bob"], 5, True), (INSIDE6["bob"], 3, False)):
        answers = alice.ping(address, count)
        report("ping", address=address, answers=answers, with_handshake=with_handshake)

    bob.call("listen", INSIDE["bob"])
    bob.begin("receive", "alice")
    alice.send(INSIDE["bob"], seconds)
    bob.finish()

    alice.listen(INSIDE["alice"])
    bob.begin("send", INSIDE["alice"], seconds)
    alice.receive("bob")
    bob.finish()

    alice.status()
    bob.call("status")

    bob.begin("take_down")
    alice.take_down()
    bob.finish()
    report("down")


def write_configurations(directory: str) -> None:
    """``wg0.toml`` for both, as a user would write it, and read only by us."""
    private = {name: PrivateKey(os.urandom(KEY_LENGTH)) for name in OUTSIDE}
    shared = PresharedKey(os.urandom(KEY_LENGTH))
    for name, peer in (("alice", "bob"), ("bob", "alice")):
        text = _CONFIGURATION.format(
            private_key=private[name].reveal_base64(),
            inside=INSIDE[name],
            inside6=INSIDE6[name],
            port=PORT,
            peer=peer,
            public_key=private[peer].public().base64,
            preshared_key=shared.reveal_base64(),
            outside=OUTSIDE[peer],
            peer_inside=INSIDE[peer],
            peer_inside6=INSIDE6[peer],
        )
        path = os.path.join(directory, name, f"{INTERFACE}.toml")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)


def report(kind: str, **facts: Any) -> None:
    """Tell the view. A line is written at once, so that bob's and alice's do not mix."""
    line = json.dumps({"kind": kind, **facts}) + "\n"
    try:
        os.write(1, line.encode())
    except BrokenPipeError:
        os._exit(1)  # nobody watches any more


def _make_directory(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    os.mkdir(path, 0o700)
    return path


def _start_bob(directory: str) -> RemoteHost:
    """Fork bob into a network of his own, and join it to ours by a cable."""
    ours, his = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        _be_bob(his, directory)
    his.close()
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise NvpnError("cannot make a second network namespace")
    netconf = LinuxNetconf()
    try:
        netconf.create_veth(CABLE, CABLE, peer_namespace=descriptors[0])
    finally:
        netconf.close()
        os.close(descriptors[0])
    return RemoteHost(ours)


def _be_bob(connection: socket.socket, directory: str) -> NoReturn:
    """The whole life of bob's process. Alice sees it end by her connection."""
    status = 1
    try:
        namespaces.end_with_parent()
        network = namespaces.enter_network()
        socket.send_fds(connection, [b"n"], [network])
        os.close(network)
        serve(Host("bob", directory, report), connection)
        status = 0
    except (NvpnError, OSError) as error:
        print(f"bob: {error}", file=sys.stderr)
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
