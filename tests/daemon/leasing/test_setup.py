from __future__ import annotations

import pytest

from nvpn.daemon.leasing.setup import is_own_address
from nvpn.model.prefixes import parse_address


def test_an_address_is_ours_if_an_interface_of_this_host_has_it() -> None:
    assert is_own_address(parse_address("127.0.0.1"))


@pytest.mark.parametrize("address", ["192.0.2.55", "2001:db8::55"])
def test_an_address_that_no_interface_has_is_not_ours(address: str) -> None:
    assert not is_own_address(parse_address(address))
