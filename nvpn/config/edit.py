"""Changes a configuration's file, and leaves alone what it does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from nvpn.config.load import Examination, examine, list_files
from nvpn.config.model import HostPort, TunnelConfig
from nvpn.config.values import check_name
from nvpn.config.writing import replace_files
from nvpn.errors import ConfigError, ConfigErrors, PlatformError
from nvpn.model.keys import PresharedKey, PublicKey
from nvpn.model.prefixes import Prefix

_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class NewPeer:
    """A peer that gets a section of its own.

    ``name`` may be empty. ``persistent_keepalive`` is in seconds, 0 is off.
    """

    name: str
    public_key: PublicKey
    preshared_key: PresharedKey | None = field(default=None, repr=False)
    endpoint: HostPort | None = None
    allowed_ips: tuple[Prefix, ...] = ()
    persistent_keepalive: int = 0


class ConfigFile(Protocol):
    """One configuration in memory, with its comments, order and spelling."""

    path: Path

    def add_peer(self, peer: NewPeer) -> None:
        """At the end; or in a fragment of its own where NAME.d/ exists.

        Raises:
            ConfigError: the name or the key is there already.
        """

    def remove_peer(self, key: PublicKey) -> bool:
        """With the comments directly above its section; others stay. False: not there."""

    def text(self) -> str:
        """What would be written into the main file."""

    def examine(self) -> Examination:
        """What would be written, all files of it, as :func:`nvpn.config.load.examine` does."""

    def write(self) -> Callable[[], None]:
        """Atomically: same mode and owner, through symbolic links, on disk on return.

        Returns what puts the old bytes back.

        Raises:
            PlatformError: nothing was changed.
        """


class EditedText(Protocol):
    """The text of one file."""

    text: str

    def peers(self) -> Sequence[PublicKey]:
        """Those that it has, in its order."""

    def add_peer(self, peer: NewPeer) -> None:
        """At the end."""

    def remove_peer(self, index: int) -> None:
        """The one at this place in :meth:`peers`."""


_T = TypeVar("_T", bound=EditedText)


class EditedFiles(Generic[_T]):
    """A configuration of one kind or the other, main file and fragments."""

    def __init__(self, path: Path, make: Callable[[str], _T]) -> None:
        config = examine(path)
        if config.problems:
            raise ConfigErrors(config.problems)
        self.path = path
        self._make = make
        self._old = {file: _read(file) for file in list_files(path)}
        self._new = dict(self._old)

    def add_peer(self, peer: NewPeer) -> None:
        """See :class:`ConfigFile`, as for the others."""
        config = self._config()
        self._refuse_double(peer, config)
        directory = self.path.with_suffix(".d")
        if self.path.suffix == ".toml" and directory.is_dir():
            file = self._fragment_for(peer, directory)
            self._old.setdefault(file, None)
            self._new[file] = b""
        else:
            file = self.path
        with self.changing(file) as edited:
            edited.add_peer(peer)

    def remove_peer(self, key: PublicKey) -> bool:
        """See :class:`ConfigFile`."""
        for file in self.files():
            keys = list(self.edit(file).peers())
            if key in keys:
                with self.changing(file) as edited:
                    edited.remove_peer(keys.index(key))
                return True
        return False

    def text(self) -> str:
        """Of the main file."""
        return (self._new[self.path] or b"").decode()

    def examine(self) -> Examination:
        """As if it were written already."""
        return examine(self.path, written=self._new)

    def write(self) -> Callable[[], None]:
        """All files that differ, or none."""
        put_back = replace_files(self._old, self._new)
        self._old = dict(self._new)
        return put_back

    def files(self) -> list[Path]:
        """Those that there would be."""
        return [file for file, data in self._new.items() if data is not None]

    def edit(self, file: Path) -> _T:
        """One of the files as it would be; what is done to it is lost: see :meth:`changing`."""
        # A byte order mark is no text; `changing` puts it back.
        return self._make((self._new[file] or b"").decode("utf-8-sig"))

    @contextmanager
    def changing(self, file: Path) -> Iterator[_T]:
        """The same, and what is done to it counts. A fragment that is empty then goes."""
        mark = _MARK if (self._new[file] or b"").startswith(_MARK) else b""
        edited = self.edit(file)
        yield edited
        is_needed = file == self.path or edited.text.strip()
        self._new[file] = mark + edited.text.encode() if is_needed else None

    def _config(self) -> TunnelConfig:
        examination = self.examine()
        if examination.config is None:
            raise ConfigErrors(examination.problems)
        return examination.config

    def _refuse_double(self, peer: NewPeer, config: TunnelConfig) -> None:
        for there in config.peers:
            if there.public_key == peer.public_key:
                message = f"the key {peer.public_key.short} is that of {there.label!r} already"
                raise ConfigError(message, file=there.file, line=there.line)
            if peer.name and there.name == peer.name:
                message = f"there is a peer {peer.name!r} already"
                hint = "take another name, or remove that one first"
                raise ConfigError(message, file=there.file, line=there.line, hint=hint)
        try:
            check_name(peer.name or "nobody")
        except ValueError as error:
            raise ConfigError(str(error), key="name") from None

    def _fragment_for(self, peer: NewPeer, directory: Path) -> Path:
        """A file that is not there, called after the peer."""
        words = "".join(c if c.isascii() and c.isalnum() else " " for c in peer.name).split()
        stem = "-".join(words) or "peer"
        number, file = 1, directory / f"{stem}.toml"
        while file.exists() or self._new.get(file) is not None:
            number += 1
            file = directory / f"{stem}-{number}.toml"
        return file


def open_config(path: Path) -> ConfigFile:
    """Read a .toml or .conf file to change it. Raises ConfigErrors, PlatformError."""
    if path.suffix == ".toml":
        from nvpn.config.edit_toml import EditedToml

        return EditedFiles(path, EditedToml)
    from nvpn.config.edit_conf import EditedConf

    return EditedFiles(path, EditedConf)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlatformError(f"read {path}", errno=error.errno or 0) from None
