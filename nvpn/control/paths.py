"""Where a running tunnel is found: the one place that knows the directories.

The control sockets lie where every WireGuard tool looks for them. Both directories can
be moved by the environment, for a user namespace or a test: then only nvpn finds them.
"""

from __future__ import annotations

import os

from nvpn.model.interface_name import NAME_RULE, is_interface_name

SOCKET_DIRECTORY = "/var/run/wireguard"
STATE_DIRECTORY = "/var/lib/nvpn"
SOCKET_SUFFIX = ".sock"
LEFTOVERS_SUFFIX = ".leftovers"


def socket_directory() -> str:
    """The directory of the control sockets: ``$NVPN_RUNTIME_DIR``, else the usual one."""
    return os.environ.get("NVPN_RUNTIME_DIR") or SOCKET_DIRECTORY


def state_directory() -> str:
    """What survives a restart lies here: ``$NVPN_STATE_DIR``, else the usual place."""
    return os.environ.get("NVPN_STATE_DIR") or STATE_DIRECTORY


def socket_path(name: str) -> str:
    """The control socket of the interface.

    Raises:
        ValueError: the name is no interface name.
    """
    return os.path.join(socket_directory(), _checked(name) + SOCKET_SUFFIX)


def state_path(name: str) -> str:
    """The state file of the interface.

    Raises:
        ValueError: the name is no interface name.
    """
    return os.path.join(state_directory(), _checked(name) + ".json")


def leftovers_path(name: str) -> str:
    """Where a daemon notes what it puts outside its interface.

    Raises:
        ValueError: the name is no interface name.
    """
    return os.path.join(state_directory(), _checked(name) + LEFTOVERS_SUFFIX)


def lease_path(name: str) -> str:
    """Where a client remembers its last lease.

    Raises:
        ValueError: the name is no interface name.
    """
    return os.path.join(state_directory(), _checked(name) + ".lease")


def registry_path(name: str) -> str:
    """Where a server keeps its clients and leases.

    Raises:
        ValueError: the name is no interface name.
    """
    return os.path.join(state_directory(), _checked(name) + ".registry")


def running_path(name: str) -> str:
    """What a daemon keeps locked while anything of it is there. Not ``.lock``: that has another.

    Raises:
        ValueError: the name is no interface name.
    """
    return os.path.join(state_directory(), _checked(name) + ".running")


def _checked(name: str) -> str:
    if not is_interface_name(name):
        raise ValueError(f"an interface name has {NAME_RULE}")
    return name
