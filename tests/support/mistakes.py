"""Mistakes that people make, and how each is come by; see tests/cli/test_bad_inputs.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

from nvpn.config.model import HostPort
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.registry.invitation_text import format_invitation
from tests.support.inviting import invitation_to
from tests.support.machines import Machine

SECRET = PrivateKey(bytes(range(100, 132)))
OWN = SECRET.public().base64
PEER = PrivateKey(bytes(range(32))).public().base64
OTHER = PrivateKey(bytes(range(1, 33))).public().base64

GOOD = f"""\
[interface]
private_key = "{SECRET.reveal_base64()}"
address = "10.9.0.1/24"
listen_port = 51820

[[peer]]
name = "bob"
public_key = "{PEER}"
allowed_ips = ["10.9.0.2/32"]
"""

POOL = 'pool = "10.9.0.0/24"\n'
GOOD_CONF = f"[Interface]\nPrivateKey = {SECRET.reveal_base64()}\n"
INVITATION = format_invitation(
    invitation_to(PublicKey.from_base64(PEER), SECRET, HostPort("192.0.2.1", 51820))
)

KERNELS_BACKEND = "the kernel's backend where it has none"
SWITCH_IPV6 = "sysctl -qw net.ipv6.conf.all.disable_ipv6={}"

Prepare = Callable[[Machine], None]


def nothing(machine: Machine) -> None:
    """The machine is fine as it is."""


@dataclass(frozen=True)
class Mistake:
    """``command`` is typed where ``files`` are.

    ``within`` is put before the command, for another world than ours.
    """

    what: str
    command: str
    files: dict[str, str | bytes] = field(default_factory=dict)
    prepare: Prepare = nothing
    environment: dict[str, str] = field(default_factory=dict)
    within: tuple[str, ...] = ()


def config(*changes: tuple[str, str]) -> dict[str, str | bytes]:
    """A good wg0.toml but for these changes."""
    text = GOOD
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return {"wg0.toml": text}


def server(text: str) -> dict[str, str | bytes]:
    """A good wg0.toml with this in its [server]."""
    return {"wg0.toml": f"{GOOD}\n[server]\n{text}\n"}


def in_place(change: str) -> tuple[str, ...]:
    """A world in which this was done to the file system, and in which nobody else lives."""
    return ("unshare", "-m", "sh", "-c", f'{change} && exec "$@"', "sh")


def without_file(path: str) -> tuple[str, ...]:
    """A world in which there is no such file, as good as."""
    return in_place(f"{{ ! [ -e {path} ] || mount --bind /dev/null {path}; }}")


def without_native() -> tuple[str, ...]:
    """A world in which the native module was not built, whatever its file is called."""
    spec = find_spec("nvpn._native")
    return () if spec is None or spec.origin is None else without_file(spec.origin)


def add_veth(machine: Machine) -> None:
    command = "ip link add wg0 type veth peer name veth0"
    machine.host.run(*command.split())


def switch_off_ipv6(machine: Machine) -> None:
    machine.host.run(*SWITCH_IPV6.format(1).split())


def give_away(machine: Machine) -> None:
    os.chown(machine.etc / "wg0.toml", 65534, 65534)


def open_key_file(machine: Machine) -> None:
    (machine.etc / "wg0.key").chmod(0o644)


MISTAKES = [
    Mistake("a slip of the fingers", "nvpn shwo"),
    Mistake("a name of 16 characters", "nvpn device sixteencharacter"),
    Mistake("a name with a slash", "nvpn device a/b"),
    Mistake("a word of wg's as a name", "nvpn device all"),
    Mistake("an unknown option", "nvpn up --forground wg0"),
    Mistake("down of what does not run", "nvpn down wg0"),
    Mistake("reload of what does not run", "nvpn reload wg0"),
    Mistake("reload of what is not a name", "nvpn reload a/b/"),
    Mistake("a key where none belongs", f"nvpn genkey {SECRET.reveal_base64()}"),
    Mistake("no key on standard input", "nvpn pubkey"),
    Mistake("a directory that is not there", "nvpn genkey -o nosuch/wg0.key"),
    Mistake("what does not run, for people", "nvpn show --json wg0"),
    Mistake("what does not run, for scripts", "nvpn show wg0 peers"),
    Mistake("seconds that are none", "nvpn demo --seconds soon"),
    Mistake("a key file that is there", "nvpn genkey -o wg0.toml", config()),
    Mistake("a file that is not there", "nvpn up wg1.toml", config()),
    Mistake("a name without a file", "nvpn up s5none"),
    Mistake("a directory", "nvpn up ."),
    Mistake("an empty file", "nvpn up wg0.toml", {"wg0.toml": ""}),
    Mistake("not UTF-8", "nvpn up wg0.toml", {"wg0.toml": b"[interface]\n# caf\xe9\n"}),
    Mistake("not TOML", "nvpn up wg0.toml", config(('"10.9.0.1/24"', "10.9.0.1/24"))),
    Mistake("not a .conf", "nvpn up wg0.conf", {"wg0.conf": GOOD}),
    Mistake("a misspelt key", "nvpn up wg0.toml", config(("listen_port", "listenport2"))),
    Mistake("a misspelt section", "nvpn up wg0.toml", config(("[[peer]]", "[[peers]]"))),
    Mistake("a key of 43 characters", "nvpn up wg0.toml", config((PEER, PEER[1:]))),
    Mistake("a port of 70000", "nvpn up wg0.toml", config(("51820", "70000"))),
    Mistake(
        "an address twice",
        "nvpn up wg0.toml",
        config(('"10.9.0.1/24"', '["10.9.0.1/24", "10.9.0.1/24"]')),
    ),
    Mistake(
        "two peers with one prefix",
        "nvpn up wg0.toml",
        {"wg0.toml": f'{GOOD}\n[[peer]]\npublic_key = "{OTHER}"\nallowed_ips = "10.9.0.2/32"\n'},
    ),
    Mistake(
        "two peers with one key",
        "nvpn up wg0.toml",
        {"wg0.toml": f'{GOOD}\n[[peer]]\npublic_key = "{PEER}"\nallowed_ips = "10.9.0.3/32"\n'},
    ),
    Mistake("one's own key as a peer's", "nvpn up wg0.toml", config((PEER, OWN))),
    Mistake(
        "a host without a port",
        "nvpn up wg0.toml",
        config(("allowed_ips", 'endpoint = "vpn.example.com"\nallowed_ips')),
    ),
    Mistake(
        "IPv6 without brackets",
        "nvpn up wg0.toml",
        config(("allowed_ips", 'endpoint = "2001:db8::1:51820"\nallowed_ips')),
    ),
    Mistake(
        "an MTU of 500", "nvpn up wg0.toml", config(("listen_port", "mtu = 500\nlisten_port"))
    ),
    Mistake(
        "IPv6 with an MTU of 1200",
        "nvpn up wg0.toml",
        config(("listen_port", "mtu = 1200\nlisten_port"), ('"10.9.0.1/24"', '"fd09::1/64"')),
    ),
    Mistake(
        "a key file that is not there",
        "nvpn up wg0.toml",
        config((f'private_key = "{SECRET.reveal_base64()}"', 'private_key_file = "wg0.key"')),
    ),
    Mistake(
        "an empty key file",
        "nvpn up wg0.toml",
        {"wg0.key": ""}
        | config((f'private_key = "{SECRET.reveal_base64()}"', 'private_key_file = "wg0.key"')),
    ),
    Mistake(
        "a table that is called main by mistake",
        "nvpn up wg0.toml",
        config(("listen_port", 'table = "mian"\nlisten_port')),
    ),
    Mistake(
        "a name server that is none",
        "nvpn up wg0.toml",
        config(("listen_port", 'dns = "10.0.0.256"\nlisten_port')),
    ),
    Mistake(
        "a backend that is none",
        "nvpn up wg0.toml",
        config(("listen_port", 'backend = "kernle"\nlisten_port')),
    ),
    Mistake(
        "a key and a key file",
        "nvpn up wg0.toml",
        config(("listen_port", 'private_key_file = "wg0.key"\nlisten_port')),
    ),
    Mistake(
        "an endpoint and endpoints",
        "nvpn up wg0.toml",
        config(
            ("allowed_ips", 'endpoint = "192.0.2.1:5"\nendpoints = ["192.0.2.2:5"]\nallowed_ips')
        ),
    ),
    Mistake(
        "a misspelt key of wg-quick's",
        "nvpn up wg0.conf",
        {"wg0.conf": GOOD_CONF + "Adress = 10.9.0.1/24\n"},
    ),
    Mistake(
        "neither true nor false",
        "nvpn up wg0.conf",
        {"wg0.conf": GOOD_CONF + "SaveConfig = yes\n"},
    ),
    Mistake(
        "a datapath that is none",
        "nvpn up wg0.toml",
        config(),
        environment={"NVPN_DATAPATH": "rust"},
    ),
    Mistake("a descriptor that is none", "nvpn wg0", environment={"WG_TUN_FD": "abc"}),
    Mistake("a descriptor that is closed", "nvpn wg0", environment={"WG_TUN_FD": "99"}),
    Mistake(
        "a runtime directory that cannot be",
        "nvpn up wg0.toml",
        config(),
        environment={"NVPN_RUNTIME_DIR": "/proc/nvpn"},
    ),
    Mistake("set of what does not run", "nvpn set wg0 listen-port 5"),
    Mistake("set without anything to set", "nvpn set run0"),
    Mistake("set of a word that is none", "nvpn set run0 listen-prot 5"),
    Mistake("set of a key that is none", f"nvpn set run0 peer {PEER[1:]}"),
    Mistake(
        "set of allowed IPs that are none", f"nvpn set run0 peer {PEER} allowed-ips 10.0.0.0/99"
    ),
    Mistake(
        "set of a name that nobody knows",
        f"nvpn set run0 peer {PEER} endpoint nosuch.invalid:5",
        environment={"WG_ENDPOINT_RESOLUTION_RETRIES": "0"},
    ),
    Mistake(
        "retries that are no number",
        f"nvpn set run0 peer {PEER} endpoint nosuch.invalid:5",
        environment={"WG_ENDPOINT_RESOLUTION_RETRIES": "x"},
    ),
    Mistake("setconf of a file that is not there", "nvpn setconf run0 nosuch.conf"),
    Mistake(
        "setconf of a file for wg-quick",
        "nvpn setconf run0 quick.conf",
        {"quick.conf": GOOD_CONF + "Address = 10.9.0.1/24\n"},
    ),
    Mistake(
        "setconf of a misspelt secret",
        "nvpn setconf run0 quick.conf",
        {"quick.conf": f"[Interface]\nPrivatKey = {SECRET.reveal_base64()}\n"},
    ),
    Mistake(
        "no root",
        "nvpn up wg0.toml",
        config(),
        within=("setpriv", "--bounding-set", "-all", "--inh-caps", "-all"),
    ),
    Mistake(
        "no /dev/net/tun",
        "nvpn up wg0.toml",
        config(),
        within=in_place("mount -t tmpfs none /dev/net"),
    ),
    Mistake("a name that another interface has", "nvpn up wg0.toml", config(), prepare=add_veth),
    Mistake("a tunnel that runs already", "nvpn up run0.toml"),
    Mistake("a port that is taken", "nvpn up wg0.toml", config(("51820", "51999"))),
    Mistake("a device that has no file to reload", "nvpn reload bare0"),
    Mistake(
        "a route that another interface has",
        "nvpn up wg0.toml",
        config(('"10.9.0.2/32"', '"10.8.0.0/24"')),
    ),
    Mistake(
        "a hook that fails",
        "nvpn up wg0.toml",
        config(("listen_port", "post_up = 'echo no such host; exit 3'\nlisten_port")),
    ),
    Mistake(
        "a namespace that is not there",
        "nvpn up wg0.toml",
        config(("listen_port", 'netns = "s5none"\nlisten_port')),
    ),
    Mistake(
        "a kill switch without nft",
        "nvpn up wg0.toml",
        config(("listen_port", "kill_switch = true\nlisten_port")),
        within=without_file(os.path.realpath(shutil.which("nft") or "/usr/sbin/nft")),
    ),
    Mistake(
        KERNELS_BACKEND,
        "nvpn up wg0.toml",
        config(("listen_port", 'backend = "kernel"\nlisten_port')),
    ),
    Mistake(
        "the native datapath where it was not built",
        "nvpn up wg0.toml",
        config(),
        environment={"NVPN_DATAPATH": "native", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        within=without_native(),
    ),
    Mistake(
        "IPv6 only where it is switched off",
        "nvpn up wg0.toml",
        config(('"10.9.0.1/24"', '"fd09::1/64"')),
        prepare=switch_off_ipv6,
    ),
    Mistake(
        "a file of somebody else's, without the right to read it",
        "nvpn up wg0.toml",
        config(),
        prepare=give_away,
        within=("setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all"),
    ),
    Mistake(
        "a key file that others may read",
        "nvpn check wg0.toml",
        {"wg0.key": SECRET.reveal_base64()}
        | config((f'private_key = "{SECRET.reveal_base64()}"', 'private_key_file = "wg0.key"')),
        prepare=open_key_file,
    ),
    # --- peers and files ------------------------------------------------------------------
    Mistake(
        "a peer's name that is taken",
        "nvpn peer add bob -i wg0.toml --endpoint vpn.example.com",
        config(),
    ),
    Mistake("a peer that nobody knows", "nvpn peer rm alice -i wg0.toml", config()),
    Mistake(
        "an endpoint for a new peer that is none",
        "nvpn peer add alice -i wg0.toml --endpoint host:99999",
        config(),
    ),
    Mistake(
        "a disk that is full",
        f"nvpn peer add alice -i full/wg0.toml --public-key {OTHER}",
        config(),
        within=in_place(
            "mkdir -p full && mount -t tmpfs -o size=8k none full && cp -p wg0.toml full"
            " && head -c 4096 /dev/zero >full/rest"
        ),
    ),
    Mistake(
        "too much for a QR code",
        "nvpn peer qr long.conf --force",
        {
            "long.conf": GOOD_CONF
            + f"[Peer]\nPublicKey = {PEER}\nAllowedIPs = "
            + ", ".join(f"10.{number}.0.0/16" for number in range(250))
        },
    ),
    Mistake("a tunnel to save that does not run", "nvpn save wg0"),
    Mistake("a device that has no file to save to", "nvpn save bare0"),
    Mistake("a file to import that is not there", "nvpn import wg0.conf"),
    Mistake("a file to import that is nvpn's own", "nvpn import wg0.toml", config()),
    Mistake(
        "a file to export that is wg-quick's", "nvpn export wg0.conf", {"wg0.conf": GOOD_CONF}
    ),
    Mistake(
        "a file that an import would overwrite",
        "nvpn import wg0.conf -o wg0.toml",
        {"wg0.conf": GOOD_CONF} | config(),
    ),
    Mistake("a file to strip that is not there", "nvpn strip nosuch.conf"),
    # --- servers and their clients -----------------------------------------------------------
    Mistake("a server without a pool", "nvpn up wg0.toml", server("nat = true")),
    Mistake("a pool with an address in it", "nvpn check wg0.toml", server('pool = "10.9.0.1/24"')),
    Mistake(
        "a reservation that is in no pool",
        "nvpn check wg0.toml",
        server(f'{POOL}[[server.reservation]]\nname = "bob"\naddress = "10.8.0.5"'),
    ),
    Mistake(
        "an etcd that the store does not name",
        "nvpn check wg0.toml",
        server(f'{POOL}etcd = "http://127.0.0.1:2379"'),
    ),
    Mistake("a lease of a second", "nvpn check wg0.toml", server(f'{POOL}lease_time = "1s"')),
    Mistake(
        "a port before its protocol",
        "nvpn check wg0.toml",
        config(("listen_port", 'allowed_ports = ["22/tcp"]\nlisten_port')),
    ),
    Mistake("an invitation by what is no server", "nvpn invite laptop -i run0"),
    Mistake("an invitation that is none", "nvpn join hello"),
    Mistake(
        "an invitation by a server that we have joined",
        "nvpn join invitation --config .",
        {"invitation": INVITATION} | config(("[[peer]]", "[[peer]]\nserver = true")),
    ),
    Mistake("a client of what is no server", "nvpn client revoke bob -i run0"),
]
