"""One TOML file into the draft. The schema is told in nvpn.toml(5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from nvpn.config import values
from nvpn.config.draft import Draft, InterfaceDraft, PeerDraft, claim
from nvpn.config.files import TextFile, read_secret
from nvpn.config.findings import Findings, Place, did_you_mean, found, kind_of, label, quote
from nvpn.config.locate import Lines, Position, locate
from nvpn.config.model import BackendWish, HostPort
from nvpn.config.schema import (
    EXAMPLE_KEY,
    HOOK_KEYS,
    INTERFACE_KEYS,
    PEER_KEYS,
    SECTIONS,
    unknown_key,
)
from nvpn.config.tables import parse_table
from nvpn.config.toml_syntax import parse_document
from nvpn.datapath.choice import Wish
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey

_T = TypeVar("_T")


def read_toml(source: TextFile, draft: Draft, findings: Findings) -> None:
    """Add what the file says to the draft, and every mistake in it to the findings."""
    document = parse_document(source, findings)
    if document is not None:
        _Reader(source, draft, findings).read(document)


class _Table:
    """One table of the document, read key by key, each claimed and checked for its type."""

    def __init__(
        self,
        values: dict[str, Any],
        position: Position,
        claims: dict[str, Place],
        reader: _Reader,
    ) -> None:
        self._values = values
        self._position = position
        self._claims = claims
        self._reader = reader
        self._findings = reader.findings

    def take(self, key: str, what: str | None = None) -> tuple[Any, Place] | None:
        """The value of a key and its place; None when it is absent or given before."""
        if key not in self._values:
            return None
        place = self.place(key)
        if not claim(self._claims, what or key, place, self._findings):
            return None
        return self._values[key], place

    def text(self, key: str, what: str | None = None) -> tuple[str, Place] | None:
        """The same for a value that must be a text."""
        taken = self.take(key, what)
        if taken is None:
            return None
        value, place = taken
        return (value, place) if self._is_text(value, place) else None

    def parsed(self, key: str, parse: Callable[[str], _T]) -> _T | None:
        """A text, parsed; what it was is told if that fails."""
        taken = self.text(key)
        return None if taken is None else self._reader.parse(parse, *taken)

    def number(self, key: str, low: int, high: int, unit: str) -> int | None:
        """A whole number within bounds."""
        taken = self.take(key)
        if taken is None:
            return None
        value, place = taken
        wanted = f"expected {unit} from {low} to {high}"
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
            self._findings.error(place, f"{wanted}, {found(value)}", "write it without quotes")
        elif not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self._findings.error(place, f"{wanted}, {found(value)}")
        else:
            return value
        return None

    def flag(self, key: str) -> bool:
        """``true`` or ``false``; false without either."""
        taken = self.take(key)
        if taken is None:
            return False
        value, place = taken
        if isinstance(value, bool):
            return value
        self._findings.error(place, f"expected true or false without quotes, {found(value)}")
        return False

    def number_or_text(self, key: str, parse: Callable[[str], _T]) -> _T | None:
        """What a whole number, or a text such as ``off``, stands for; None without either."""
        taken = self.take(key)
        if taken is None:
            return None
        value, place = taken
        text = value if isinstance(value, str) else ""
        # A longer number is wrong whatever it is for, and may not even print.
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
            text = str(value)
        return self._reader.parse(parse, text, place, shown=value)

    def texts(self, key: str, what: str | None = None) -> Iterator[tuple[str, Place]]:
        """A text, or each text of a list."""
        taken = self.take(key, what)
        if taken is None:
            return
        value, place = taken
        if isinstance(value, str):
            yield value, place
        elif not isinstance(value, list):
            self._findings.error(place, f"expected a text or a list of texts, {found(value)}")
        else:
            for index, element in enumerate(value):
                at = self.place(key, index) if len(value) > 1 else place
                if self._is_text(element, at):
                    yield element, at

    def refuse_others(self, section: str) -> None:
        """Report the keys that the section does not have."""
        known, other = _KEYS[section], "peer" if section == "interface" else "interface"
        for key in self._values:
            if key not in known:
                there = _HEADERS[other], _KEYS[other]
                self._findings.error(self.place(key), *unknown_key(key, known, there))

    def place(self, *more: str | int) -> Place:
        """Where the table, or something in it, is written."""
        return self._reader.place((*self._position, *more))

    def _is_text(self, value: object, place: Place) -> bool:
        if isinstance(value, str):
            return True
        self._findings.error(place, f"expected a text in quotes, {found(value)}")
        return False


class _Reader:
    def __init__(self, source: TextFile, draft: Draft, findings: Findings) -> None:
        self.findings = findings
        self._source = source
        self._draft = draft
        self._lines: Lines = locate(source.text)
        self._holds_secret = False

    def read(self, document: dict[str, Any]) -> None:
        for section in document:
            if section not in SECTIONS:
                self._refuse_section(section, document[section])
        if "interface" in document:
            self._read_section(document["interface"])
        if "peer" in document:
            self._read_peers(document["peer"])
        if self._holds_secret:
            self._source.warn_if_exposed(self.findings)

    def place(self, position: Position) -> Place:
        return Place(self._source.name, self._lines[position], _dotted(position))

    def parse(
        self, parse: Callable[[str], _T], text: str, place: Place, *, shown: Any = None
    ) -> _T | None:
        try:
            return parse(text)
        except ValueError as error:
            what = found(text if shown is None else shown)
            hint = "write several as a list" if "," in text else ""
            self.findings.error(place, f"{error}, {what}", hint)
            return None

    def _refuse_section(self, name: str, value: object) -> None:
        self._draft.sections += 1
        place = self.place((name,))
        if not isinstance(value, (dict, list)):
            known = next((s for s, keys in _KEYS.items() if name in keys), "")
            message, hint = "stands outside of any section", "known are [interface] and [[peer]]"
            if known:
                hint = f"put it below {_HEADERS[known]}"
            self.findings.error(place, message, hint)
            return
        meant = did_you_mean(name, SECTIONS, {"peers": "peer", "device": "interface"})
        for section, header in _HEADERS.items():
            meant = meant.replace(f'"{section}"', header)
        self.findings.error(
            place, "is an unknown section", meant or "known are [interface] and [[peer]]"
        )

    def _read_section(self, value: object) -> None:
        self._draft.sections += 1
        place = self.place(("interface",))
        if isinstance(value, list):
            message = f"expected one table, {found(value)}"
            self.findings.error(place, message, "write [interface] in single brackets, once")
        elif not isinstance(value, dict):
            self.findings.error(place, f"expected a table, {found(value)}", "write [interface]")
        else:
            self._read_interface(value)

    def _read_interface(self, section: dict[str, Any]) -> None:
        interface: InterfaceDraft = self._draft.interface
        table = _Table(section, ("interface",), interface.claims, self)
        table.refuse_others("interface")
        raw = self._key(table, "private_key")
        if raw is not None:
            interface.private_key = PrivateKey(raw)
        for text, place in table.texts("address"):
            address = self.parse(values.parse_interface, text, place)
            if address is not None:
                interface.addresses.append((address, place))
        if "listen_port" in section:
            interface.listen_port = table.number("listen_port", 0, values.MAX_PORT, "a port")
        if "mtu" in section:
            interface.mtu = table.number("mtu", values.MIN_MTU, values.MAX_MTU, "bytes")
        interface.fwmark |= table.number_or_text("fwmark", values.parse_fwmark) or 0
        datapath = table.parsed("datapath", Wish.parse)
        if datapath is not None:
            interface.datapath = datapath
        if "workers" in section:
            interface.workers = table.number("workers", 1, values.MAX_WORKERS, "workers") or 1
        if "queues" in section:
            interface.queues = table.number("queues", 1, values.MAX_QUEUES, "queues") or 1
        interface.backend = table.parsed("backend", BackendWish.parse) or interface.backend
        self._read_host(table, interface)

    def _read_host(self, table: _Table, interface: InterfaceDraft) -> None:
        """What is about the host, not about the tunnel itself."""
        self._read_servers(table, interface)
        number = table.number_or_text("table", parse_table)
        interface.table = interface.table if number is None else number.table
        interface.kill_switch |= table.flag("kill_switch")
        interface.save_config |= table.flag("save_config")
        interface.netns = table.parsed("netns", values.parse_netns) or interface.netns
        interface.birth_netns = (
            table.parsed("birth_netns", values.parse_netns) or interface.birth_netns
        )
        for key in HOOK_KEYS:
            for text, place in table.texts(key):
                self._read_hook(interface.hooks.setdefault(key, []), text, place)
        if interface.hooks:
            self._source.warn_if_writable(self.findings)

    def _read_servers(self, table: _Table, interface: InterfaceDraft) -> None:
        words = list(table.texts("dns"))
        if [text.lower() for text, _ in words] == ["off"]:
            words = []
        for text, place in words:
            if values.is_server_word(text):
                server = self.parse(values.parse_server, text, place)
                if server is not None:
                    interface.servers.append((server, place))
            else:
                self._read_domain(interface, text, place)
        for text, place in table.texts("dns_search"):
            self._read_domain(interface, text, place)

    def _read_domain(self, interface: InterfaceDraft, text: str, place: Place) -> None:
        domain = self.parse(values.parse_domain, text, place)
        if domain is not None:
            interface.search.append(domain)

    def _read_hook(self, commands: list[str], text: str, place: Place) -> None:
        try:
            commands.append(values.check_command(text))
        except ValueError as error:
            self.findings.error(place, str(error))

    def _read_peers(self, peers: object) -> None:
        self._draft.sections += 1
        if isinstance(peers, dict):
            peers = [peers]
            message = "expected a list of tables, found one table"
            self.findings.error(self.place(("peer",)), message, "write [[peer]] for each peer")
        if not isinstance(peers, list):
            message = f"expected a list of tables, {found(peers)}"
            self.findings.error(self.place(("peer",)), message, "write [[peer]] for each peer")
            return
        for index, peer in enumerate(peers):
            position = ("peer", index)
            if isinstance(peer, dict):
                self._read_peer(peer, position)
            else:
                message = f"expected a table, found {kind_of(peer)}"
                self.findings.error(self.place(position), message, "write [[peer]] for each peer")

    def _read_peer(self, section: dict[str, Any], position: Position) -> None:
        peer = PeerDraft(self.place(position))
        self._draft.peers.append(peer)
        table = _Table(section, position, peer.claims, self)
        table.refuse_others("peer")
        peer.name = table.parsed("name", values.check_name) or ""
        raw = self._key(table, "public_key")
        if raw is not None:
            peer.public_key = PublicKey(raw)
        elif "public_key" not in section:
            self.findings.error(peer.place, "has no public_key", "every peer needs one")
        raw = self._key(table, "preshared_key")
        if raw is not None and any(raw):
            peer.preshared_key = PresharedKey(raw)
        peer.endpoint = table.parsed("endpoint", _parse_endpoint)
        self._read_endpoints(table, peer)
        for text, place in table.texts("allowed_ips"):
            prefix = self.parse(values.parse_prefix, text, place)
            if prefix is None:
                continue
            peer.allowed_ips.append((prefix, place))
            if values.has_host_bits(text, prefix):
                self.findings.warn(place, f"{quote(text)} is taken as {prefix}")
        keepalive = table.number_or_text("persistent_keepalive", values.parse_keepalive)
        peer.persistent_keepalive = keepalive or 0

    def _read_endpoints(self, table: _Table, peer: PeerDraft) -> None:
        endpoints: dict[HostPort, Place] = {}
        for text, place in table.texts("endpoints", what="endpoint"):
            endpoint = self.parse(_parse_endpoint, text, place)
            if endpoint is None:
                continue
            if endpoint in endpoints:
                self.findings.error(place, f"{endpoint} is given twice", "keep one of them")
            elif len(endpoints) == values.MAX_ENDPOINTS:
                self.findings.error(
                    place,
                    f"expected at most {values.MAX_ENDPOINTS} endpoints, and this is one more",
                )
            endpoints[endpoint] = place
        if endpoints:
            peer.endpoint, *others = endpoints
            peer.other_endpoints = tuple(others)

    def _key(self, table: _Table, key: str) -> bytes | None:
        """The 32 bytes of a key that is given itself, or by the name of a file."""
        taken = table.text(key)
        if taken is not None and key != "public_key":
            self._holds_secret = True
        word, place = taken or (None, None)
        if key != "public_key":
            named = table.text(f"{key}_file", what=key)
            if named is not None:
                place = named[1]
                word = read_secret(named[0], self._source, place, self.findings)
        if word is None or place is None:
            return None
        try:
            raw = values.decode_key(word)
        except ValueError as error:
            self.findings.error(place, str(error))
            return None
        if key != "public_key" and values.is_example_key(word):
            self.findings.warn(place, *EXAMPLE_KEY)
        if key != "preshared_key" and not any(raw):
            self.findings.error(place, "expected a key, found one of zeros only")
            return None
        return raw


_HEADERS: Final = {"interface": "[interface]", "peer": "[[peer]]"}
_KEYS: Final = {"interface": INTERFACE_KEYS, "peer": PEER_KEYS}


def _parse_endpoint(text: str) -> HostPort:
    host, port = values.split_endpoint(text)
    return values.make_endpoint(host, values.parse_port(port))


def _dotted(position: Position) -> str:
    """``peer[2].allowed_ips[1]``: elements are counted from 1, as people do."""
    text = ""
    for part in position:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += f"{'.' if text else ''}{label(part)}"
    return text
