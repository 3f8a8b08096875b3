"""``nvpn invite``: let somebody become the server's client."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from nvpn.cli.output import write_complaint, write_output
from nvpn.cli.server_choice import add_interface_argument, ask_server, choose_server
from nvpn.errors import NvpnError, PlatformError

if TYPE_CHECKING:
    from nvpn.cli.secrets import SecretFile

_LONGEST = 10 * 366 * 86_400
"""Seconds, as the server has it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, -i, --expires, --uses, --endpoint, --qr, -o."""
    parser.add_argument("name", metavar="NAME", help="What to call the client")
    add_interface_argument(parser)
    parser.add_argument(
        "--expires",
        type=_seconds,
        metavar="TIME",
        help="How long it is good: 90s, 15m, 12h, 1d, 2w; by default as the server's file says",
    )
    parser.add_argument(
        "--uses",
        type=_count,
        default=1,
        metavar="N",
        help="How many clients may join by it; more than one are called NAME, NAME-2 …",
    )
    parser.add_argument(
        "--endpoint",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="Where the client finds the server, instead of what its file says; again for more",
    )
    parser.add_argument("--qr", action="store_true", help="Show it as a QR code as well")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="Write it to a new file that only you can read, instead of standard output",
    )


def run(args: argparse.Namespace) -> int:
    """0 once the invitation is printed. Raises NvpnError."""
    from nvpn.cli.paint import is_terminal
    from nvpn.cli.secrets import SecretFile

    if args.qr and not is_terminal(sys.stdout):
        raise PlatformError("show a QR code", hint="standard output is no terminal")
    interface = choose_server(args.interface)
    with contextlib.ExitStack() as stack:
        file = None
        if args.output not in (None, "-"):
            file = stack.enter_context(SecretFile(args.output, what="invitation"))
        told = _invite(interface, args)
        try:
            _hand_over(told["text"], file, as_code=args.qr)
        except BaseException:
            # Nobody has it, and its name is to be free for the next try.
            with contextlib.suppress(NvpnError):
                ask_server(interface, "nvpn_invitation_revoke", invitation=told["public_key"])
            raise
    write_complaint(_explain(told))
    return 0


def _invite(interface: str, args: argparse.Namespace) -> dict[str, Any]:
    asked: dict[str, str | int | list[str]] = {"name": args.name, "uses": args.uses}
    if args.expires is not None:
        asked["expires"] = args.expires
    if args.endpoint:
        from nvpn.cli.endpoint_option import read_endpoint
        from nvpn.control import client

        asked["endpoint"] = [
            str(read_endpoint(text, lambda: client.get(interface).listen_port))
            for text in args.endpoint
        ]
    return ask_server(interface, "nvpn_invite", **asked)


def _hand_over(text: str, file: SecretFile | None, *, as_code: bool) -> None:
    if as_code:
        from nvpn.cli import qr
        from nvpn.cli.paint import wants_colour

        write_output(qr.draw_on_terminal(qr.make_code(text), colour=wants_colour(sys.stdout)))
    if file is not None:
        file.fill(f"{text}\n".encode())
        return
    from nvpn.cli.secrets import hand_over

    hand_over(text, None)


def _explain(told: dict[str, Any]) -> str:
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(told["expires_at"]))
    uses = "once" if told["uses"] == 1 else f"for {told['uses']} clients"
    return (
        f"good {uses}, until {until}; on the client: nvpn join INVITATION\n"
        "Whoever has it may join: send it as you would a password.\n"
    )


def _seconds(text: str) -> int:
    from nvpn.config.durations import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not seconds:
        raise argparse.ArgumentTypeError("expected a time that is not over at once")
    if seconds > _LONGEST:
        raise argparse.ArgumentTypeError("expected a time of at most ten years")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 1_000):
        raise argparse.ArgumentTypeError("expected a number from 1 to 1000")
    return int(text)
