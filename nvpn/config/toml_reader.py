"""One TOML file into the draft. The schema is told in nvpn.toml(5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import tomli

from nvpn.config import values
from nvpn.config.draft import Draft, InterfaceDraft, PeerDraft, claim
from nvpn.config.files import TextFile, read_secret
from nvpn.config.findings import Findings, Place, did_you_mean, found, kind_of, label, quote
from nvpn.config.locate import Lines, Position, locate
from nvpn.config.model import HostPort
from nvpn.config.schema import EXAMPLE_KEY, INTERFACE_KEYS, LATER, PEER_KEYS, SECTIONS, unknown_key
from nvpn.datapath.choice import Wish
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey

_T = TypeVar("_T")

# What tomli says, by its beginning, and what we say. Its own texts can repeat keys of
# the document, ours cannot.
_SYNTAX: Final = (
    ("Expected newline or end of document", "expected the end of the line after the value"),
    ("Expected '=' after a key", "expected = after the key"),
    ("Expected ']", "expected ] at the end of the section's name"),
    ("Invalid statement", "expected a section such as [interface], or key = value"),
    ("Invalid value", "expected a value, such as a number or a text in quotes"),
    ("Invalid initial character", "expected the name of a key"),
    ("Unterminated string", "expected the closing quote of a text"),
    ("Expected '\"", "expected the closing quote of a text"),
    ('Expected "', "expected the closing quote of a text"),
    ("Unclosed array", "expected a comma or ] in a list"),
    ("Unclosed inline table", "expected a comma or } in a table"),
    ("Illegal character '\\n'", "expected the closing quote of a text on the same line"),
    ("Found invalid character '\\n'", "expected the closing quote of a text on the same line"),
    ("Illegal character", "found a control character"),
    ("Found invalid character", "found a control character"),
    ("Unescaped '\\'", "found a \\ that escapes nothing; write \\\\, or use 'single quotes'"),
    ("Invalid hex value", "expected hexadecimal digits in an escape"),
    ("Escaped character", "found an escape for a character that does not exist"),
    ("Invalid date", "expected a valid date or time"),
    ("Cannot declare", "the same section stands there twice"),
    ("Cannot overwrite", "the same key stands there twice"),
    ("Duplicate inline table key", "the same key stands there twice"),
    ("Cannot redefine", "the same section stands there twice"),
    ("Cannot ", "a section or key adds to something that is complete already"),
)


def read_toml(source: TextFile, draft: Draft, findings: Findings) -> None:
    """Add what the file says to the draft, and every mistake in it to the findings."""
    document = _parse(source, findings)
    if document is not None:
        _Reader(source, draft, findings).read(document)


def _parse(source: TextFile, findings: Findings) -> dict[str, Any] | None:
    try:
        return tomli.loads(source.text)
    except RecursionError:
        findings.error(Place(source.name), "is nested too deeply")
    except ValueError as error:
        _report_syntax(source, str(error), findings)
    return None


def _report_syntax(source: TextFile, text: str, findings: Findings) -> None:
    at = re.search(r"\(at line (\d+), column (\d+)\)$", text)
    # At the end of the document it is too late to see where a quote is missing.
    line = int(at[1]) if at else locate(source.text).lost_on
    message = next((ours for theirs, ours in _SYNTAX if text.startswith(theirs)), "")
    where = f" (column {at[2]})" if at else ""
    findings.error(
        Place(source.name, line),
        f"is not valid TOML: {message or 'expected key = value'}{where}",
    )


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

    def number_or_text(self, key: str, parse: Callable[[str], int]) -> int:
        """A whole number, or what a text such as ``off`` stands for; 0 without either."""
        taken = self.take(key)
        if taken is None:
            return 0
        value, place = taken
        text = value if isinstance(value, str) else ""
        # A longer number is wrong whatever it is for, and may not even print.
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
            text = str(value)
        return self._reader.parse(parse, text, place, shown=value) or 0

    def texts(self, key: str) -> Iterator[tuple[str, Place]]:
        """A text, or each text of a list."""
        taken = self.take(key)
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
        """Report the keys that the section does not have, or not yet."""
        known, other = _KEYS[section], "peer" if section == "interface" else "interface"
        later = LATER if section == "interface" else {}
        for key in self._values:
            if key in later:
                self._findings.error(self.place(key), *later[key])
            elif key not in known:
                there = _HEADERS[other], _KEYS[other]
                self._findings.error(self.place(key), *unknown_key(key, known, later, there))

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
        interface.fwmark |= table.number_or_text("fwmark", values.parse_fwmark)
        datapath = table.parsed("datapath", Wish.parse)
        if datapath is not None:
            interface.datapath = datapath
        if "workers" in section:
            interface.workers = table.number("workers", 1, values.MAX_WORKERS, "workers") or 1
        if "queues" in section:
            interface.queues = table.number("queues", 1, values.MAX_QUEUES, "queues") or 1

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
        for text, place in table.texts("allowed_ips"):
            prefix = self.parse(values.parse_prefix, text, place)
            if prefix is None:
                continue
            peer.allowed_ips.append((prefix, place))
            if values.has_host_bits(text, prefix):
                self.findings.warn(place, f"{quote(text)} is taken as {prefix}")
        peer.persistent_keepalive = table.number_or_text(
            "persistent_keepalive", values.parse_keepalive
        )

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
