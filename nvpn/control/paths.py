"""Where a running tunnel is found: the one place that knows the directories.

The control sockets lie where every WireGuard tool looks for them. Both directories can
be moved by the environment, for a user namespace or a test: then only nvpn finds them.
"""

from __future__ import annotations

import os

SOCKET_DIRECTORY = "/var/run/wireguard"
STATE_DIRECTORY = "/var/lib/nvpn"
SOCKET_SUFFIX = ".sock"
MAX_INTERFACE_NAME = 15
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_=+.-")


def socket_directory() -> str:
    """The directory of the control sockets: ``$NVPN_RUNTIME_DIR``, else the usual one."""
    return os.environ.get("NVPN_RUNTIME_DIR") or SOCKET_DIRECTORY


def state_directory() -> str:
    """What survives a restart lies here: ``$NVPN_STATE_DIR``, else the usual place."""
    return os.environ.get("NVPN_STATE_DIR") or STATE_DIRECTORY


def is_interface_name(name: str) -> bool:
    """Whether ``name`` can name a tunnel, by the rule of wg-quick(8).

    1 to 15 characters, none of which has a meaning in a path or for the kernel.
    """
    return (
        0 < len(name) <= MAX_INTERFACE_NAME
        and name not in (".", "..")
        and _NAME_CHARACTERS.issuperset(name)
    )


def socket_path(name: str) -> str:
    """The control socket of the interface.

    Raises:
        ValueError: the name is no interface name.
    """
    if not is_interface_name(name):
        raise ValueError("an interface name has 1 to 15 letters, digits or any of _=+.-")
    return os.path.join(socket_directory(), name + SOCKET_SUFFIX)


def state_path(name: str) -> str:
    """The state file of the interface.

    Raises:
        ValueError: the name is no interface name.
    """
    if not is_interface_name(name):
        raise ValueError("an interface name has 1 to 15 letters, digits or any of _=+.-")
    return os.path.join(state_directory(), name + ".json")
