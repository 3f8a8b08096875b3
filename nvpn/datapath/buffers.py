"""What packets lie in."""

from __future__ import annotations

from typing import Union

Bytes = Union[bytes, bytearray, memoryview]  # noqa: UP007 - a runtime value on Python 3.10
