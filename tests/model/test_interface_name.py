from __future__ import annotations

import pytest

from nvpn.model.interface_name import is_interface_name


@pytest.mark.parametrize("name", ["wg0", "a", "x" * 15, "Home-1_2=+.", "..."])
def test_names_that_wg_quick_takes_are_names(name: str) -> None:
    assert is_interface_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 16, "a/b", "a b", "ä", "a\n", "%d", "a:0"])
def test_names_that_mean_something_else_are_not(name: str) -> None:
    assert not is_interface_name(name)


@pytest.mark.parametrize("name", ["all", "default"])
def test_names_that_the_kernel_keeps_for_itself_are_not(name: str) -> None:
    assert not is_interface_name(name)
