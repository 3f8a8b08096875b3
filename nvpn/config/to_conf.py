"""nvpn's TOML as a wg-quick file, without loss.

Every key, value and comment comes over, in their order. What wg-quick does not know goes
into comments that :mod:`nvpn.config.wgquick_reader` understands, such as
``# nvpn: kill_switch = true``, and fragments are joined. Sections that have no place there,
such as ``[server]``, stay as comments for people, and are warned about.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import tomli

from nvpn.config.conf_comments import find_comment_key, find_name
from nvpn.config.draft import Draft
from nvpn.config.files import TextFile, read_config
from nvpn.config.findings import Findings
from nvpn.config.finish import finish
from nvpn.config.locate import Kind, Mark, Position, outline
from nvpn.config.model import TunnelConfig
from nvpn.config.schema import HOOK_KEYS, PORT_KEYS
from nvpn.config.to_toml import Converted
from nvpn.config.toml_reader import read_toml
from nvpn.config.wgquick_reader import WRITTEN
from nvpn.errors import ConfigErrors
from nvpn.model.keys import PresharedKey, PrivateKey

_UNKNOWN: Final = "# nvpn: unknown: "
_HOMELESS: Final = ("server", "metrics", "resilience")


def convert_toml(sources: list[TextFile], *, keep_files: bool = False) -> Converted:
    """The main file and its fragments as one ``.conf``.

    Args:
        keep_files: leave keys where they are, and have ``wg`` fetch them from there.

    Raises:
        ConfigErrors: the files have mistakes.
    """
    config = _check(sources)
    converter = _Converter(config, keep_files=keep_files)
    for number, source in enumerate(sources):
        if number:
            converter.lines += ["", f"# from {source.path.parent.name}/{source.path.name}"]
        converter.convert(source)
    if any(peer.server for peer in config.peers):
        converter.warnings.append(
            f"{sources[0].name}: what its server leases is nothing that wg-quick asks for:"
            " there it has the addresses and routes of the file alone"
        )
    return Converted(converter.text(), tuple(converter.warnings))


def _check(sources: list[TextFile]) -> TunnelConfig:
    findings, draft = Findings(), Draft()
    for source in sources:
        read_toml(source, draft, findings)
    config = finish(draft, "", sources[0].path, findings)
    if findings.problems:
        raise ConfigErrors(findings.problems)
    return config


class _Converter:
    def __init__(self, config: TunnelConfig, *, keep_files: bool) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self._config = config
        self._keep_files = keep_files
        self._hooks: list[str] = []
        self._homeless: set[str] = set()
        self._peers_before = 0
        self._section: Position = ()
        # Whether what stands beside it may follow on the last line.
        self._takes_comment = False

    def text(self) -> str:
        hooks = ["", "[Interface]", *self._hooks] if self._hooks else []
        return "".join(f"{line}\n" for line in (*self.lines, *hooks))

    def convert(self, source: TextFile) -> None:
        text, document = source.text, tomli.loads(source.text)
        self._section = ()
        marks = outline(text)
        done, before = 0, 0
        for at, mark in enumerate(marks):
            if mark.start < done:
                continue
            self._keep_empty_lines(text[before : mark.start])
            before = mark.end
            if mark.kind is Kind.COMMENT:
                is_beside = bool(text[text.rfind("\n", 0, mark.start) + 1 : mark.start].strip())
                self._add_comment(text[mark.start : mark.end], is_beside=is_beside)
            elif mark.position[0] in _HOMELESS:
                self._keep_as_comment(mark, source)
                done = mark.end
            elif mark.kind is Kind.HEADER:
                self._begin(mark.position)
            elif mark.kind is Kind.ELEMENT:
                self._begin(mark.position)  # a peer written in one line
                before = mark.start
            elif isinstance(_value(document, mark.position), dict) or mark.position == ("peer",):
                before = mark.value  # What is inside comes by itself.
            else:
                behind = at + 1
                while behind < len(marks) and marks[behind].start < mark.end:
                    behind += 1
                value = _value(document, mark.position)
                self._add_pair(mark, value, marks[at + 1 : behind], source)
                done = mark.end
        self._peers_before += len(document.get("peer", []))

    def _keep_empty_lines(self, gap: str) -> None:
        if self.lines:
            self.lines += [""] * (gap.count("\n") - 1)

    def _begin(self, section: Position) -> None:
        self._section = section
        self.lines.append("[Interface]" if section == ("interface",) else "[Peer]")
        self._takes_comment = True

    def _keep_as_comment(self, mark: Mark, source: TextFile) -> None:
        """A header, or a key with its value, that a ``.conf`` file has no place for."""
        section = str(mark.position[0])
        if mark.kind is Kind.HEADER:
            self._section = ()
        if section not in self._homeless:
            self._homeless.add(section)
            line = source.text.count("\n", 0, mark.start) + 1
            self.warnings.append(
                f"{source.name}:{line}: [{section}] has no place in a .conf file; kept as comments"
            )
        for text in source.text[mark.start : mark.end].splitlines():
            self._add_line(f"# nvpn.toml: {text}".rstrip(), takes_comment=True)

    def _add_comment(self, comment: str, *, is_beside: bool) -> None:
        if comment.startswith(_UNKNOWN) and self._section:
            self._add_line(comment.removeprefix(_UNKNOWN), takes_comment=False)
        elif is_beside and self._takes_comment:
            self.lines[-1] += f" {comment}"
        elif is_beside and self.lines:
            self.lines.insert(-1, self._as_mere_comment(comment))
        else:
            self.lines.append(self._as_mere_comment(comment))
        self._takes_comment = False

    def _as_mere_comment(self, comment: str) -> str:
        """One that would say something in a .conf file is given a second ``#``."""
        speaks = find_comment_key(comment) is not None or find_name(comment)
        return f"# {comment}" if speaks else comment

    def _add_line(self, line: str, *, takes_comment: bool) -> None:
        self.lines.append(line)
        self._takes_comment = takes_comment

    def _add_pair(self, mark: Mark, value: Any, inside: list[Mark], source: TextFile) -> None:
        section, key = mark.position[:-1], str(mark.position[-1])
        if section != self._section:
            self._begin(section)
        if isinstance(value, list) and key in PORT_KEYS:
            # One comment says it all; what stands between goes above it.
            for one in inside:
                if one.kind is Kind.COMMENT:
                    self._add_comment(source.text[one.start : one.end], is_beside=False)
            self._add_values(key, value)
        elif isinstance(value, list):
            self._add_list(key, value, inside, source.text)
        elif key.endswith("_key_file"):
            self._add_key_file(key.removesuffix("_file"), str(value), source)
        else:
            self._add_values(key, [value])

    def _add_list(self, key: str, value: list[Any], inside: list[Mark], text: str) -> None:
        """One line for all; several where comments stand between."""
        run: list[Any] = []
        count = 0
        for mark in inside:
            if mark.kind is Kind.ELEMENT:
                run.append(value[count])
                count += 1
                continue
            start = text.rfind("\n", 0, mark.start) + 1
            is_beside = bool(text[start : mark.start].strip(" \t"))
            if run:
                self._add_values(key, run, rank=count - len(run))
                run = []
            elif is_beside:
                is_beside = False  # behind the bracket that opens the list
            self._add_comment(text[mark.start : mark.end], is_beside=is_beside)
        if run or not count:
            self._add_values(key, run, rank=count - len(run))

    def _add_values(self, key: str, these: list[Any], *, rank: int = 0) -> None:
        """``rank`` is how many of the key came before."""
        kind = "Interface" if self._section == ("interface",) else "Peer"
        texts = [_text(value) for value in these]
        written = WRITTEN[kind].get("dns" if key == "dns_search" else key)
        if key == "dns" and rank == 0 and [text.lower() for text in texts] in ([], ["off"]):
            self._add_line("# nvpn: dns = off", takes_comment=False)
        elif key == "name":
            self._add_line(f"# Name = {texts[0].strip()}", takes_comment=False)
        elif key in ("endpoint", "endpoints"):
            for place, text in enumerate(texts, rank):
                first = place == 0
                line = f"Endpoint = {text}" if first else f"# nvpn: endpoint = {text}"
                self._add_line(line, takes_comment=first)
        elif key in HOOK_KEYS:
            for text in texts:
                name = written or f"# nvpn: {key}"
                self._add_line(f"{name} = {text.strip()}", takes_comment=False)
        elif written is None:
            line = f"# nvpn: {key} = {', '.join(texts)}".rstrip()
            self._add_line(line, takes_comment=False)
        elif texts:
            self._add_line(f"{written} = {', '.join(texts)}", takes_comment=True)

    def _add_key_file(self, key: str, file: str, source: TextFile) -> None:
        path = source.path.parent / file
        secret: PrivateKey | PresharedKey | None
        if key == "private_key":
            secret, written = self._config.interface.private_key, "PrivateKey"
            words = "private-key"
        else:
            peer = self._config.peers[self._peers_before + int(self._section[1])]
            secret, written = peer.preshared_key, "PresharedKey"
            words = f"peer {peer.public_key.base64} preshared-key"
        if self._keep_files:
            self._hooks.append(f"PostUp = wg set %i {words} {shlex.quote(str(path.resolve()))}")
        elif secret is not None:
            self.warnings.append(f"{source.name}: the key in {path} is written out")
            line = f"{written} = {secret.reveal_base64()}"
            self._add_line(line, takes_comment=True)


def _value(document: Any, position: Position) -> Any:
    for part in position:
        document = document[part]
    return document


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def read_fragments(main: TextFile, files: list[Path]) -> list[TextFile]:
    """The texts of the fragments. Raises ConfigErrors."""
    findings = Findings()
    sources = [read_config(file, findings) for file in files]
    if findings.problems:
        raise ConfigErrors(findings.problems)
    return [main, *(source for source in sources if source is not None)]
