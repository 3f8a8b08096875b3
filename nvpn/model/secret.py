"""A password, which cannot be printed by accident; keys have types of their own (keys.py)."""

from __future__ import annotations

import hmac
from typing import Any, NoReturn


class SecretText:
    """A secret text. Only ``reveal`` gives it; empty stands for none."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text. The copy is the caller's to forget."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretText) and hmac.compare_digest(
            self._text.encode(), other._text.encode()
        )

    # Not hashable: a hash of a secret is a leak of it.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "SecretText(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")
