"""``nvpn show``: tunnels and peers, for people, for scripts, and for other programs.

Which of them is asking decides the form: a table on a terminal, the text of `wg show`
through a pipe or when its arguments are given. The quick forms import nothing heavy:
``rich`` is for the table alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from nvpn.cli import text
from nvpn.cli.output import write_complaint, write_output
from nvpn.cli.paint import is_terminal, wants_colour
from nvpn.cli.usage import USAGE_ERROR, print_error, print_usage_error, quoted
from nvpn.control import client
from nvpn.control.paths import socket_path
from nvpn.control.records import TunnelRecord
from nvpn.errors import ControlError, PlatformError

MOST_TABLE_PEERS = 50
"""Beyond that a table is no pleasure any more, to read or to draw: plain rows then."""

_USAGE = f"Usage: nvpn show {{ <interface> | all | interfaces }} [{' | '.join(text.FIELDS)}]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``wg show``, and ours."""
    parser.usage = "%(prog)s [OPTIONS] [INTERFACE [FIELD]]"
    parser.add_argument(
        "interface",
        nargs="?",
        metavar="INTERFACE",
        help="Only this one; or 'all', or 'interfaces' for their names",
    )
    parser.add_argument(
        "field",
        nargs="?",
        metavar="FIELD",
        help=f"Only this, for scripts: {', '.join(text.FIELDS)}",
    )
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--plain", action="store_true", help="The text of `wg show`, always")
    form.add_argument("--table", action="store_true", help="The table, even through a pipe")
    form.add_argument("--json", action="store_true", help="JSON, without any secret")
    parser.add_argument(
        "-w",
        "--watch",
        nargs="?",
        const="",
        metavar="SECONDS",
        help="The table again and again, every 2 seconds or as given, with rates",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="The table with full keys, dropped packets and how packets are moved",
    )


def run(args: argparse.Namespace) -> int:
    """Print what was asked for. Texts, errors and statuses of the plain forms are wg's."""
    words: list[str] = [word for word in (args.interface, args.field) if word is not None]
    words += args.rest
    if args.watch is not None:
        return _watch(args, words)
    if len(words) > 2 or (len(words) == 2 and words[0] == "interfaces"):
        write_complaint(f"{_USAGE}\n")
        return 1
    ours = [option for option in ("json", "table", "verbose") if getattr(args, option)]
    if ours and (len(words) == 2 or words == ["interfaces"]):
        print_usage_error(f"--{ours[0]} does not go with '{words[-1]}'", command="nvpn show")
        return USAGE_ERROR
    if words == ["interfaces"]:
        return _show_names()
    if len(words) == 2:
        return _show_as_wg(words[0], words[1])
    which = words[0] if words else "all"
    if args.json:
        return _show(which, _print_json)
    if args.plain or not (args.table or args.verbose or _is_for_people(words)):
        return _show_as_wg(which, None)
    return _show(which, _print_verbose if args.verbose else _print_for_people)


def _watch(args: argparse.Namespace, words: list[str]) -> int:
    from nvpn.cli.watch import DEFAULT_SECONDS, LONGEST, SHORTEST, View, watch

    try:
        seconds = float(args.watch) if args.watch else DEFAULT_SECONDS
    except ValueError:
        # The interface may stand there, too: nvpn show --watch wg0.
        seconds = DEFAULT_SECONDS
        words = [args.watch, *words]
    complaint = ""
    if args.json or args.plain:
        complaint = f"--watch does not go with --{'json' if args.json else 'plain'}"
    elif len(words) > 1 or words == ["interfaces"]:
        complaint = f"--watch does not go with {quoted(words[-1])}"
    elif not SHORTEST <= seconds <= LONGEST:
        complaint = f"--watch takes {SHORTEST:g} to {LONGEST:g} seconds"
    if complaint:
        print_usage_error(complaint, command="nvpn show")
        return USAGE_ERROR
    which = words[0] if words else "all"
    view = View(which, verbose=args.verbose, most_in_table=MOST_TABLE_PEERS, up_since=_up_since)
    return watch(view, seconds)


def _is_for_people(words: list[str]) -> bool:
    return not words and is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb"


# --- as wg does it --------------------------------------------------------------------


def _show_names() -> int:
    try:
        names = client.list_interfaces()
    except PlatformError as error:
        return _fail("Unable to list interfaces", error)
    if names:
        write_output(f"{' '.join(names)}\n")
    return 0


def _show_as_wg(which: str, field: str | None) -> int:
    if which != "all":
        try:
            tunnel = client.get(which)
        except (PlatformError, ControlError) as error:
            return _fail("Unable to access interface", error)
        return _write_as_wg(tunnel, field, with_interface=False)
    try:
        names = client.list_interfaces()
    except PlatformError as error:
        return _fail("Unable to list interfaces", error)
    status = 1 if names else 0
    for name in names:
        try:
            tunnel = client.get(name)
        except (PlatformError, ControlError) as error:
            _fail(f"Unable to access interface {name}", error)
            continue
        status = _write_as_wg(tunnel, field, with_interface=True)
        if status:
            break
        if field is None and name != names[-1]:
            write_output("\n")
    return status


def _write_as_wg(tunnel: TunnelRecord, field: str | None, *, with_interface: bool) -> int:
    if field is None:
        now = int(time.time())
        show_keys = os.environ.get("WG_HIDE_KEYS") == "never"
        colour = _wants_wg_colour()
        write_output(text.format_tunnel(tunnel, now=now, colour=colour, show_keys=show_keys))
        return 0
    if field not in text.FIELDS:
        write_complaint(f"Invalid parameter: `{field}'\n{_USAGE}\n")
        return 1
    write_output(text.format_field(tunnel, field, with_interface=with_interface))
    return 0


def _wants_wg_colour() -> bool:
    mode = os.environ.get("WG_COLOR_MODE")
    if mode in ("always", "never"):
        return mode == "always"
    # As wg on a terminal, and only there; but whoever wants none gets none from us.
    return is_terminal(sys.stdout) and wants_colour(sys.stdout)


def _fail(sentence: str, error: PlatformError | ControlError) -> int:
    write_complaint(f"{sentence}: {os.strerror(error.errno)}\n")
    return 1


# --- as we do it ----------------------------------------------------------------------


def _show(which: str, print_them: Callable[[list[TunnelRecord], int], None]) -> int:
    names = client.list_interfaces()
    if which != "all":
        if which not in names:
            running = f"running: {', '.join(names)}" if names else "no tunnel is up"
            print_error(f"there is no tunnel {which}; {running}")
            return 1
        names = [which]
    tunnels = []
    for name in names:
        try:
            tunnels.append(client.get(name))
        except (PlatformError, ControlError) as error:
            sentence = str(error)
            print_error(sentence if name in sentence else f"{name}: {sentence}")
    if tunnels or not names:
        print_them(tunnels, int(time.time()))
    return 0 if len(tunnels) == len(names) else 1


def _print_json(tunnels: list[TunnelRecord], now: int) -> None:
    from nvpn.cli.record import format_json
    from nvpn.cli.status import ask_status

    status = {tunnel.name: ask_status(tunnel) for tunnel in tunnels}
    write_output(format_json(tunnels, now, up_since=_up_since(tunnels), status=status))


def _print_verbose(tunnels: list[TunnelRecord], now: int) -> None:
    _print_for_people(tunnels, now, verbose=True)


def _print_for_people(tunnels: list[TunnelRecord], now: int, *, verbose: bool = False) -> None:
    if not tunnels:
        write_output(
            "No tunnel is up. 'nvpn up FILE' brings one up, 'nvpn demo' shows one at work.\n"
        )
        return
    from nvpn.cli.status import ask_status

    for tunnel in tunnels:
        ask_status(tunnel)
    if any(len(tunnel.peers) > MOST_TABLE_PEERS for tunnel in tunnels):
        from nvpn.cli.rows import format_rows

        write_output(format_rows(tunnels, now))
    else:
        from nvpn.cli.table import print_tunnels

        print_tunnels(tunnels, now, up_since=_up_since(tunnels), verbose=verbose)


def _up_since(tunnels: list[TunnelRecord]) -> dict[str, int]:
    """Unix seconds at which each daemon made its socket: any daemon's, so nobody is asked."""
    since = {}
    for tunnel in tunnels:
        try:
            since[tunnel.name] = int(os.stat(socket_path(tunnel.name)).st_mtime)
        except OSError:
            pass  # it went down just now
    return since
