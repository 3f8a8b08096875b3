"""What nvpn has and wg-quick has not, in a ``.conf`` file: comments, which they ignore.

``# nvpn: kill_switch = true``: the names are those of nvpn.toml(5). The sections that such a
file has no place for, as ``[server]``, have none here either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from nvpn.config import values
from nvpn.config.draft import InterfaceDraft, PeerDraft, claim
from nvpn.config.findings import Findings, Place, did_you_mean, found, may_hold_key, quote
from nvpn.config.model import BackendWish, HostPort
from nvpn.config.reading import add_hook, read, read_flag
from nvpn.config.schema import CONNECTION_HOOKS, PORT_KEYS
from nvpn.datapath.choice import Wish
from nvpn.model.ports import PortPolicy, parse_port_spec

COMMENT_KEYS: Final = {
    "Interface": (
        "kill_switch", "netns", "birth_netns", "backend", "datapath", "workers", "queues", "dns",
        "channel", *PORT_KEYS, *CONNECTION_HOOKS,
    ),
    "Peer": ("name", "endpoint", "server", *PORT_KEYS),
}  # fmt: skip
"""What a comment for us may say, by its section."""

# A comment by which other programs name a peer: "# Name = laptop".
_NAME: Final = re.compile(r"\s*#\s*(?:friendly[_ ]?)?name\s*=\s*(.+?)\s*", re.IGNORECASE)
_FOR_US: Final = re.compile(r"\s*#\s*nvpn:\s*([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")


def find_comment_key(line: str) -> tuple[str, str] | None:
    """The key and the value of a comment for us, such as ``# nvpn: netns = blue``."""
    match = _FOR_US.fullmatch(line)
    return None if match is None else (match[1], match[2])


def find_name(line: str) -> str:
    """What a comment such as ``# Name = laptop`` names; empty for others."""
    match = _NAME.fullmatch(line)
    return "" if match is None else match[1]


class CommentReader:
    """Reads such comments into the drafts of the sections that they stand in."""

    def __init__(self, findings: Findings, parse_endpoint: Callable[[str], HostPort]) -> None:
        self._findings = findings
        self._parse_endpoint = parse_endpoint

    def is_known(self, section: str, key: str, place: Place) -> bool:
        """Whether there is such a key; a mistake if not."""
        known = COMMENT_KEYS[section]
        if key in known:
            return True
        hint = did_you_mean(key, known, {}) or f"known are {', '.join(known)}"
        self._findings.error(place, "is unknown", hint)
        return False

    def read_interface(self, interface: InterfaceDraft, key: str, text: str, place: Place) -> None:
        """One that is about our own side."""
        if key in CONNECTION_HOOKS:
            interface.claims.setdefault(key, place)
            add_hook(interface, key, text, place, self._findings)
        elif not claim(interface.claims, key, place, self._findings):
            return
        elif key == "dns":
            if text.lower() != "off":
                self._findings.error(place, f'expected "off", {found(text)}', "or write DNS = …")
        elif key in PORT_KEYS:
            interface.ports = self._with_ports(interface.ports, key, text, place)
        elif key in ("kill_switch", "channel"):
            setattr(interface, key, read_flag(text, place, self._findings))
        else:
            value = read(_PARSERS[key], text, place, self._findings)
            if value is not None:
                setattr(interface, key, value)

    def read_peer(self, peer: PeerDraft, key: str, text: str, place: Place) -> None:
        """One that is about a peer."""
        if key == "endpoint":
            self._add_endpoint(peer, text, place)
        elif not claim(peer.claims, key, place, self._findings):
            return
        elif key == "name":
            peer.name = read(values.check_name, text, place, self._findings) or ""
        elif key == "server":
            peer.server = read_flag(text, place, self._findings)
        else:
            peer.ports = self._with_ports(peer.ports, key, text, place)

    def _add_endpoint(self, peer: PeerDraft, text: str, place: Place) -> None:
        endpoint = read(self._parse_endpoint, text, place, self._findings)
        if endpoint is None:
            return
        if endpoint in peer.other_endpoints:
            self._findings.error(
                place, f"{quote(str(endpoint))} is given twice", "keep one of them"
            )
        elif len(peer.other_endpoints) + 1 == values.MAX_ENDPOINTS:
            message = f"expected at most {values.MAX_ENDPOINTS} endpoints, and this is one more"
            self._findings.error(place, message)
        else:
            peer.other_endpoints += (endpoint,)

    def _with_ports(self, ports: PortPolicy, key: str, text: str, place: Place) -> PortPolicy:
        words = text.replace(",", " ").split()
        # The halves of a key with a blank in it do not look like one.
        whole = text if may_hold_key(text) else None
        specs = (read(parse_port_spec, word, place, self._findings, shown=whole) for word in words)
        given = tuple(dict.fromkeys(spec for spec in specs if spec is not None))
        if key == "allowed_ports":
            return PortPolicy(given, ports.disallowed)
        return PortPolicy(ports.allowed, given)


def _parse_workers(text: str) -> int:
    return _parse_count(text, "workers", values.MAX_WORKERS)


def _parse_queues(text: str) -> int:
    return _parse_count(text, "queues", values.MAX_QUEUES)


def _parse_count(text: str, unit: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= most:
        raise ValueError(f"expected {unit} from 1 to {most}")
    return int(text)


_PARSERS: Final[Mapping[str, Callable[[str], object]]] = {
    "netns": values.parse_netns,
    "birth_netns": values.parse_netns,
    "backend": BackendWish.parse,
    "datapath": Wish.parse,
    "workers": _parse_workers,
    "queues": _parse_queues,
}
