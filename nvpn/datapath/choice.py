"""Which datapath carries a tunnel: the one that was asked for, or the faster that is there.

The native datapath is a compiled module that an installation may lack, and pip does not say
why. So whoever decides here also says what is missing, in words for people.
"""

from __future__ import annotations

import enum
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nvpn import __version__
from nvpn.errors import ConfigError, PlatformError

if TYPE_CHECKING:
    import asyncio

    from nvpn.datapath.api import Datapath
    from nvpn.datapath.ports import Device

VARIABLE: Final = "NVPN_DATAPATH"

_MODULE: Final = "nvpn._native"
_INSTALL: Final = "pip install --force-reinstall --no-deps ."
_AGAIN: Final = f"install nvpn again from its source: {_INSTALL}"


class Wish(enum.Enum):
    """What a configuration, or the environment, may ask for."""

    AUTO = "auto"
    PYTHON = "python"
    NATIVE = "native"

    @classmethod
    def parse(cls, text: str) -> Wish:
        """Raises ValueError with what was expected."""
        try:
            return cls(text)
        except ValueError:
            raise ValueError('expected "auto", "native" or "python"') from None


@dataclass(frozen=True, slots=True)
class Choice:
    """The native datapath or Python's; ``why`` tells people, empty if nothing is amiss."""

    is_native: bool
    why: str = ""

    @property
    def name(self) -> str:
        """``native`` or ``python``."""
        return "native" if self.is_native else "python"

    def __str__(self) -> str:
        return f"{self.name}: {self.why}" if self.why else self.name


def choose(
    wish: Wish = Wish.AUTO, *, file: str = "", environment: Mapping[str, str] = os.environ
) -> Choice:
    """Decide, by the configuration's wish and the environment's.

    Args:
        wish: of the configuration; AUTO leaves it to the environment.
        file: the configuration's, for messages.

    Raises:
        ConfigError: the two contradict each other, or what they ask for is not there.
    """
    wish, asking = _settle(wish, file, environment)
    if wish is Wish.PYTHON:
        return Choice(False, f"{asking} asks for it")
    missing = find_missing()
    if missing is None:
        return Choice(True)
    if wish is Wish.NATIVE:
        is_ours = asking == VARIABLE
        raise ConfigError(
            f'asks for "native", but {missing.what}',
            file="" if is_ours else file,
            key=VARIABLE if is_ours else "interface.datapath",
            hint=missing.remedy,
        )
    return Choice(False, str(missing))


def explain_workers(choice: Choice, workers: int, *, file: str) -> str:
    """A sentence for who asks for so many workers, empty if they get what they ask for."""
    if choice.is_native or workers == 1:
        return ""
    return str(
        ConfigError(
            f"{workers} workers need the native datapath; the Python one has one thread",
            file=file,
            key="interface.workers",
        )
    )


def _settle(wish: Wish, file: str, environment: Mapping[str, str]) -> tuple[Wish, str]:
    """What is asked for, and by whom."""
    text = environment.get(VARIABLE, "")
    try:
        ours = Wish.parse(text) if text else Wish.AUTO
    except ValueError as error:
        shown = f'"{text[:20]}"' if text.isprintable() else "something else"
        raise ConfigError(f"{error}, found {shown}", key=VARIABLE) from None
    if ours is Wish.AUTO:
        return wish, "the configuration"
    if wish not in (Wish.AUTO, ours):
        raise ConfigError(
            f'asks for "{ours.value}", {file or "the configuration"} for "{wish.value}"',
            key=VARIABLE,
            hint="remove one of the two",
        )
    return ours, VARIABLE


# --- what is there ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missing:
    """What keeps the native datapath from being used, as a clause, and what to do."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def find_missing() -> Missing | None:
    """None if the native datapath can be used here. Loads its module to find out."""
    try:
        module = importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name == _MODULE:
            return _not_built()
        return Missing(f"the native module needs {error.name}", _AGAIN)
    except ImportError as error:
        reason = " ".join(str(error).split())[:200] or "for no reason given"
        return Missing(f"the native module cannot be loaded: {reason}", _AGAIN)
    version = getattr(module, "__version__", "unknown")
    if version != __version__:
        return Missing(
            f"the native module is of nvpn {version}, the rest of {__version__}", _AGAIN
        )
    return None


def _not_built() -> Missing:
    from shutil import which

    what = "the native module is not built"
    if which("cargo") is None:
        return Missing(what, f"install Rust (https://rustup.rs), then {_AGAIN}")
    return Missing(what, f"cargo is here, so {_AGAIN} -v, and see what it says")


# --- making it --------------------------------------------------------------------------


def create_datapath(
    choice: Choice,
    loop: asyncio.AbstractEventLoop,
    tun: Device,
    *,
    mtu: int,
    max_segments: int,
    workers: int = 1,
) -> Datapath:
    """The chosen datapath on a TUN device, without sockets. The other one is not loaded.

    Args:
        workers: threads that may move packets; Python's has one whatever it says.

    Raises:
        PlatformError: no threads, or no descriptors, for the native one.
    """
    if choice.is_native:
        from nvpn.datapath.native.adapter import NativeDatapath

        try:
            return NativeDatapath(loop, tun, mtu=mtu, max_segments=max_segments, workers=workers)
        except OSError as error:
            operation = "start the native datapath"
            raise PlatformError(operation, errno=error.errno or 0) from None
    from nvpn.datapath.python.engine import PythonDatapath

    return PythonDatapath(loop, tun, mtu=mtu, max_segments=max_segments)
