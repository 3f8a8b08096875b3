"""systemd-resolved, over D-Bus: per link, so that it forgets with the link by itself.

Source: org.freedesktop.resolve1(5).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from typing import Any, Final

from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.netconf.api import Link
from nvpn.netconf.dns import RESOLVED, WriterAbsentError

_DESTINATION: Final = "org.freedesktop.resolve1"
_PATH: Final = "/org/freedesktop/resolve1"
_INTERFACE: Final = "org.freedesktop.resolve1.Manager"

_SECONDS: Final = 4.0
"""For a connection and all calls over it together."""

_NO_OWNER: Final = "org.freedesktop.DBus.Error.NameHasNoOwner"
_NOBODY_THERE: Final = {
    _NO_OWNER,
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.systemd1.UnitMasked",
}
_NO_SUCH_LINK: Final = "org.freedesktop.resolve1.NoSuchLink"
_UNKNOWN_METHOD: Final = "org.freedesktop.DBus.Error.UnknownMethod"

_ALL_NAMES: Final = (".", True)


class _BusError(Exception):
    """The bus, or who was called, answered with an error."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        super().__init__(text or name)


class ResolvedWriter:
    """A :class:`nvpn.netconf.dns.DnsWriter`."""

    name = RESOLVED

    def set(self, link: Link, wanted: NameServers) -> tuple[str, ...]:
        """The link's servers answer all names, as with wg-quick's `resolvconf -x`.

        Without servers the link only brings its search domains.
        """
        families = [
            (socket.AF_INET if len(server) == 4 else socket.AF_INET6, server)
            for server in wanted.servers
        ]
        domains = [(domain, False) for domain in wanted.search]
        is_for_all = bool(wanted.servers)
        if is_for_all:
            domains.append(_ALL_NAMES)
        with _Bus("set name servers by systemd-resolved") as bus:
            bus.expect_our_network()
            try:
                bus.call("SetLinkDNS", "ia(iay)", link.index, families)
                bus.call("SetLinkDomains", "ia(sb)", link.index, domains)
                # Younger than the other two (systemd 240); "." says the same to the older.
                bus.call(
                    "SetLinkDefaultRoute", "ib", link.index, is_for_all, ignore=_UNKNOWN_METHOD
                )
            except PlatformError:
                with contextlib.suppress(PlatformError):
                    bus.call("RevertLink", "i", link.index)
                raise
        return ()

    def unset(self, link: Link) -> None:
        """The link has no servers of its own any more."""
        try:
            socket.if_indextoname(link.index)
        except OSError:
            return  # gone, and resolved has forgotten it
        with _Bus("take name servers back from systemd-resolved") as bus:
            bus.expect_our_network()
            bus.call("RevertLink", "i", link.index, ignore=_NO_SUCH_LINK)


class _Bus:
    """A connection to the system bus that ends by itself after :data:`_SECONDS`.

    jeepney's own connection waits for ever for the first answer, so only its codec and its
    authentication are used.
    """

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._deadline = time.monotonic() + _SECONDS
        self._serials = itertools.count(1)

    def __enter__(self) -> _Bus:
        from jeepney import Parser
        from jeepney.auth import AuthenticationError
        from jeepney.bus import get_bus
        from jeepney.bus_messages import message_bus
        from jeepney.io.blocking import prep_socket

        self._messages = message_bus
        self._parser = Parser()
        try:
            address = get_bus("SYSTEM")
        except (RuntimeError, ValueError):
            raise WriterAbsentError(
                self._operation, hint="DBUS_SYSTEM_BUS_ADDRESS names no unix socket"
            ) from None
        try:
            self._socket = prep_socket(address, timeout=_SECONDS)
        except TimeoutError:
            raise self._silence() from None
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise WriterAbsentError(
                self._operation, errno=error.errno or 0, hint="there is no system bus"
            ) from None
        except OSError as error:
            raise PlatformError(self._operation, errno=error.errno or 0) from None
        except AuthenticationError:
            raise PlatformError(
                self._operation, hint="the system bus does not let us in"
            ) from None
        except Exception:
            raise self._nonsense() from None
        try:
            self._ask(self._messages.Hello())
        except _BusError as error:
            self._socket.close()
            raise self._refusal(error) from None
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def expect_our_network(self) -> None:
        """Our link's number means another link in another network namespace.

        Raises:
            WriterAbsentError: resolved is in another one. Where we may not look, it is
                taken for ours.
        """
        process = self._process_of_resolved()
        try:
            theirs = os.stat(f"/proc/{process}/ns/net")
            ours = os.stat("/proc/thread-self/ns/net")
        except OSError:
            return
        if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
            raise WriterAbsentError(
                self._operation, hint="it serves another network namespace than ours"
            )

    def call(self, method: str, signature: str, *body: Any, ignore: str = "") -> None:
        """Call resolved's manager; ``ignore`` names an error that is none here."""
        from jeepney import DBusAddress, new_method_call

        manager = DBusAddress(_PATH, bus_name=_DESTINATION, interface=_INTERFACE)
        try:
            self._ask(new_method_call(manager, method, signature, body))
        except _BusError as error:
            if error.name != ignore:
                raise self._refusal(error) from None

    def _process_of_resolved(self) -> int:
        """Its process number; it is started when it is not there but could be."""
        question = self._messages.GetConnectionUnixProcessID(_DESTINATION)
        try:
            try:
                (process,) = self._ask(question)
            except _BusError as error:
                if error.name != _NO_OWNER:
                    raise
                self._ask(self._messages.StartServiceByName(_DESTINATION))
                (process,) = self._ask(question)
        except _BusError as error:
            raise self._refusal(error) from None
        return int(process)

    def _ask(self, message: Any) -> Any:
        """The body of the answer. Raises _BusError for an error, PlatformError for none."""
        from jeepney import HeaderFields, MessageType

        serial = next(self._serials)
        try:
            self._socket.settimeout(self._seconds_left())
            self._socket.sendall(message.serialise(serial=serial))
            while True:
                answer = self._receive()
                if answer.header.fields.get(HeaderFields.reply_serial) == serial:
                    break
        except TimeoutError:
            raise self._silence() from None
        except OSError as error:
            raise PlatformError(self._operation, errno=error.errno or 0) from None
        except Exception:
            # jeepney's parser has no error of its own for bytes that make no sense.
            raise self._nonsense() from None
        if answer.header.message_type is MessageType.error:
            text = answer.body[0] if answer.body and isinstance(answer.body[0], str) else ""
            raise _BusError(answer.header.fields.get(HeaderFields.error_name, ""), text)
        return answer.body

    def _receive(self) -> Any:
        while (message := self._parser.get_next_message()) is None:
            self._socket.settimeout(self._seconds_left())
            chunk = self._socket.recv(4096)
            if not chunk:
                raise ConnectionResetError
            self._parser.add_data(chunk)
        return message

    def _seconds_left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _silence(self) -> PlatformError:
        return PlatformError(
            self._operation, hint=f"the system bus did not answer within {_SECONDS:g} seconds"
        )

    def _nonsense(self) -> PlatformError:
        return PlatformError(self._operation, hint="what answers is no system bus")

    def _refusal(self, error: _BusError) -> PlatformError:
        kind = WriterAbsentError if error.name in _NOBODY_THERE else PlatformError
        return kind(self._operation, hint=f"it says: {str(error).rstrip('.')}")
