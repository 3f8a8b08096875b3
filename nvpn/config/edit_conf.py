"""The text of a ``.conf`` file, changed in places: every other byte of it stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from nvpn.config.edit import NewPeer
from nvpn.config.values import decode_key
from nvpn.model.keys import PublicKey

# A comment that is part of its section: it says something about the peer.
_TELLING: Final = re.compile(r"\s*#\s*(nvpn:|(?:friendly[_ ]?)?name\s*=)", re.IGNORECASE)


class _Section(NamedTuple):
    """``start`` is its header's line, ``end`` behind the last line that says something."""

    key: PublicKey
    start: int
    end: int


class EditedConf:
    """A file that was read without mistakes; ``text`` is what it is now."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def peers(self) -> Sequence[PublicKey]:
        """Those that it has, in its order."""
        return [section.key for section in self._sections()]

    def add_peer(self, peer: NewPeer) -> None:
        """At the end."""
        block = self._newline.join(format_peer(peer))
        if not self.text:
            self.text = block + self._newline
        elif self.text.endswith("\n"):
            self.text += self._newline + block + self._newline
        else:
            self.text += self._newline * 2 + block

    def remove_peer(self, index: int) -> None:
        """The one at this place, with the comments directly above its section."""
        lines = self._lines()
        section = self._sections()[index]
        start = section.start
        while start and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        # What tells something about the peer before belongs to that one.
        while start < section.start and _TELLING.match(lines[start]):
            start += 1
        if start and not lines[start - 1].strip():
            start -= 1
        kept = "".join(lines[:start])
        if section.end == len(lines) and not self.text.endswith("\n"):
            kept = kept.removesuffix("\n").removesuffix("\r")
        self.text = kept + "".join(lines[section.end :])

    def _lines(self) -> list[str]:
        return re.findall(r"[^\n]*\n|[^\n]+", self.text)

    def _sections(self) -> list[_Section]:
        """The peers; what stands where is told as :mod:`nvpn.config.wgquick_reader` does."""
        found: list[_Section] = []
        start, end, is_peer = -1, -1, False
        key: PublicKey | None = None
        for number, line in enumerate([*self._lines(), "["]):
            code = "".join(line.partition("#")[0].split())
            if code.startswith("["):
                if key is not None:
                    found.append(_Section(key, start, end))
                start, end, key = number, number + 1, None
                is_peer = code.lower() == "[peer]"
            elif start >= 0 and (code or _TELLING.match(line)):
                end = number + 1
                name, _, value = code.partition("=")
                if is_peer and name.lower() == "publickey":
                    key = PublicKey(decode_key(value))
        return found


def format_peer(peer: NewPeer) -> list[str]:
    """The lines of its section."""
    lines = ["[Peer]"]
    if peer.name:
        lines.append(f"# Name = {peer.name}")
    lines.append(f"PublicKey = {peer.public_key.base64}")
    if peer.preshared_key is not None:
        lines.append(f"PresharedKey = {peer.preshared_key.reveal_base64()}")
    if peer.endpoint is not None:
        lines.append(f"Endpoint = {peer.endpoint}")
    if peer.allowed_ips:
        lines.append(f"AllowedIPs = {', '.join(map(str, peer.allowed_ips))}")
    if peer.persistent_keepalive:
        lines.append(f"PersistentKeepalive = {peer.persistent_keepalive}")
    return lines
