"""``nvpn join``: become the client of a server that has invited us."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nvpn.errors import ConfigError, PlatformError, Refused, Unavailable

if TYPE_CHECKING:
    from nvpn.daemon.leasing.joining import Enrolment, Joining
    from nvpn.model.keys import PublicKey
    from nvpn.registry.invitation_text import InvitationText

_SCHEME: Final = "nvpn:"
_MAX_INPUT: Final = 64 << 10
_MAX_NUMBER: Final = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INVITATION, --name, --config, -o, --no-up."""
    parser.add_argument(
        "invitation",
        metavar="INVITATION|FILE|-",
        help="What nvpn invite printed, or a file that holds it; - for standard input",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--name", metavar="IF", help="The interface; by default the first free of nvpn0, nvpn1 …"
    )
    place.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="Write the configuration to this new .toml file, which names the interface",
    )
    parser.add_argument(
        "--config",
        metavar="DIR",
        help="Write the configuration into this directory instead of /etc/nvpn",
    )
    parser.add_argument("--no-up", action="store_true", help="Do not bring the tunnel up")


def run(args: argparse.Namespace) -> int:
    """0 once the client is up, or with ``--no-up`` once its configuration is there.

    Raises:
        NvpnError: nothing is left behind; or, when no server answered, the key only.
    """
    invitation = _read(args.invitation)
    path = _join(args, invitation)
    if args.no_up:
        from nvpn.cli.output import write_output

        write_output(f"{path}\n")
        return 0
    return _bring_up(path)


# --- the invitation ---------------------------------------------------------------------


def _read(given: str) -> InvitationText:
    """What the argument stands for. It is never repeated: it is a secret. Raises ConfigError."""
    from nvpn.registry.invitation_text import parse_invitation

    try:
        return parse_invitation(_text(given), wall=time.time_ns())
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _text(given: str) -> str:
    if given.strip().lower().startswith(_SCHEME):
        return given
    try:
        if given == "-":
            with open(0, "rb", closefd=False) as stream:
                data = stream.read(_MAX_INPUT)
        else:
            with open(given, "rb") as stream:
                data = stream.read(_MAX_INPUT)
    except (FileNotFoundError, ValueError):
        raise ConfigError(
            "this is neither an invitation, which begins with nvpn:, nor a file that is there"
        ) from None
    except OSError as error:
        raise PlatformError("read the invitation", errno=error.errno or 0) from None
    return data.decode(errors="replace")


# --- where it goes ----------------------------------------------------------------------


def _place(args: argparse.Namespace) -> tuple[Path, str]:
    """Directory and interface as they were given, the latter empty if it was not."""
    from nvpn.config.load import SEARCHED

    if args.output is None:
        return Path(args.config or SEARCHED[0]).absolute(), args.name or ""
    if args.config is not None:
        raise ConfigError(
            "does not go with --output, which names the directory as well", key="--config"
        )
    file = Path(args.output).absolute()
    _check_output(file)
    return file.parent, file.stem


def _choose_name(given: str, before: str, directory: Path, option: str) -> str:
    """Raises ConfigError: it cannot be one, or is taken."""
    if given:
        if why := _why_taken(given, directory):
            raise ConfigError(why, key=option)
        return given
    return before if before and not _why_taken(before, directory) else _free_name(directory)


def _check_output(file: Path) -> None:
    if file.suffix != ".toml":
        raise ConfigError("expected a file that ends in .toml", key="--output")
    if not file.parent.is_dir():
        raise PlatformError(f"write {file}", hint="its directory has to be there; make it first")


def _free_name(directory: Path) -> str:
    for number in range(_MAX_NUMBER):
        name = f"nvpn{number}"
        if not _why_taken(name, directory):
            return name
    raise ConfigError("all names from nvpn0 on are taken", hint="choose one: --name IF")


def _why_taken(name: str, directory: Path) -> str:
    """Why an interface cannot be called so; empty: it can."""
    from nvpn.config.load import SEARCHED, SUFFIXES
    from nvpn.control.client import is_running
    from nvpn.model.interface_name import is_interface_name, why_no_name

    if not is_interface_name(name):
        return why_no_name(name)
    for place in dict.fromkeys((directory, *SEARCHED)):
        for suffix in SUFFIXES:
            file = place / f"{name}{suffix}"
            if os.path.lexists(file):  # unlike Path.exists also where we may not look
                return f"{file} is there already; choose another name"
    if os.path.exists(f"/sys/class/net/{name}") or is_running(name):
        return f"there is an interface {name} already; choose another name"
    return ""


def _refuse_a_second(directory: Path, server: PublicKey) -> None:
    """Two tunnels to one server would have the same routes: whoever wants them names the other.

    Raises:
        ConfigError: there is a configuration with this server, as an earlier join wrote it.
    """
    from nvpn.config.load import examine

    for file in sorted(directory.glob("*.toml")):
        config = examine(file).config
        peers = () if config is None else config.peers
        if any(peer.server and peer.public_key == server for peer in peers):
            raise ConfigError(
                "this host is a client of that server already",
                file=str(file),
                hint=f"bring it up with: nvpn up {file}; or remove it; or name a second tunnel:"
                " --name IF",
            )


# --- joining ----------------------------------------------------------------------------


def _join(args: argparse.Namespace, invitation: InvitationText) -> Path:
    """The configuration's file. Raises NvpnError."""
    from nvpn.cli.output import write_complaint
    from nvpn.daemon.leasing.joining import Joining, format_config

    directory, given = _place(args)
    option = "--output" if args.output else "--name"
    if given:
        _choose_name(given, "", directory, option)
    else:
        _refuse_a_second(directory, invitation.server)
    with Joining(directory, invitation) as joining:
        name = _choose_name(given, joining.interface, directory, option)
        joining.keep(name)
        enrolment = _enrol(invitation, joining)
        text = format_config(invitation, joining.key, enrolment)
        path = _write(text, directory, name, is_given=bool(given))
        joining.forget()
    invitation.secret.wipe()
    servers = 1 + len(enrolment.servers)
    several = f", a client of {servers} servers" if servers > 1 else ""
    write_complaint(f"joined as {enrolment.name}{several}; the configuration is {path}\n")
    return path


def _write(text: str, directory: Path, name: str, *, is_given: bool) -> Path:
    """The new file. Where another join has taken a name that nobody asked for, by another name.

    Raises:
        PlatformError: it cannot be written.
    """
    from nvpn.daemon.leasing.joining import write_config

    while True:
        path = directory / f"{name}.toml"
        try:
            write_config(path, text)
        except PlatformError as error:
            if is_given or error.errno != errno.EEXIST:
                raise
            name = _free_name(directory)
        else:
            return path


def _enrol(invitation: InvitationText, joining: Joining) -> Enrolment:
    """Raises NvpnError."""
    import asyncio

    from nvpn.cli.output import write_complaint
    from nvpn.daemon.leasing.enrolment import enrol

    def tell(trouble: str) -> None:
        write_complaint(f"{trouble}; still trying\n")

    try:
        return asyncio.run(enrol(invitation, joining.key.public(), tell=tell))
    except Refused:
        joining.forget()
        raise
    except Unavailable as error:
        raise Unavailable(f"{error}; nothing is lost: run the same command again") from None


def _bring_up(path: Path) -> int:
    """By ``nvpn up``, which says what is wrong.

    In a program of its own: what goes to the background stays in the list of processes, where
    everybody could read the invitation.
    """
    import subprocess

    from nvpn.cli.output import write_complaint, write_output

    # -m looks for modules where it is run as well: nobody else puts any into /.
    status = subprocess.run([sys.executable, "-m", "nvpn", "up", path], cwd="/").returncode
    if status != 0:
        write_complaint(f"it has joined all the same; bring it up with: sudo nvpn up {path}\n")
        return status
    addresses = ", ".join(_addresses(path.stem))
    write_output(f"{path.stem} is up{f' with {addresses}' if addresses else ''}\n")
    return 0


def _addresses(name: str) -> Iterator[str]:
    from nvpn.netconf.linux import LinuxNetconf

    netconf = LinuxNetconf()
    try:
        link = netconf.find_link(name)
        if link is not None:
            yield from (str(address) for address in sorted(netconf.addresses(link)))
    finally:
        netconf.close()
