"""The kernel's WireGuard under nvpn, in a guest that has it, and wg's verbs on its interfaces.

The guest has neither numpy, uvloop nor the native module: nothing here needs them. Its
processor is emulated, so a command takes a second, and one guest does for all tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from nvpn import __version__
from nvpn.channel.messages import Hello, LeaseRequest
from nvpn.channel.requester import CHANNEL_RETRY
from nvpn.daemon.channel_port import ChannelPort
from nvpn.model.changes import AddPeer, SetEndpoint, SetPrivateKey
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey
from nvpn.model.prefixes import Interface
from nvpn.netconf.linux_namespace import call_in, open_namespace
from nvpn.transport.udp import open_udp
from tests.support.guest_nvpn import Guest, guest_with_nvpn
from tests.support.memory_tunnel import MemoryTunnel
from tests.support.scenarios import apply, play
from tests.support.world import Host, Tunnel, engine, new_world, wait_until

pytestmark = [pytest.mark.root, pytest.mark.interop, pytest.mark.slow]

UNDERLAY, HOST_UNDERLAY = "10.88.0.2", "10.88.0.1"
GUEST, HOST = "192.168.77.2", "192.168.77.1"
GUEST6, HOST6 = "fd77::2", "fd77::1"
PORT = 5555


@pytest.fixture(autouse=True)
def datapath() -> str:
    """Once only: the guest has no datapath of ours."""
    return ""


@dataclass(frozen=True)
class Place:
    """The guest, the namespace beside it, and a tunnel there that our own backend carries."""

    guest: Guest
    host: Host
    ours: Tunnel
    key: PrivateKey

    def config(self, *more: str, backend: str = "kernel") -> str:
        """Of the guest's end; further lines are about the peer, or are further peers."""
        lines = [
            "[interface]",
            f'private_key = "{self.key.reveal_base64()}"',
            f'address = ["{GUEST}/24", "{GUEST6}/64"]',
            f"listen_port = {PORT}",
            f'backend = "{backend}"',
            "[[peer]]",
            'name = "host"',
            f'public_key = "{self.ours.public_key}"',
            f'allowed_ips = ["{HOST}/32", "{HOST6}/128", "10.99.0.0/16"]',
            f'endpoint = "{HOST_UNDERLAY}:51820"',
            *more,
        ]
        return "\n".join(lines) + "\n"

    def ping_both_ways(self, *inside: str) -> None:
        """``inside`` is how to get into the namespace of the guest's interface."""
        # The guest begins: it has a new session, where the other side may have an old one.
        self.guest.output(*inside, "ping", "-c", "2", "-i", "0.2", "-W", "30", HOST)
        assert self.host.ping(GUEST) == (3, 3)
        assert self.host.ping(GUEST6) == (3, 3)

    def expect_memory(self, name: str) -> None:
        """The daemon has noticed the handshake, and written down where the peer is."""
        wait_until(
            lambda: HOST_UNDERLAY in self.guest.run("cat", f"/var/lib/nvpn/{name}.json")[1],
            60,
            "the peer is remembered",
            interval=0.5,
        )

    def expect_dump(self, name: str, *inside: str) -> str:
        """What `wg show` dumps of an interface, which is what `nvpn show` does."""
        dumps: list[str] = []

        def holds_still() -> bool:
            # Counters and endpoints may change between two commands of a second each.
            commands = (("wg",), ("nvpn",), ("wg",))
            dumps[:] = [self.guest.output(*inside, *one, "show", name, "dump") for one in commands]
            return dumps[0] == dumps[2]

        wait_until(holds_still, 120, "nothing happens during three commands")
        assert dumps[1] == dumps[0]
        return dumps[0]

    def json(self, name: str) -> dict[str, object]:
        (interface,) = json.loads(self.guest.output("nvpn", "show", name, "--json"))["interfaces"]
        return dict(interface)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with new_world(tmp_path_factory.mktemp("kernel")) as world:
        host = world.host("b")
        with guest_with_nvpn(
            f"{world.prefix}g",
            host.netns,
            underlay=f"{UNDERLAY}/24",
            host_underlay=f"{HOST_UNDERLAY}/24",
        ) as guest:
            key = PrivateKey(os.urandom(32))
            ours = host.tunnel(engine("nvpn"), (f"{HOST}/24", f"{HOST6}/64"))
            ours.wg_set(
                *("peer", key.public().base64, "allowed-ips", f"{GUEST},{GUEST6}"),
                *("endpoint", f"{UNDERLAY}:{PORT}"),
            )
            yield Place(guest, host, ours, key)


def handshake_at(place: Place, name: str) -> int:
    """When the guest's last handshake was, in its Unix time; 0 for never."""
    text = place.guest.output("wg", "show", name, "latest-handshakes")
    return int(text.split()[1])


# --- the backend ------------------------------------------------------------------------


def test_the_kernel_carries_a_tunnel_from_up_to_down(place: Place) -> None:
    guest = place.guest
    guest.write("/etc/kb0.toml", place.config())
    assert guest.run("nvpn", "up", "/etc/kb0.toml") == (0, "", "")

    link = guest.output("ip", "-d", "link", "show", "kb0")
    assert "wireguard" in link
    assert "alias nvpn" in link
    assert "addrgenmode none" in link
    place.ping_both_ways()

    shown = place.json("kb0")
    assert shown["datapath"] == "kernel"
    assert shown["peers"][0]["name"] == "host"  # type: ignore[index]
    assert shown["peers"][0]["health"] in ("fresh", "connected")  # type: ignore[index]
    place.expect_dump("kb0")

    # A reload touches what has changed, and nothing else.
    before = handshake_at(place, "kb0")
    other = PrivateKey(os.urandom(32)).public().base64
    guest.write(
        "/etc/kb0.toml",
        place.config(
            "persistent_keepalive = 21",
            "[[peer]]",
            f'public_key = "{other}"',
            'allowed_ips = ["10.98.0.0/16"]',
        ).replace(', "10.99.0.0/16"', ""),
    )
    assert guest.run("nvpn", "reload", "kb0") == (0, "", "")
    assert handshake_at(place, "kb0") == before
    allowed = guest.output("wg", "show", "kb0", "allowed-ips")
    assert allowed == f"{place.ours.public_key}\t{HOST}/32 {HOST6}/128\n{other}\t10.98.0.0/16\n"
    routes = guest.output("ip", "route", "show", "dev", "kb0")
    assert "10.98.0.0/16" in routes
    assert "10.99.0.0/16" not in routes
    assert guest.output("wg", "show", "kb0", "persistent-keepalive").split()[1] == "21"
    place.ping_both_ways()

    assert guest.run("nvpn", "down", "kb0") == (0, "", "")
    assert guest.run("ip", "link", "show", "kb0")[0] != 0
    assert guest.run("ls", "/var/lib/nvpn/kb0.leftovers")[0] != 0


def test_a_server_leases_addresses_over_the_kernels_tunnel(place: Place) -> None:
    guest, key = place.guest, PrivateKey(os.urandom(32))
    other = f'[[peer]]\npublic_key = "{key.public()}"\nallowed_ips = ["fe80::/10"]'
    config = place.config(other, '[server]\npool = "192.168.77.0/24"')
    guest.write("/etc/kb4.toml", config)
    assert guest.run("nvpn", "up", "/etc/kb4.toml") == (0, "", "")
    namespace = open_namespace(place.host.netns)
    hello = Hello("host", "0.1.0", ())
    patient = replace(CHANNEL_RETRY, max_attempts=12)

    leased: list[Interface] = []

    async def ask() -> None:
        tunnel = MemoryTunnel(
            open_sockets=lambda port, mark: call_in(namespace, lambda: open_udp(port, mark))
        )
        them = place.key.public()
        where = Endpoint.parse(f"{UNDERLAY}:{PORT}")
        await apply(tunnel, SetPrivateKey(key), AddPeer(them), SetEndpoint(them, where))
        await tunnel.backend.bring_up()
        channel = ChannelPort(
            tunnel.backend, loop=asyncio.get_running_loop(), introduce=lambda: hello
        )
        channel.open()
        assert (await channel.ask(them, hello, patient)).version == __version__
        leased.extend((await channel.ask(them, LeaseRequest("host", "0.1.0"), patient)).addresses)
        channel.close()
        await tunnel.close()

    try:
        play(ask)
    finally:
        os.close(namespace)
    shown = place.json("kb4")
    assert shown["channel"]["peers"][str(key.public())]["name"] == "host"  # type: ignore[index]
    assert shown["server"]["leases"] == 1  # type: ignore[index]
    allowed_ips = shown["peers"][1]["allowed_ips"]  # type: ignore[index]
    assert set(allowed_ips) == {"fe80::/10", str(leased[0]).replace("/24", "/32")}
    guest.output("nvpn", "down", "kb4")


def test_an_interface_in_a_namespace_outlives_a_killed_daemon_and_is_made_anew(
    place: Place,
) -> None:
    guest = place.guest
    inside = ("ip", "netns", "exec", "kbn")
    guest.output("ip", "netns", "add", "kbn")
    config = place.config(backend="auto").replace("[[peer]]", 'netns = "kbn"\n[[peer]]')
    guest.write("/etc/kb1.toml", config)
    assert guest.run("nvpn", "up", "/etc/kb1.toml") == (0, "", "")
    # Its packets come from where nvpn was started: there is nothing else in the namespace.
    assert guest.run("ip", "link", "show", "kb1")[0] != 0
    place.ping_both_ways(*inside)
    assert place.json("kb1")["datapath_reason"] == "this kernel has WireGuard"

    place.expect_memory("kb1")
    guest.output("sh", "-c", "kill -9 $(pidof nvpn-kb1)")
    # Without a daemon the same words reach the kernel itself, which goes on.
    assert place.ours.public_key in place.expect_dump("kb1", *inside)

    status, out, err = guest.run("nvpn", "up", "/etc/kb1.toml")
    assert (status, out) == (0, "")
    assert "kb1 was killed; what it left is removed: its interface" in err
    # Who still believes in the old session has been told of a new one.
    assert place.host.ping(GUEST) == (3, 3)
    guest.output("nvpn", "down", "kb1")
    assert guest.run(*inside, "ip", "link", "show", "kb1")[0] != 0


def test_an_interface_of_somebody_else_is_taken_over_by_choice_only(place: Place) -> None:
    guest = place.guest
    guest.write("/etc/kb2.toml", place.config())
    guest.output("ip", "link", "add", "kb2", "type", "wireguard")
    extra = PrivateKey(os.urandom(32)).public().base64
    guest.output(
        *("wg", "setconf", "kb2", "/dev/stdin"),
        stdin=(
            f"[Interface]\nPrivateKey={place.key.reveal_base64()}\nListenPort={PORT}\n"
            f"[Peer]\nPublicKey={place.ours.public_key}\nAllowedIPs={HOST}\n"
            f"Endpoint={HOST_UNDERLAY}:51820\n[Peer]\nPublicKey={extra}\n"
        ).encode(),
    )
    guest.output("ip", "address", "add", f"{GUEST}/24", "dev", "kb2")
    guest.output("ip", "link", "set", "kb2", "up")
    guest.output("ping", "-c", "1", "-W", "30", HOST)
    before = handshake_at(place, "kb2")
    assert before

    status, _, err = guest.run("nvpn", "up", "/etc/kb2.toml")
    assert status == 1
    assert "--take-over" in err
    assert len(guest.output("wg", "show", "kb2", "peers").split()) == 2, "as it was"

    assert guest.run("nvpn", "up", "--take-over", "/etc/kb2.toml") == (0, "", "")
    assert handshake_at(place, "kb2") == before, "its session goes on"
    assert guest.output("wg", "show", "kb2", "peers").split() == [place.ours.public_key]
    place.ping_both_ways()

    # Where somebody takes it, it goes on by itself; there is nothing left to serve here.
    guest.output("ip", "netns", "add", "kbm")
    guest.output("ip", "link", "set", "kb2", "netns", "kbm")
    wait_until(
        lambda: guest.run("ls", "/var/run/wireguard/kb2.sock")[0] != 0,
        60,
        "the daemon has ended",
        interval=0.5,
    )
    inside = ("ip", "netns", "exec", "kbm")
    assert guest.output(*inside, "wg", "show", "kb2", "peers").split() == [place.ours.public_key]
    guest.output(*inside, "ip", "link", "delete", "kb2")


def test_a_port_that_is_taken_leaves_nothing_behind(place: Place) -> None:
    guest = place.guest
    guest.write("/etc/kb3.toml", place.config())
    guest.output(
        "sh",
        "-c",
        f"ip link add kb4 type wireguard && wg set kb4 listen-port {PORT} && ip link set kb4 up",
    )
    status, _, err = guest.run("nvpn", "up", "/etc/kb3.toml")
    assert status == 1
    assert "cannot configure interface kb3: Address already in use; choose another" in err
    assert guest.run("ip", "link", "show", "kb3")[0] != 0
    guest.output("ip", "link", "delete", "kb4")


# --- wg's verbs -------------------------------------------------------------------------


def sort_prefixes(text: str) -> str:
    """`wg` begins a peer's list anew where nvpn leaves what stays, so their order differs."""
    return re.sub(
        r"(?<=AllowedIPs = ).*", lambda found: ", ".join(sorted(found[0].split(", "))), text
    )


def test_wgs_verbs_do_on_the_kernels_interface_what_wg_does(place: Place) -> None:
    guest = place.guest
    peers = [PrivateKey(os.urandom(32)).public().base64 for _ in range(4)]
    psk = PresharedKey(os.urandom(32)).reveal_base64()
    guest.write("/tmp/key", place.key.reveal_base64() + "\n")
    guest.write("/tmp/psk", psk + "\n")
    guest.write(
        "/tmp/one.conf",
        f"[Interface]\nPrivateKey = {place.key.reveal_base64()}\nFwMark = 0x77\n"
        f"[Peer]\nPublicKey = {peers[0]}\nAllowedIPs = 10.0.0.0/8, fd00::/8\n"
        f"PresharedKey = {psk}\nEndpoint = [fe80::1%eth0]:7\nPersistentKeepalive = 25\n"
        f"[Peer]\nPublicKey = {peers[1]}\nAllowedIPs = 10.1.0.0/16\n",
    )
    guest.write(
        "/tmp/two.conf",
        f"[Peer]\nPublicKey = {peers[1]}\nAllowedIPs = 10.0.0.0/8, 10.2.0.0/16\n"
        f"[Peer]\nPublicKey = {peers[2]}\nEndpoint = 192.0.2.1:9\n",
    )
    # A port of its own for each of the two, or they would not have the same.
    steps = [
        (
            "set",
            f"private-key /tmp/key fwmark 0x10 peer {peers[0]} allowed-ips 10.9.0.0/16"
            f" preshared-key /tmp/psk endpoint 192.0.2.7:1 peer {peers[3]}",
        ),
        ("setconf", "/tmp/one.conf"),
        ("addconf", "/tmp/two.conf"),
        ("syncconf", "/tmp/one.conf"),
        (
            "set",
            f"peer {peers[0]} preshared-key /dev/null allowed-ips '' peer {peers[1]} remove"
            f" peer {peers[2]} allowed-ips 10.1.0.0/16",
        ),
    ]
    script = ["ip link add kv0 type wireguard", "ip link add kv1 type wireguard"]
    for verb, words in steps:
        for program, name in (("wg", "kv0"), ("nvpn", "kv1")):
            script.append(f"{program} {verb} {name} {words}; echo status $?")
        script += ["wg showconf kv0", "echo ---", "wg showconf kv1", "echo ==="]
    text = guest.output("sh", "-c", "\n".join(script) + "\nexec 2>&1")
    pattern = re.compile(r"\A\n?status 0\nstatus 0\n(.*)---\n(.*)\Z", re.DOTALL)
    outcomes = [pattern.match(part) for part in text.split("===\n")[:-1]]
    assert len(outcomes) == len(steps)
    for step, outcome in zip(steps, outcomes):  # noqa: B905 - see above
        assert outcome is not None, f"{step}: {text}"
        assert sort_prefixes(outcome[1]) == sort_prefixes(outcome[2]), step
        assert "PublicKey" in outcome[1], step

    for words in ("show kv1", "show all dump"):
        assert guest.run("nvpn", *words.split()) == guest.run("wg", *words.split()), words
    status, out, err = guest.run("nvpn", "show", "lo")
    assert (status, out, err) == (1, "", "Unable to access interface: No such device\n")
    guest.output("sh", "-c", "ip link delete kv0; ip link delete kv1")


def test_hundreds_of_peers_come_and_go_whole(place: Place) -> None:
    guest = place.guest
    keys = [PrivateKey(os.urandom(32)).public().base64 for _ in range(200)]
    sections = [
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = 10.{n >> 8}.{n & 255}.0/24, fd00:{n:x}::/32\n"
        f"Endpoint = 192.0.2.1:{n + 1}\n"
        for n, key in enumerate(keys)
    ]
    many = ", ".join(f"fd01::{n:x}/128" for n in range(600))
    sections.append(f"[Peer]\nPublicKey = {place.ours.public_key}\nAllowedIPs = {many}\n")
    guest.write("/tmp/many.conf", "[Interface]\n" + "".join(sections))
    guest.output("ip", "link", "add", "kv2", "type", "wireguard")
    guest.output("nvpn", "setconf", "kv2", "/tmp/many.conf")
    shown = guest.output("wg", "showconf", "kv2")
    assert shown.count("[Peer]") == 201
    assert shown.count("/128") == 600
    assert guest.output("nvpn", "showconf", "kv2") == shown
    # Half of them again: the others go, one by one.
    guest.write("/tmp/many.conf", "[Interface]\n" + "".join(sections[::2]))
    guest.output("nvpn", "syncconf", "kv2", "/tmp/many.conf")
    assert guest.output("wg", "showconf", "kv2").count("[Peer]") == 101
    guest.output("ip", "link", "delete", "kv2")
