"""From a name or a file to a checked configuration, or to every mistake in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nvpn.config.draft import Draft
from nvpn.config.files import TextFile, how_to_read, read_config
from nvpn.config.findings import Findings, Place, may_hold_key, quote
from nvpn.config.finish import finish
from nvpn.config.model import TunnelConfig
from nvpn.errors import ConfigError, ConfigErrors
from nvpn.model.interface_name import NAME_RULE, is_interface_name

SEARCHED: Final = (Path("/etc/nvpn"), Path("/etc/wireguard"))
"""Where a bare name is looked for; in each ``NAME.toml`` comes before ``NAME.conf``."""
SUFFIXES: Final = (".toml", ".conf")


@dataclass(frozen=True, slots=True)
class Examination:
    """What reading a configuration brought to light. ``config`` is None iff there are problems."""

    config: TunnelConfig | None
    problems: tuple[ConfigError, ...]
    warnings: tuple[str, ...]


def find(name_or_path: str, *, searched: tuple[Path, ...] = SEARCHED) -> Path:
    """The file that the user means.

    What contains a ``/`` or ends in ``.toml`` or ``.conf`` is a path and is taken as it
    is; anything else is the name of an interface.

    Raises:
        ConfigError: no such file; the message says where it was looked for.
    """
    if "/" in name_or_path or name_or_path.endswith(SUFFIXES):
        return _find_path(Path(name_or_path), searched)
    if not is_interface_name(name_or_path):
        raise ConfigError(
            f"{quote(name_or_path)} is neither a file nor the name of an interface",
            hint=f"expected FILE.toml, FILE.conf, or {NAME_RULE}",
        )
    return _find_name(name_or_path, searched)


def load(path: Path) -> TunnelConfig:
    """Read a file, and its fragments, to the end.

    Raises:
        ConfigErrors: with every mistake in all of them.
    """
    examination = examine(path)
    if examination.config is None:
        raise ConfigErrors(examination.problems)
    return examination.config


def examine(path: Path, *, written: Mapping[Path, bytes | None] | None = None) -> Examination:
    """As :func:`load`, but mistakes are returned beside the warnings.

    Args:
        written: files to be read as if they held this; None: as if they were gone.
    """
    findings = Findings()
    written = written or {}
    draft = Draft()
    if path.suffix not in SUFFIXES:
        message = "is neither a .toml nor a .conf file"
        findings.error(Place(str(path)), message, "rename it to what it is")
    else:
        _check_name(path, findings)
        _read_files(path, draft, findings, written)
    config = finish(draft, path.stem, path, findings)
    problems = findings.problems
    return Examination(None if problems else config, problems, findings.warnings)


def _check_name(path: Path, findings: Findings) -> None:
    if not is_interface_name(path.stem):
        findings.error(
            Place(str(path)),
            f"the file names the interface, and {quote(path.stem)} cannot be one",
            f"expected {NAME_RULE}",
        )


def list_files(path: Path) -> list[Path]:
    """The main file and its fragments, in the order in which they are read."""
    return [path, *_fragments(path, Findings(), {})]


def _read_files(
    path: Path, draft: Draft, findings: Findings, written: Mapping[Path, bytes | None]
) -> None:
    main = read_config(path, findings, written)
    if main is None:
        return
    read = _reader(path.suffix)
    read(main, draft, findings)
    for fragment in _fragments(path, findings, written):
        source = read_config(fragment, findings, written)
        if source is not None:
            read(source, draft, findings)
    if findings.problems:
        return
    if not draft.sections:
        findings.error(Place(str(path)), "is empty", "expected an [interface] section")
    elif "private_key" not in draft.interface.claims:
        findings.warn(
            Place(str(path)),
            "no private key is given",
            f"nothing goes through until one is set, as by: wg set {path.stem} private-key FILE",
        )


def _reader(suffix: str) -> Callable[[TextFile, Draft, Findings], None]:
    if suffix == ".toml":
        from nvpn.config.toml_reader import read_toml

        return read_toml
    from nvpn.config.wgquick_reader import read_wgquick

    return read_wgquick


def _fragments(path: Path, findings: Findings, written: Mapping[Path, bytes | None]) -> list[Path]:
    """The files of ``NAME.d/`` that end in .toml, in the order of their names."""
    directory = path.with_suffix(".d")
    place = Place(str(directory))
    given = {file.name for file in written if file.parent == directory}
    gone = {file.name for file, data in written.items() if data is None} & given
    try:
        names = sorted(
            name
            for name in {*os.listdir(directory), *given} - gone
            if name.endswith(".toml") and not name.startswith(".")
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        findings.error(place, "may not be read by this user", how_to_read(directory))
        return []
    except OSError as error:
        findings.error(place, f"cannot be read: {os.strerror(error.errno or 0)}")
        return []
    if path.suffix != ".toml":
        if names and not path.with_suffix(".toml").exists():
            findings.warn(place, "is not read", "only .toml files have fragments")
        return []
    return [directory / name for name in names]


def _find_path(path: Path, searched: tuple[Path, ...]) -> Path:
    try:
        if path.exists():
            return path
    except OSError:
        return path  # Opening it will say why.
    hint = _similar(path.name, _files_in(path.parent, ())) or _similar(
        path.name, [file for directory in searched for file in _files_in(directory, ())]
    )
    raise ConfigError("does not exist", file=_shown(path), hint=hint)


def _find_name(name: str, searched: tuple[Path, ...]) -> Path:
    for directory in searched:
        for suffix in SUFFIXES:
            path = directory / f"{name}{suffix}"
            try:
                if path.exists():
                    return path
            except PermissionError:
                raise ConfigError(
                    "may not be searched by this user",
                    file=str(directory),
                    hint="try again with sudo",
                ) from None
    here = [path for suffix in SUFFIXES if (path := Path(f"{name}{suffix}")).is_file()]
    if here:
        hint = f'there is one in this directory: did you mean "./{here[0]}"?'
    else:
        known = [file for directory in searched for file in _files_in(directory, SUFFIXES)]
        hint = _similar(name, [Path(file.stem) for file in known])
    places = " and ".join(str(directory) for directory in searched)
    raise ConfigError(
        f'there is no configuration called "{name}" (looked for {name}.toml and {name}.conf'
        f" in {places})",
        hint=hint or "give the file itself, such as ./wg0.toml",
    )


def _shown(path: Path) -> str:
    """A path for a message, unless somebody gave a key where a file belongs."""
    return "the given file" if may_hold_key(str(path)) else str(path)


def _files_in(directory: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [directory / name for name in names if name.endswith(suffixes or SUFFIXES)]


def _similar(wanted: str, known: list[Path]) -> str:
    from difflib import get_close_matches

    by_name = {path.name: path for path in reversed(known)}
    close = get_close_matches(wanted, by_name, n=1, cutoff=0.6)
    return f'did you mean "{by_name[close[0]]}"?' if close else ""
