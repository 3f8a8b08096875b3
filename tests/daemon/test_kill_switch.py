"""The kill switch: nothing leaves past the tunnel, whatever happens; the LAN stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.roads import (
    OUTSIDE,
    OUTSIDE_V6,
    ROUTER,
    Roads,
    talking,
    wait_until_reached,
)
from tests.support.world import new_world, wait_until

pytestmark = pytest.mark.root

SWITCH = "kill_switch = true"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roads]:
    with new_world(tmp_path_factory.mktemp("roads")) as world:
        made = Roads(world)
        made.serve()
        yield made


@pytest.fixture
def roads(shared: Roads) -> Iterator[Roads]:
    yield shared
    shared.tidy()


def test_nothing_is_readable_on_the_wire_from_the_switch_s_first_moment_to_its_last(
    roads: Roads,
) -> None:
    client = roads.client
    before = roads.host_state()
    client.write(roads.configuration(SWITCH))
    with talking(roads) as (talker, tap):
        talker.pause(0.05)
        started = talker.next
        client.nvpn("up", "wg0.toml")
        ready = talker.next
        wait_until_reached(client, OUTSIDE)
        wait_until_reached(client, OUTSIDE_V6)
        for extra, allowed in (
            ("", '"10.9.0.0/24"'),  # no default route
            ("fwmark = 77", '"0.0.0.0/0", "::/0"'),
            ("table = 1234", '"0.0.0.0/0", "::/0"'),
            ("table = 'off'", '"0.0.0.0/0"'),
            ("", '"0.0.0.0/0", "::/0"'),
        ):
            client.write(roads.configuration(f"{SWITCH}\n{extra}", allowed_ips=allowed))
            client.nvpn("reload", "wg0")
            talker.pause(0.02)
        for state in ("down", "up"):
            client.host.run("ip", "link", "set", "wg0", state)
            talker.pause(0.05)
        assert client.host.ping(ROUTER) == (3, 3)
        wait_until_reached(client, OUTSIDE)
        ending = talker.next
        client.nvpn("down", "wg0")
        talker.pause(0.05)
        ended = talker.next
        seen = tap.readable()

    for version in (4, 6):
        hidden = sorted(set(range(ended)) - set(seen[version]))
        assert started <= hidden[0] < ready
        assert ending <= hidden[-1] < ended
        assert [number for number in seen[version] if hidden[0] < number < hidden[-1]] == []
    assert roads.host_state() == before


def test_it_outlives_a_killed_daemon_and_the_next_one_takes_it_over(roads: Roads) -> None:
    client = roads.client
    before = roads.host_state()
    client.write(roads.configuration(SWITCH))
    client.nvpn("up", "wg0.toml")
    with talking(roads) as (talker, tap):
        client.kill()
        talker.pause(0.05)
        assert client.host.ping(ROUTER) == (3, 3)

        client.nvpn("up", "wg0.toml")
        wait_until_reached(client, OUTSIDE)
        assert tap.readable() == {4: [], 6: []}

    client.kill()
    client.nvpn("down", "wg0")
    assert roads.host_state() == before
    assert client.host.ping(OUTSIDE) == (3, 3)


def test_without_a_default_route_only_the_tunnel_and_the_lan_are_left(roads: Roads) -> None:
    client = roads.client
    client.write(roads.configuration(SWITCH, allowed_ips='"10.9.0.0/24"'))

    client.nvpn("up", "wg0.toml")

    assert client.nvpn("show", "wg0", "fwmark").stdout != "off\n"
    assert client.host.ping("10.9.0.1") == (3, 3)
    assert client.host.ping(ROUTER) == (3, 3)
    assert client.host.ping(OUTSIDE, wait=0.2) == (3, 0)

    # A network that the host joins meanwhile is its LAN, too.
    client.world.link(client.host, roads.router, subnet=5)
    wait_until(lambda: client.host.ping("10.77.5.2", count=1, wait=0.2) == (1, 1), 30, "LAN")

    client.write(roads.configuration("", allowed_ips='"10.9.0.0/24"'))
    client.nvpn("reload", "wg0")
    assert client.host.ping(OUTSIDE) == (3, 3)


def test_a_switch_that_cannot_be_set_is_an_error(roads: Roads) -> None:
    client = roads.client
    client.write(roads.configuration())
    client.nvpn("up", "wg0.toml")
    assert client.host.ping(OUTSIDE) == (3, 3)
    client.nvpn("down", "wg0")
    remembered = (client.state_directory / "wg0.json").read_bytes()
    assert roads.server.public_key in remembered.decode()
    before = roads.host_state()
    client.write(roads.configuration(SWITCH))
    script = 'mount --bind /dev/null "$(command -v nft)" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", *client.argv("up", "wg0.toml")[4:]]

    said = client.host.run(
        "env", "-C", str(client.etc), *(f"{key}={client.environment[key]}" for key in
        ("NVPN_RUNTIME_DIR", "NVPN_STATE_DIR", "PYTHONPATH")), "sh", "-c",
        '"$@" 2>&1; echo $?', "sh", *command,
    )  # fmt: skip

    assert said == (
        "error: cannot set up the kill switch of wg0; nft is not installed; it needs nftables\n1\n"
    )
    assert roads.host_state() == before
    assert client.is_clean()
    # A start that failed has not forgotten whom it was to talk to.
    assert (client.state_directory / "wg0.json").read_bytes() == remembered


def test_an_endpoint_s_name_that_the_switch_keeps_from_resolving_is_told(roads: Roads) -> None:
    client = roads.client
    resolv_conf = client.etc / "resolv.conf"
    resolv_conf.write_text("nameserver 198.51.100.53\n")
    client.write(
        roads.configuration(SWITCH, endpoint="vpn.invalid:51820", allowed_ips='"10.9.0.0/24"')
    )
    script = f'mount --bind {resolv_conf} /etc/resolv.conf && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", *client.argv("up", "wg0.toml")[4:]]

    said = client.host.run(
        "env", "-C", str(client.etc), *(f"{key}={client.environment[key]}" for key in
        ("NVPN_RUNTIME_DIR", "NVPN_STATE_DIR", "PYTHONPATH")), "sh", "-c",
        '"$@" 2>&1; echo $?', "sh", *command,
    )  # fmt: skip

    assert said.splitlines()[0] == (
        "warning: vpn.invalid may not resolve: the kill switch lets nothing reach the name"
        " server 198.51.100.53; give the endpoint as an address"
    )
    assert said.endswith("\n0\n")
