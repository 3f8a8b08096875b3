"""What was changed on a running tunnel is in its file after its end, when that is wanted."""

from __future__ import annotations

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.machines import Machine

pytestmark = pytest.mark.root

PEER = PrivateKey(bytes(range(32))).public().base64
ADDED = PrivateKey(bytes(range(1, 33))).public().base64


@pytest.mark.parametrize("suffix", ["conf", "toml"])
def test_it_is_saved_while_the_tunnel_still_works(machine: Machine, suffix: str) -> None:
    text = {
        "conf": f"# mine\n[Interface]\nAddress = 10.9.0.1/24\nSaveConfig = true\n"
        f"PrivateKey = PRIVATE\nPreDown = nvpn-predown\n\n[Peer]\nPublicKey = {PEER}\n",
        "toml": f'# mine\n[interface]\naddress = "10.9.0.1/24"\nsave_config = true\n'
        f'private_key = "PRIVATE"\npre_down = "nvpn-predown"\n\n[[peer]]\npublic_key = "{PEER}"\n',
    }[suffix]
    # The last word is a hook's.
    set_by_hook = " ".join(
        machine.argv("set", "%i", "peer", ADDED, "allowed-ips", "10.7.0.0/16")[4:]
    )
    path = machine.write(text.replace("nvpn-predown", set_by_hook), f"wg0.{suffix}")
    before = path.read_text()
    machine.nvpn("up", path.name)
    machine.nvpn("set", "wg0", "listen-port", "7000")
    machine.host.run("ip", "address", "add", "10.9.0.7/24", "dev", "wg0")

    assert machine.nvpn("down", "wg0").stderr == ""

    saved = path.read_text()
    assert saved != before
    assert saved.startswith("# mine\n")
    for told in ("7000", "10.9.0.7/24", ADDED, "10.7.0.0/16", machine.key.reveal_base64()):
        assert told in saved
    assert path.stat().st_mode & 0o777 == 0o600
    machine.nvpn("check", path.name)


def test_a_file_that_cannot_be_written_is_told_and_the_tunnel_ends(machine: Machine) -> None:
    path = machine.write(
        '[interface]\nprivate_key = "PRIVATE"\nsave_config = true\nlisten_port = 7\n'
    )
    machine.nvpn("up", path.name)
    path.write_text("[interface\n")

    down = machine.nvpn("down", "wg0")

    assert down.stderr.startswith("warning: ")
    assert str(path) in down.stderr
    assert path.read_text() == "[interface\n"
    assert machine.is_clean()
