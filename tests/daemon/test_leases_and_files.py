"""What a server's file leases a client gets, and no file learns of it."""

from __future__ import annotations

import pytest

from tests.daemon.conftest import Pair
from tests.support.machines import Machine
from tests.support.world import wait_until

pytestmark = pytest.mark.root

SERVER = """\
[interface]
private_key = "PRIVATE"
address = ["10.9.0.1/24", "fd09::1/64"]
listen_port = 51820
mtu = 1400

[server]  # ours
pool = ["10.9.0.0/24", "fd09::/64"]
routes = ["10.9.0.0/24", "fd09::/64", "10.44.0.0/16"]
forward = false
mtu = 1380

[[server.reservation]]
name = "bob"
address = "10.9.0.77"

[[peer]]
name = "bob"
public_key = "BOB"
"""

CLIENT = """\
[interface]
private_key = "PRIVATE"
listen_port = 51820

[[peer]]
name = "alice"
public_key = "ALICE"
endpoint = "10.77.1.1:51820"
server = true
"""


def keepalive(client: Machine) -> str:
    """With its server."""
    return str(client.record()[1][-1])


def test_what_a_server_leases_the_client_gets_and_no_file_is_told(pair: Pair) -> None:
    alice, bob = pair.alice, pair.bob
    server = alice.write(SERVER.replace("BOB", bob.public_key))
    client = bob.write(CLIENT.replace("ALICE", alice.public_key))
    texts = server.read_text(), client.read_text()
    alice.nvpn("up", "wg0.toml")
    bob.nvpn("up", "wg0.toml")

    (ipv6,) = {one for one in bob.addresses() if one.startswith("fd09::")}
    assert bob.addresses() == {"10.9.0.77/24", ipv6}
    assert bob.routes() >= {"10.9.0.0/24", "10.44.0.0/16", "fd09::/64"}
    assert bob.ip("link", "show", "wg0")[0]["mtu"] == 1380
    pair.alice.host.run("ping", "-c1", "-W2", "10.9.0.77")
    assert keepalive(bob) == "25"

    # What others added is written, and where bob was last; the lease is not.
    stranger = bob.public_key.replace(bob.public_key[0], "A", 1)
    for machine in (alice, bob):
        machine.nvpn("set", "wg0", "peer", stranger, "allowed-ips", "10.55.0.1/32")
        machine.nvpn("save", "wg0")
    added = f'\n[[peer]]\npublic_key = "{stranger}"\nallowed_ips = ["10.55.0.1/32"]\n'
    where = f'{bob.public_key}"\nendpoint = "10.77.1.2:51820"\n'
    assert server.read_text() == texts[0].replace(f'{bob.public_key}"\n', where) + added
    assert client.read_text() == texts[1] + added

    # A reload of what was saved leaves the lease alone.
    alice.write(server.read_text().replace("mtu = 1380", 'store = "file"\nlease_time = 3600'))
    for machine in (alice, bob):
        assert machine.nvpn("reload", "wg0").stderr == ""
    assert bob.addresses() == {"10.9.0.77/24", ipv6}
    assert keepalive(bob) == "25"
    alice.host.run("ping", "-c1", "-W2", ipv6.partition("/")[0])

    # Who is to go when it is silent is told to be silent, and what its file says wins.
    alice.write(server.read_text().replace("lease_time = 3600", "idle_timeout = 3600"))
    assert alice.nvpn("reload", "wg0").stderr == ""
    wait_until(lambda: keepalive(bob) == "off", 30, "bob asks again")
    bob.write(
        client.read_text().replace("server = true", "server = true\npersistent_keepalive = 9")
    )
    assert bob.nvpn("reload", "wg0").stderr == ""
    assert keepalive(bob) == "9"

    for machine in (bob, alice):
        machine.nvpn("down", "wg0")
        assert machine.is_clean()
