"""An interface in one network namespace, its UDP sockets in another."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.daemon.conftest import Pair
from tests.support.machines import Machine
from tests.support.world import Host, World, wait_until

pytestmark = pytest.mark.root


@dataclass
class Cell:
    """Alice's uplink is in her own namespace; in the cell there is nothing but a tunnel."""

    pair: Pair
    inside: Host

    @property
    def alice(self) -> Machine:
        return self.pair.alice

    def configuration(self, more: str) -> str:
        text = self.pair.configuration(self.alice)
        return text.replace("listen_port", f"{more}\nlisten_port").replace(
            '"10.9.0.2/32"', '"0.0.0.0/0", "::/0"'
        )

    def links(self) -> set[str]:
        return {line.split()[0] for line in self.inside.run("ip", "-br", "link").splitlines()}

    def default_routes(self) -> str:
        return self.inside.run("ip", "route", "show", "default")


@pytest.fixture
def cell(pair: Pair, world: World) -> Iterator[Cell]:
    pair.bob.write(pair.configuration(pair.bob))
    pair.bob.nvpn("up", "wg0.toml")
    yield Cell(pair, world.host("cell"))


def outside(cell: Cell) -> list[str]:
    return cell.alice.host.run("ip", "-br", "link").split()


def test_a_namespace_with_nothing_but_the_tunnel_reaches_the_world_through_it(
    cell: Cell,
) -> None:
    """The interface is at home in the cell; its sockets are where nvpn was started."""
    alice, story = cell.alice, cell.alice.directory / "story"
    rules = cell.inside.run("ip", "rule")
    alice.write(
        cell.configuration(f'netns = "{cell.inside.netns}"\npost_up = "ip -br link > {story}"')
    )

    up = alice.nvpn("up", "wg0.toml")

    assert up.stderr.count("\n") == 1  # the hook
    assert cell.links() == {"lo", "wg0"}
    assert "wg0" not in outside(cell)
    assert {line.split()[0] for line in story.read_text().splitlines()} == {"lo", "wg0"}
    assert cell.default_routes() == "default dev wg0 proto static scope link \n"
    # Over there our own packets cannot be caught: no rule, no mark, no firewall.
    assert cell.inside.run("ip", "rule") == rules
    assert cell.inside.run("nft", "list", "ruleset") == ""
    assert cell.inside.ping("10.9.0.2", count=3) == (3, 3)
    # From the uplink's MTU, which is not in the cell.
    assert '"mtu":1420' in cell.inside.run("ip", "-j", "link", "show", "wg0")

    alice.write(cell.configuration(f'netns = "{cell.inside.netns}"\nmtu = 1300'))
    alice.nvpn("reload", "wg0")
    assert '"mtu":1300' in cell.inside.run("ip", "-j", "link", "show", "wg0")
    cell.inside.run("ip", "link", "set", "wg0", "down")
    cell.inside.run("ip", "link", "set", "wg0", "up")
    wait_until(lambda: cell.default_routes() != "", 30, "the default route is back")
    assert cell.inside.ping("10.9.0.2", count=2) == (2, 2)

    alice.nvpn("down", "wg0")
    assert cell.links() == {"lo"}


def test_the_sockets_may_be_born_elsewhere_and_the_interface_stay_here(cell: Cell) -> None:
    """Started in the cell: out it goes by the namespace that has the uplink."""
    alice = cell.alice
    alice.write(cell.configuration(f'birth_netns = "/run/netns/{alice.host.netns}"'))
    outer, alice.host = alice.host, cell.inside

    alice.nvpn("up", "wg0.toml")

    assert cell.links() == {"lo", "wg0"}
    assert "51820" in outer.run("ss", "-Hlun")
    assert cell.inside.run("ss", "-Hlun") == ""
    assert cell.inside.ping("10.9.0.2", count=3) == (3, 3)
    cell.inside.run("ip", "link", "delete", "wg0")
    wait_until(lambda: "51820" not in outer.run("ss", "-Hlun"), 30, "the daemon ends")


def test_one_namespace_by_both_names_is_like_none_at_all(cell: Cell) -> None:
    """Everything in the cell, policy rules included, as if it had been started there."""
    inside = cell.inside.netns
    alice = cell.alice
    alice.write(cell.configuration(f'netns = "{inside}"\nbirth_netns = "{inside}"'))

    alice.nvpn("up", "wg0.toml")
    assert cell.links() == {"lo", "wg0"}
    assert "51820" in cell.inside.run("ss", "-Hlun")
    assert "suppress_prefixlength" in cell.inside.run("ip", "rule")

    alice.host, outer = cell.inside, alice.host
    alice.kill()
    wait_until(lambda: cell.links() == {"lo"}, 30, "the interface goes with its process")
    alice.host = outer
    assert "suppress_prefixlength" in cell.inside.run("ip", "rule")

    down = alice.nvpn("down", "wg0")
    assert "wg0 was killed; what it left is removed: " in down.stderr
    assert "suppress_prefixlength" not in cell.inside.run("ip", "rule")


def test_a_namespace_that_is_none_is_told(machine: Machine) -> None:
    machine.write('[interface]\nprivate_key = "PRIVATE"\nnetns = "nvpn-nowhere"\n')

    assert machine.nvpn("up", "wg0.toml", status=1).stderr == (
        "error: cannot open network namespace nvpn-nowhere: No such file or directory;"
        " make it with: ip netns add nvpn-nowhere\n"
    )
    assert machine.is_clean()


def test_who_may_not_follow_a_moved_interface_serves_it_all_the_same(
    machine: Machine, world: World
) -> None:
    """The capability to enter namespaces is one that a hardened service does not have."""
    inside = world.host("cell")
    machine.write('[interface]\nprivate_key = "PRIVATE"\nlisten_port = 51821\n')
    process = subprocess.Popen(
        machine.host.argv(
            "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin",
            *machine.argv("up", "-f", "wg0.toml")[4:],
        ),
        env=machine.environment, cwd=machine.etc, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready" in line:
                break
        machine.host.run("ip", "link", "set", "wg0", "netns", inside.netns)
        for line in process.stderr:
            if "is not followed" in line:
                break
        assert process.poll() is None
        wait_until(lambda: "51821" in machine.host.run("ss", "-Hlun"), 30, "its sockets are open")

        inside.run("ip", "link", "delete", "wg0")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
