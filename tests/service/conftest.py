"""Machines, as the tests of the daemon have them."""

from __future__ import annotations

from tests.daemon.conftest import machine, pair, world

__all__ = ["machine", "pair", "world"]
