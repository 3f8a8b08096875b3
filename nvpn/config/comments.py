"""The comments of a ``.conf`` file, put into another text of the same tunnel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_HOOKS: Final = ("preup", "postup", "predown", "postdown")


class _Anchor(NamedTuple):
    """A line that says something: ``key`` in lower case, ``[`` for a header.

    ``section`` is a peer's public key, empty for our own side; ``nth`` counts from 0.
    """

    section: str
    key: str
    nth: int


@dataclass(slots=True)
class _Comments:
    above: dict[_Anchor, list[str]] = field(default_factory=dict)
    beside: dict[_Anchor, str] = field(default_factory=dict)
    last: dict[str, list[str]] = field(default_factory=dict)
    anchors: dict[str, list[_Anchor]] = field(default_factory=dict)


def weave_comments(old: str, new: Sequence[str]) -> list[str]:
    """The lines ``new`` with the comments of ``old`` where they stood.

    A comment stays above or beside what it is about; when that is gone, it goes to the end
    of its section, and when that is gone, too, it goes with it. Empty lines stay only
    between comments.
    """
    comments = _collect(old.split("\n"))
    if not (comments.above or comments.beside or comments.last):
        return list(new)
    anchors = _find_anchors(new)
    # Where each section ends.
    lasts = set({one.section: at for at, one in enumerate(anchors) if one is not None}.values())
    woven: list[str] = []
    for number, (line, anchor) in enumerate(zip(new, anchors, strict=True)):
        if anchor is not None:
            woven += comments.above.pop(anchor, [])
            beside = comments.beside.pop(anchor, "")
            line = f"{line} {beside}" if beside else line
        woven.append(line)
        if anchor is not None and number in lasts:
            woven += _left_in(anchor.section, comments)
    return woven


def _left_in(section: str, comments: _Comments) -> list[str]:
    lines: list[str] = []
    anchors = comments.anchors.get(section, [])
    for one in anchors:
        lines += comments.above.pop(one, [])
    for one in anchors:
        if one in comments.beside:
            lines.append(comments.beside.pop(one))
    return [line for line in lines if line] + comments.last.pop(section, [])


def _collect(lines: Sequence[str]) -> _Comments:
    comments = _Comments()
    waiting: list[str] = []
    section: str | None = None
    for line, anchor in zip(lines, _find_anchors(lines), strict=True):
        line = line.strip()
        if anchor is None:
            waiting.append(line)
            continue
        if anchor.key != "[":
            comments.anchors.setdefault(anchor.section, []).append(anchor)
        if any(waiting) and anchor.key != "[":
            comments.above[anchor] = _trimmed(waiting)
        elif any(waiting):
            own, above = _divide(waiting) if section is not None else ([], waiting)
            if own:
                comments.last.setdefault(section or "", []).extend(own)
            if any(above):
                comments.above[anchor] = "\n".join(above).lstrip("\n").split("\n")
        waiting = []
        section = anchor.section
        if anchor.key not in _HOOKS and "#" in line:
            comments.beside[anchor] = line[line.index("#") :]
    if any(waiting):
        comments.last.setdefault(section or "", []).extend(_trimmed(waiting))
    return comments


def _divide(lines: list[str]) -> tuple[list[str], list[str]]:
    """What belongs to the section before, and what to the next one's header.

    What follows without an empty line between belongs to the section before.
    """
    first_empty = lines.index("") if "" in lines else 0
    return lines[:first_empty], lines[first_empty:]


def _trimmed(lines: list[str]) -> list[str]:
    """Without empty lines at both ends."""
    return "\n".join(lines).strip("\n").split("\n")


def _find_anchors(lines: Sequence[str]) -> list[_Anchor | None]:
    """One for each line; None for those that say nothing to wg and wg-quick."""
    found: list[_Anchor | None] = []
    counts: dict[tuple[int, str], int] = {}
    owners: dict[int, str] = {}
    number = 0
    keys: list[tuple[int, str, int] | None] = []
    for line in lines:
        code = re.sub(r"\s", "", line.partition("#")[0])
        if not code:
            keys.append(None)
            continue
        name, _, value = code.partition("=")
        key = name.lower()
        if key.startswith("["):
            number = 0 if key == "[interface]" else number + 1 + (not number) * len(lines)
            key = "["
        elif key == "publickey" and number:
            owners[number] = value
        nth = counts.get((number, key), 0)
        counts[number, key] = nth + 1
        keys.append((number, key, nth))
    for one in keys:
        found.append(None if one is None else _Anchor(owners.get(one[0], ""), one[1], one[2]))
    return found
