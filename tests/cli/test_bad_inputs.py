"""What people get wrong, and the sentences they get: what is wrong, where, and the remedy.

The sentences stand side by side in bad_inputs.txt, and here is how each is come by. Every one
is a real run of nvpn, on a machine of its own. `pytest -s` prints the table as it is now.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from nvpn.daemon.kernel_tunnel import why_no_kernel
from nvpn.model.keys import PrivateKey
from tests.support.cli import ROOT
from tests.support.machines import Machine
from tests.support.world import new_world

pytestmark = pytest.mark.root

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

GOOD_CONF = f"[Interface]\nPrivateKey = {SECRET.reveal_base64()}\n"

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


def in_place(change: str) -> tuple[str, ...]:
    """A world in which this was done to the file system, and in which nobody else lives."""
    return ("unshare", "-m", "sh", "-c", f'{change} && exec "$@"', "sh")


def without_file(path: str) -> tuple[str, ...]:
    """A world in which there is no such file, as good as."""
    return in_place(f"{{ ! [ -e {path} ] || mount --bind /dev/null {path}; }}")


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
        within=without_file(f"{ROOT}/nvpn/_native.abi3.so"),
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
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with new_world(tmp_path_factory.mktemp("bad")) as world:
        made = Machine(world, "a")
        made.write(GOOD.replace("51820", "51999").replace("10.9.", "10.8."), "run0.toml")
        made.nvpn("up", "run0.toml")
        made.nvpn("device", "bare0")
        yield made
        made.nvpn("down", "run0")
        made.nvpn("down", "bare0")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_gets_its_sentence(mistake: Mistake, machine: Machine) -> None:
    if mistake.what == KERNELS_BACKEND and not why_no_kernel():
        pytest.skip("this kernel has WireGuard of its own")
    for name, text in mistake.files.items():
        path = machine.etc / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o600)
    mistake.prepare(machine)
    try:
        done = subprocess.run(
            machine.host.argv(
                *(*mistake.within, sys.executable, "-m", "nvpn"), *mistake.command.split()[1:]
            ),
            env={**machine.environment, **mistake.environment},
            cwd=machine.etc,
            input="",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        is_left = machine.has_link("wg0") and mistake.prepare is not add_veth
    finally:
        machine.host.run("sh", "-c", "ip link delete wg0 2>/dev/null; " + SWITCH_IPV6.format(0))
        for name in mistake.files:
            (machine.etc / name).unlink()

    entry = format_entry(mistake, done.returncode, done.stderr)
    print(f"\n{entry}")
    assert entry == SENTENCES.get(mistake.what)
    assert not is_left, "the interface is there all the same"


def test_the_sentences_are_those_of_the_mistakes_and_hold_no_secret() -> None:
    assert list(SENTENCES) == [mistake.what for mistake in MISTAKES]
    assert len(SENTENCES) >= 30
    assert SECRET.reveal_base64()[:12] not in "".join(SENTENCES.values())
    assert "Traceback" not in "".join(SENTENCES.values())


def format_entry(mistake: Mistake, status: int, said: str) -> str:
    """As it stands in the table. A secret that is typed is not shown there either."""
    command = mistake.command.replace(SECRET.reveal_base64(), "SECRET")
    return f"== {mistake.what}\n$ {command}\n{said}exit status {status}\n"


def read_sentences() -> dict[str, str]:
    text = (ROOT / "tests/cli/bad_inputs.txt").read_text()
    entries = [f"== {entry.rstrip()}\n" for entry in text.split("== ")[1:]]
    return {entry.partition("\n")[0].removeprefix("== "): entry for entry in entries}


SENTENCES = read_sentences()
