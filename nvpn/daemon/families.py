"""What a tunnel has to do without where IPv6 is switched off."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import Final

from nvpn.config.model import TunnelConfig
from nvpn.errors import PlatformError
from nvpn.netconf.plan import plan_routes

_ADDRESSES: Final = "/proc/thread-self/net/if_inet6"
_SWITCH: Final = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"
_SOME: Final = 3
"""Addresses that are told one by one."""


def has_ipv6(name: str) -> bool:
    """Whether the interface can have IPv6 addresses, in the namespace of this thread."""
    if not os.path.exists(_ADDRESSES):
        return False
    try:
        with open(_SWITCH.format(name), encoding="ascii") as switch:
            return switch.read().strip() != "1"
    except OSError:
        return True  # a look at /proc/sys is not allowed: the kernel will say


def without_ipv6(config: TunnelConfig) -> tuple[TunnelConfig, str]:
    """What is left of the configuration's host side, and a sentence about what is not.

    The sentence is empty where nothing is left out. Peers may go on sending IPv6: this is
    about addresses and routes.

    Raises:
        PlatformError: nothing would be left of the addresses.
    """
    interface = config.interface
    addresses = tuple(one for one in interface.addresses if len(one.address) == 4)
    gone = [one for one in interface.addresses if len(one.address) == 16]
    prefixes = [
        prefix for peer in config.peers for prefix in peer.allowed_ips if prefix.version == 6
    ]
    if not gone and not prefixes:
        return config, ""
    if gone and not addresses:
        raise PlatformError(
            f"give address {gone[0]} to {config.name}",
            errno=errno.EAFNOSUPPORT,
            hint="IPv6 is switched off here: see sysctl net.ipv6.conf.all.disable_ipv6",
        )
    routes = 0
    if interface.table != 0:
        defaults = {prefix for prefix in prefixes if prefix.is_default}
        routes = len(plan_routes(prefixes, interface.addresses)) + len(defaults)
    told = [str(one) for one in gone] if len(gone) <= _SOME else [f"{len(gone)} addresses"]
    if routes:
        told.append("1 route" if routes == 1 else f"{routes} routes")
    left = replace(
        config,
        interface=replace(interface, addresses=addresses),
        peers=tuple(
            replace(
                peer,
                allowed_ips=tuple(one for one in peer.allowed_ips if one.version == 4),
            )
            for peer in config.peers
        ),
    )
    if not told:
        return left, ""
    listed = " and ".join(part for part in (", ".join(told[:-1]), told[-1]) if part)
    verb = "is" if len(gone) + routes == 1 else "are"
    return left, f"IPv6 is switched off here: {listed} {verb} left out"
