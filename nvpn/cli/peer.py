"""``nvpn peer``: add, list and remove the peers of a tunnel's file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final, TypeVar

from nvpn.cli.usage import Parser
from nvpn.cli.verbs import Verb

_T = TypeVar("_T")

_ADD: Final = Verb(
    "add",
    __name__,
    "Add a peer, and print its own configuration",
    "Add a peer to the tunnel's file and to the tunnel, if it is up; when one refuses,\n"
    "both stay as they are. Without --public-key a key pair is made, and the peer's own\n"
    "configuration is printed: its private key is kept nowhere else.",
    (
        ("nvpn peer add phone --endpoint vpn.example.com --qr", "a code for the phone's app"),
        ("nvpn peer add phone --from-pool --qr", "the server gives it an address"),
        ("nvpn peer add laptop --psk -o laptop.conf", "a file with mode 0600"),
        ("nvpn peer add office --public-key KEY --allowed-ips 10.8.1.0/24", "its key is known"),
    ),
)
_LIST: Final = Verb(
    "list",
    __name__,
    "List the peers of a tunnel's file",
    "List the peers of a tunnel's file, and how long ago each was heard if it is up.",
    (("nvpn peer list --json", "for programs"),),
)
_REMOVE: Final = Verb(
    "rm",
    __name__,
    "Remove a peer from the file and the tunnel",
    "Remove a peer from the tunnel's file, with the comments above it, and from the\n"
    "tunnel, if it is up; when one refuses, both stay as they are.",
    (("nvpn peer rm phone", "by its name; its key will do, too"),),
)
_QR: Final = Verb(
    "qr",
    __name__,
    "Show a configuration as a QR code",
    "Show a configuration of either kind as a QR code, with what the WireGuard apps\n"
    "understand of it.",
    (("nvpn peer qr phone.conf", "to be scanned by the app"),),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """add, list, rm, qr."""
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, title="Actions", parser_class=_ActionParser
    )
    for verb, describe in (
        (_ADD, _describe_add),
        (_LIST, _describe_list),
        (_REMOVE, _describe_remove),
        (_QR, _describe_qr),
    ):
        describe(actions.add_parser(verb.name, help=verb.summary))


def run(args: argparse.Namespace) -> int:
    """0 once it is done.

    Raises:
        NvpnError: the file or the tunnel refused, and both are as before.
    """
    if args.action == "list":
        from nvpn.cli.peer_list import list_peers

        return list_peers(args)
    from nvpn.cli import peer_add

    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "add": peer_add.add_peer,
        "rm": peer_add.remove_peer,
        "qr": peer_add.show_qr,
    }
    return actions[args.action](args)


class _ActionParser(Parser):
    """The parser of an action, as argparse makes it: by the words before it."""

    def __init__(self, *, prog: str, **_: Any) -> None:
        verbs = {verb.name: verb for verb in (_ADD, _LIST, _REMOVE, _QR)}
        super().__init__(verbs[prog.split()[-1]], prog=prog)


# --- what each takes ------------------------------------------------------------------


def _describe_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="What to call it")
    _add_tunnel(parser)
    parser.add_argument(
        "--from-pool",
        action="store_true",
        help="A client of the server, for good: for a phone that has WireGuard but not nvpn",
    )
    parser.add_argument(
        "--public-key",
        type=_argument(_public_key),
        metavar="KEY",
        help="Its public key, when it has one already",
    )
    parser.add_argument(
        "--psk", action="store_true", help="Make a preshared key for the two of us as well"
    )
    parser.add_argument(
        "--allowed-ips",
        type=_argument(_prefixes),
        metavar="A[,B...]",
        help="Its addresses; by default the next free one of each network of the tunnel",
    )
    parser.add_argument(
        "--endpoint",
        metavar="HOST[:PORT]",
        help="Where the peer finds us; with --public-key, where we find the peer",
    )
    parser.add_argument(
        "--keepalive",
        type=_argument(_keepalive),
        default=0,
        metavar="SECONDS",
        help="Let who is behind a NAT be heard this often",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="All of the peer's traffic goes through the tunnel, not only its networks'",
    )
    parser.add_argument(
        "--dns",
        type=_argument(_name_servers),
        metavar="A[,B...]",
        help="The peer's name servers and search domains while its tunnel is up",
    )
    _add_pictures(parser, "The peer's configuration")
    parser.add_argument("--qr", action="store_true", help="Show it as a QR code")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="Write it to a new file that only you can read, instead of standard output",
    )


def _describe_list(parser: argparse.ArgumentParser) -> None:
    _add_tunnel(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON, without any secret")
    form.add_argument(
        "--names", action="store_true", help="Names alone, or keys of those that have none"
    )


def _describe_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("peer", metavar="NAME|KEY", help="Its name, or its public key")
    _add_tunnel(parser)


def _describe_qr(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE|-", help="A .conf or .toml file; - for standard input"
    )
    _add_pictures(parser, "The configuration")


def _add_tunnel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        "--interface",
        dest="tunnel",
        metavar="FILE|IF",
        help="Whose peer; needless with only one tunnel in /etc/nvpn and /etc/wireguard",
    )
    parser.add_argument("--tunnel", help=argparse.SUPPRESS)  # what it was called at first


def _add_pictures(parser: argparse.ArgumentParser, what: str) -> None:
    for kind in ("png", "svg"):
        parser.add_argument(
            f"--{kind}",
            metavar="FILE",
            help=f"{what} as a QR code, in a new {kind.upper()} that only you can read",
        )
    parser.add_argument(
        "--force",
        action="store_true",
        help="Show the code although standard output is no terminal",
    )


# --- words to values ------------------------------------------------------------------


def _argument(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """For argparse, which repeats what it was given unless it is told what to say."""

    def read(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") for word in part.split()]


def _public_key(text: str) -> Any:
    from nvpn.config.values import decode_key
    from nvpn.model.keys import PublicKey

    return PublicKey(decode_key(text))


def _prefixes(text: str) -> Any:
    from nvpn.config.values import parse_prefix

    prefixes = tuple(dict.fromkeys(parse_prefix(word) for word in _words(text)))
    if not prefixes:
        raise ValueError("expected prefixes like 10.0.0.2/32,fd00::2/128")
    return prefixes


def _name_servers(text: str) -> Any:
    from nvpn.config.values import is_server_word, parse_domain, parse_server
    from nvpn.model.name_servers import NameServers

    words = _words(text)
    if not words:
        raise ValueError("expected an address like 10.0.0.1, or a domain like example.com")
    return NameServers(
        tuple(parse_server(word) for word in words if is_server_word(word)),
        tuple(parse_domain(word) for word in words if not is_server_word(word)),
    )


def _keepalive(text: str) -> int:
    from nvpn.config.values import parse_keepalive

    return parse_keepalive(text)
