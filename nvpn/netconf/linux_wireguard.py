"""WireGuard interfaces of the Linux kernel: whether there can be any, the links, what they do."""

from __future__ import annotations

import errno
import threading
import time
from typing import Final

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, nlmsg
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from nvpn.errors import PlatformError
from nvpn.model.snapshot import TunnelSnapshot
from nvpn.netconf.api import Link
from nvpn.netconf.kernel_changes import KernelChanges
from nvpn.netconf.linux_generic import GenericConnection
from nvpn.netconf.linux_monitor import read_link
from nvpn.netconf.linux_netlink import Connection, Refusal
from nvpn.netconf.linux_wireguard_messages import Target, pack_changes, pack_get, read_device

KIND: Final = "wireguard"
"""What the kernel calls such links, and the netlink family that configures them."""

ALIAS: Final = "nvpn"
"""What is noted on links that we made."""

_NO_INDEX: Final = 0x7FFF_FFFF
_NEEDS_ADMIN: Final = "needs CAP_NET_ADMIN; try again as root, with sudo"
_HINTS: Final = {errno.EPERM: _NEEDS_ADMIN, errno.EACCES: _NEEDS_ADMIN}


def explain_absence() -> str:
    """Why the kernel carries no tunnel in this network namespace; empty when it can."""
    try:
        connection = GenericConnection(KIND)
    except PlatformError as error:
        if error.errno == errno.ENOENT:
            return "this kernel has no WireGuard, nor a module with it"
        return str(error)
    try:
        # Nothing is listed; but whether we may is asked before whether there is something.
        connection.dump(pack_get(_NO_INDEX))
    except Refusal as refusal:
        if refusal.errno in _HINTS:
            return _NEEDS_ADMIN
    except PlatformError as error:
        return str(error)
    finally:
        connection.close()
    return ""


class KernelWireguard:
    """Reads and changes WireGuard interfaces of the namespace this was made in.

    May be used by several threads.

    Raises:
        PlatformError: ENOENT, this kernel has no WireGuard.
    """

    def __init__(self) -> None:
        self._connection = GenericConnection(KIND)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the descriptor."""
        self._connection.close()

    def get(self, target: Target, *, brief: bool = False) -> TunnelSnapshot:
        """All about an interface but its MTU; ``brief`` leaves out secret keys and allowed IPs.

        Raises:
            PlatformError: ENODEV, no such interface; EOPNOTSUPP, it is not WireGuard's; …
        """
        request = pack_get(target)
        try:
            with self._lock:
                answers = self._connection.dump(request)
        except Refusal as refusal:
            raise _translate(refusal, f"read interface {_label(target)}") from None
        try:
            return read_device(answers, wall=time.time_ns(), brief=brief)
        finally:
            for answer in answers:
                answer[:] = bytes(len(answer))

    def set(self, target: Target, changes: KernelChanges) -> None:
        """Make the changes, in as many steps as they need.

        Raises:
            PlatformError: the kernel refused one; those before it were made.
        """
        messages = pack_changes(target, changes)
        try:
            with self._lock:
                for message in messages:
                    self._connection.change(message)
        except Refusal as refusal:
            raise _translate(refusal, f"configure interface {_label(target)}") from None


class WireguardLinks:
    """Makes and removes WireGuard links in the namespace this was made in."""

    def __init__(self) -> None:
        self._connection = Connection()

    def close(self) -> None:
        """Let go of the descriptor."""
        self._connection.close()

    def create(self, name: str, *, namespace: int = -1) -> None:
        """Make a link, down and without a key.

        Args:
            namespace: a descriptor of where it is to be; its UDP sockets stay here.

        Raises:
            PlatformError: the interface exists, no permission, no WireGuard.
        """
        attributes: list[tuple[str, object]] = [
            ("IFLA_IFNAME", name),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", KIND)]}),
        ]
        if namespace >= 0:
            attributes.append(("IFLA_NET_NS_FD", namespace))
        message = _link_message(0, attributes)
        try:
            self._connection.change(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
        except Refusal as refusal:
            raise _translate(refusal, f"create interface {name}", _CREATE_HINTS) from None

    def sign(self, link: Link) -> None:
        """Note on the link that it is ours. Raises PlatformError."""
        message = _link_message(link.index, [("IFLA_IFALIAS", ALIAS)])
        try:
            self._connection.change(message, RTM_SETLINK)
        except Refusal as refusal:
            raise _translate(refusal, f"mark interface {link.name} as ours") from None

    def remove(self, index: int) -> bool:
        """Delete the link of that index, if it is a WireGuard here that we signed.

        Raises:
            PlatformError: no permission.
        """
        try:
            answer = self._connection.ask(_link_message(index, []), RTM_GETLINK)
            link = read_link(answer)
            if link.kind != KIND or link.alias != ALIAS:
                return False
            self._connection.change(_link_message(index, []), RTM_DELLINK)
        except Refusal as refusal:
            if refusal.errno == errno.ENODEV:
                return False
            raise _translate(refusal, "delete a WireGuard interface") from None
        return True


_CREATE_HINTS: Final = {**_HINTS, errno.EOPNOTSUPP: "this kernel has no WireGuard"}


def _link_message(index: int, attributes: list[tuple[str, object]]) -> nlmsg:
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = attributes
    return message


def _label(target: Target) -> str:
    return target if isinstance(target, str) else f"number {target}"


def _translate(refusal: Refusal, operation: str, hints: dict[int, str] = _HINTS) -> PlatformError:
    hint = hints.get(refusal.errno, refusal.reason)
    return PlatformError(operation, errno=refusal.errno, hint=hint)
