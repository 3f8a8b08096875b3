"""An interface of the name that is there already: taken over by choice, never by accident.

That the kernel's own can be taken over is shown where a kernel has some:
tests/interop/test_kernel_backend.py.
"""

from __future__ import annotations

import pytest

from nvpn.daemon.tunnel import explain_existing
from nvpn.netconf.api import Link
from tests.support.machines import Machine


def test_the_kernel_s_may_be_taken_over_and_others_not() -> None:
    mine = Link(3, "wg0", 1420, True, kind="wireguard")
    other = Link(3, "wg0", 1420, True, kind="veth")

    assert explain_existing(mine) == (
        "it is the kernel's; take it over with: nvpn up --take-over wg0, or remove it: ip link"
        " delete wg0"
    )
    assert explain_existing(other) == "choose another name, or remove it: ip link delete wg0"


@pytest.mark.root
def test_an_interface_of_somebody_else_is_not_taken_over_even_when_asked(machine: Machine) -> None:
    machine.write('[interface]\nprivate_key = "PRIVATE"\npost_up = "ip link delete %i"\n')
    machine.host.run("ip", "link", "add", "wg0", "type", "veth", "peer", "name", "wg1")

    up = machine.nvpn("up", "--take-over", "wg0.toml", status=1)

    assert up.stderr == (
        "error: cannot create interface wg0: File exists;"
        " choose another name, or remove it: ip link delete wg0\n"
    )
    assert machine.has_link()
