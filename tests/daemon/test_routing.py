"""Default routes with real traffic: what goes where, what stays outside, what is left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.roads import (
    OUTSIDE,
    OUTSIDE_V6,
    ROUTER,
    SERVER,
    Roads,
    talking,
    wait_until_reached,
)
from tests.support.world import new_world, wait_until

pytestmark = pytest.mark.root


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


def device_to(roads: Roads, address: str, *more: str) -> str:
    (route,) = roads.client.ip("route", "get", address, *more)
    return route["dev"]


def rules(roads: Roads, version: int = 4) -> list[str]:
    lines = roads.client.host.run("ip", f"-{version}", "rule").splitlines()
    return [" ".join(line.split()) for line in lines if "proto 110" in line]


def test_everything_but_the_lan_goes_through_and_down_leaves_all_as_before(roads: Roads) -> None:
    client = roads.client
    before = roads.host_state()
    client.host.run("sysctl", "-qw", f"net.ipv4.conf.{roads.wire}.rp_filter=1")
    client.write(roads.configuration())

    up = client.nvpn("up", "wg0.toml")

    assert up.stderr == ""
    assert client.host.ping(OUTSIDE) == (3, 3)
    assert client.host.ping(OUTSIDE_V6) == (3, 3)
    assert client.host.ping(ROUTER) == (3, 3)
    assert device_to(roads, OUTSIDE) == device_to(roads, OUTSIDE_V6) == "wg0"
    assert device_to(roads, ROUTER) == device_to(roads, "fd77:1::2") == roads.wire
    assert device_to(roads, SERVER, "mark", "51820") == roads.wire
    for version in (4, 6):
        assert rules(roads, version) == [
            "32764: from all lookup main suppress_prefixlength 0 proto 110",
            "32765: not from all fwmark 0xca6c lookup 51820 proto 110",
        ]
    assert client.host.run("sysctl", "-n", "net.ipv4.conf.all.src_valid_mark") == "1\n"
    assert "off" not in client.nvpn("show", "wg0", "fwmark").stdout

    down = client.nvpn("down", "wg0")

    assert down.stderr == ""
    assert roads.host_state() == before


def test_a_packet_to_the_tunnel_s_address_from_the_wire_is_dropped(roads: Roads) -> None:
    client = roads.client
    roads.router.run("ip", "route", "add", "10.9.0.2/32", "via", "10.77.1.1")
    roads.router.run("ip", "route", "add", "fd09::2/128", "via", "fd77:1::1")
    client.write(roads.configuration())
    client.nvpn("up", "wg0.toml")

    for address in ("10.9.0.2", "fd09::2"):
        assert roads.router.ping(address, wait=0.3) == (3, 0)
        assert client.host.ping(address) == (3, 3)  # but it may talk to itself
    assert client.host.ping(OUTSIDE) == (3, 3)
    assert roads.server.host.ping("10.9.0.2") == (3, 3)

    # Without the guard they would be answered: so it was the guard that dropped them.
    client.host.run("nft", "delete", "table", "inet", "nvpn-wg0")
    assert roads.router.ping("10.9.0.2") == (3, 3)
    assert roads.router.ping("fd09::2") == (3, 3)


def test_nothing_is_readable_on_the_wire_from_ready_to_down(roads: Roads) -> None:
    client = roads.client
    client.write(roads.configuration())
    with talking(roads) as (talker, tap):
        talker.pause(0.05)
        client.nvpn("up", "wg0.toml")
        ready = talker.next
        for extra in ("", "mtu = 1300", "fwmark = 77"):
            client.write(roads.configuration(extra))
            client.nvpn("reload", "wg0")
            talker.pause(0.02)
        wait_until_reached(client, OUTSIDE)
        assert "0x4d lookup 77" in " ".join(rules(roads))
        for state in ("down", "up"):
            client.host.run("ip", "link", "set", "wg0", state)
            talker.pause(0.1)
        wait_until_reached(client, OUTSIDE)
        ending = talker.next
        client.nvpn("down", "wg0")
        talker.pause(0.05)
        seen = tap.readable()

    for version in (4, 6):
        assert [number for number in seen[version] if ready <= number < ending] == []
        assert min(seen[version]) < ready  # the tap works
        assert max(seen[version]) > ending


def test_a_reload_adds_and_removes_a_default_route(roads: Roads) -> None:
    client = roads.client
    before = roads.host_state()
    client.write(roads.configuration(allowed_ips='"10.9.0.0/24"'))
    client.nvpn("up", "wg0.toml")
    plain = roads.host_state()
    assert client.nvpn("show", "wg0", "fwmark").stdout == "off\n"

    client.write(roads.configuration())
    client.nvpn("reload", "wg0")
    assert client.host.ping(OUTSIDE) == (3, 3)
    assert device_to(roads, OUTSIDE) == "wg0"

    client.write(roads.configuration(allowed_ips='"0.0.0.0/1", "128.0.0.0/1", "::/0"'))
    client.nvpn("reload", "wg0")
    assert client.routes() >= {"0.0.0.0/1", "128.0.0.0/1"}
    assert rules(roads) == []
    assert len(rules(roads, 6)) == 2

    client.write(roads.configuration(allowed_ips='"10.9.0.0/24"'))
    client.nvpn("reload", "wg0")
    assert roads.host_state() == plain
    client.nvpn("down", "wg0")
    assert roads.host_state() == before


def test_a_table_of_one_s_own_or_none_at_all(roads: Roads) -> None:
    client = roads.client
    before = roads.host_state()
    client.write(roads.configuration('table = "off"'))
    client.nvpn("up", "wg0.toml")
    assert device_to(roads, OUTSIDE) == roads.wire
    assert client.routes() == {"10.9.0.0/24", "fd09::/64"}

    client.write(roads.configuration("table = 1234"))
    client.nvpn("reload", "wg0")
    for version in ("-4", "-6"):
        (route,) = client.ip(version, "route", "show", "table", "1234")
        assert (route["dst"], route["dev"]) == ("default", "wg0")
    assert rules(roads) == []
    assert "nvpn" not in client.host.run("nft", "list", "ruleset")
    # The kernel takes routes away with the link's being up, and we put them back.
    client.host.run("ip", "link", "set", "wg0", "down")
    client.host.run("ip", "link", "set", "wg0", "up")
    wait_until(lambda: client.ip("route", "show", "table", "1234") != [], 30, "the route is back")

    client.nvpn("down", "wg0")
    assert roads.host_state() == before


def test_the_fwmark_of_the_file_is_mark_and_table(roads: Roads) -> None:
    client = roads.client
    client.write(roads.configuration("fwmark = 0x1f"))
    client.nvpn("up", "wg0.toml")

    assert rules(roads)[1] == "32765: not from all fwmark 0x1f lookup 31 proto 110"
    assert client.nvpn("show", "wg0", "fwmark").stdout == "0x1f\n"
    assert client.host.ping(OUTSIDE) == (3, 3)
    client.nvpn("down", "wg0")

    before = roads.host_state()
    client.write(roads.configuration("fwmark = 254"))
    up = client.nvpn("up", "wg0.toml", status=1)
    assert up.stderr == (
        "error: cannot put the default route of wg0 into table 254; the table is as the"
        " fwmark, and that one is the system's; choose another fwmark\n"
    )
    assert roads.host_state() == before


def test_a_reload_that_is_refused_changes_nothing(roads: Roads) -> None:
    client = roads.client
    client.write(roads.configuration())
    client.nvpn("up", "wg0.toml")
    client.host.run("ip", "route", "add", "default", "via", ROUTER, "table", "31")
    before = roads.host_state()

    client.write(roads.configuration("fwmark = 31\nkill_switch = true"))
    reload = client.nvpn("reload", "wg0", status=1)

    assert "cannot add route 0.0.0.0/0 to wg0: File exists" in reload.stderr
    assert roads.host_state() == before
    assert client.host.ping(OUTSIDE) == (3, 3)
    client.nvpn("down", "wg0")
    client.host.run("ip", "route", "flush", "table", "31")


def test_what_a_killed_daemon_left_is_cleared_away(roads: Roads) -> None:
    client = roads.client
    before = roads.host_state()
    client.write(roads.configuration())
    client.nvpn("up", "wg0.toml")
    client.kill()
    # Nobody speaks for the tunnel, but nothing goes past it either.
    assert client.host.run("ip", "route", "get", OUTSIDE, check=False) == ""
    assert client.host.ping(ROUTER) == (3, 3)

    down = client.nvpn("down", "wg0")

    assert "policy rules" in down.stderr
    assert roads.host_state() == before


def test_ipv6_that_the_interface_cannot_have_does_not_go_past_it(roads: Roads) -> None:
    client = roads.client
    before = roads.host_state()
    client.host.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    client.write(roads.configuration())

    up = client.nvpn("up", "wg0.toml")

    assert up.stderr == (
        "warning: IPv6 is switched off here: fd09::2/64 and 1 route are left out\n"
    )
    assert client.host.ping(OUTSIDE) == (3, 3)
    assert client.host.run("ip", "-6", "route", "get", OUTSIDE_V6, check=False) == ""
    assert device_to(roads, "fd77:1::2") == roads.wire
    client.host.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0")
    client.nvpn("down", "wg0")
    assert roads.host_state() == before


def test_what_others_removed_is_put_back_when_the_network_changes(roads: Roads) -> None:
    client = roads.client
    client.write(roads.configuration("kill_switch = true"))
    client.nvpn("up", "wg0.toml")
    there = roads.host_state()
    for command in (
        "nft flush ruleset",
        "ip route del unreachable default table 51820 metric 4294967295",
        "ip rule del priority 32764",
        "ip -6 rule del priority 32765",
    ):
        client.host.run(*command.split())

    wait_until(lambda: roads.host_state() == there, 30, "all is back")


def test_a_failed_start_leaves_nothing(roads: Roads) -> None:
    client = roads.client
    before = roads.host_state()
    client.write(roads.configuration('post_up = "false"\nkill_switch = true'))

    client.nvpn("up", "wg0.toml", status=1)

    assert roads.host_state() == before
    assert client.is_clean()


def test_what_cannot_be_had_of_the_firewall_is_a_warning(roads: Roads) -> None:
    client = roads.client
    client.host.run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=0")
    client.write(roads.configuration())
    script = (
        "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
        " && mount --bind /dev/null $(command -v nft)"
        " && for tool in iptables-restore ip6tables-restore; do"
        "   ! at=$(command -v $tool) || mount --bind /dev/null $at; done"
        ' && exec "$@"'
    )
    command = client.host.argv("unshare", "-m", "sh", "-c", script, "sh", *client.argv()[4:], "up")

    up = subprocess.run(
        [*command, "wg0.toml"],
        env=client.environment,
        cwd=client.etc,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert up.returncode == 0, up.stderr
    first, second = sorted(up.stderr.splitlines())
    assert first == (
        "warning: cannot set net.ipv4.conf.all.src_valid_mark: Read-only file system; where"
        " rp_filter is strict, answers get lost; try: sysctl -w"
        " net.ipv4.conf.all.src_valid_mark=1"
    )
    assert second == (
        "warning: wg0: packets to its addresses are accepted from any network:"
        " neither nft nor iptables is installed"
    )
    strict = f"net.ipv4.conf.{roads.wire}.rp_filter="
    client.host.run("sysctl", "-qw", f"{strict}0")
    assert client.host.ping(OUTSIDE) == (3, 3)
    client.host.run("sysctl", "-qw", f"{strict}1")
    assert client.host.ping(OUTSIDE, wait=0.3) == (3, 0)  # so the warning is true


def test_a_tunnel_over_twenty_others_lets_the_packets_of_each_pass(roads: Roads) -> None:
    client = roads.client
    client.write(roads.configuration())
    for number in range(7000, 7020):
        for version in ("-4", "-6"):
            rule = ["not", "fwmark", f"{number}", "lookup", f"{number}"]
            client.host.run("ip", version, "rule", "add", *rule)

    client.nvpn("up", "wg0.toml")

    assert len(rules(roads)) == len(rules(roads, 6)) == 20 + 3
    assert client.host.ping(OUTSIDE) == (3, 3)
    assert device_to(roads, SERVER, "mark", "7011") == roads.wire
    client.nvpn("down", "wg0")
    assert rules(roads) == []
