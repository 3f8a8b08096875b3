"""``nvpn client``: list, revoke and rename those whom the server has admitted."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any, Final

from nvpn.cli.aligned import align
from nvpn.cli.health import clean, short_duration
from nvpn.cli.output import write_complaint, write_output
from nvpn.cli.server_choice import add_interface_argument, ask_server, choose_server
from nvpn.cli.usage import Parser
from nvpn.cli.verbs import Verb
from nvpn.errors import ConfigError

_LIST: Final = Verb(
    "list",
    __name__,
    "List the server's clients and open invitations",
    "List the clients of a server, with their addresses and when they were heard, and the\n"
    "invitations by which others may still come.",
    (("nvpn client list --json", "for programs"),),
)
_REVOKE: Final = Verb(
    "revoke",
    __name__,
    "Let a client in no more, or end an invitation",
    "Forget a client: it is cut off at once, its addresses are free again, and its key is\n"
    "refused from now on. Or end an invitation that nobody is to use any more.",
    (("nvpn client revoke laptop", "by its name; its key will do, too"),),
)
_RENAME: Final = Verb(
    "rename",
    __name__,
    "Call a client something else",
    "Give a client another name. Its key, its addresses and its session stay.",
    (("nvpn client rename laptop old-laptop", ""),),
)
_VERBS: Final = {verb.name: verb for verb in (_LIST, _REVOKE, _RENAME)}
_FEWEST_CHARACTERS: Final = 8
"""Of a key, to stand for it."""

_CLIENT_HEADINGS: Final = ("CLIENT", "ADDRESSES", "LEASE", "HANDSHAKE", "STATE", "KEY")
_INVITATION_HEADINGS: Final = ("INVITATION", "LEFT", "USES", "STATE", "KEY")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """list, revoke, rename."""
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, title="Actions", parser_class=_ActionParser
    )
    listing = actions.add_parser(_LIST.name, help=_LIST.summary)
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON, without any secret")
    form.add_argument(
        "--names", action="store_true", help="Names of clients alone, or keys without a name"
    )
    revoking = actions.add_parser(_REVOKE.name, help=_REVOKE.summary)
    revoking.add_argument("client", metavar="NAME|KEY", help="Its name, or its public key")
    renaming = actions.add_parser(_RENAME.name, help=_RENAME.summary)
    renaming.add_argument("client", metavar="NAME|KEY", help="Its name, or its public key")
    renaming.add_argument("name", metavar="NEW", help="What to call it from now on")
    for action in (listing, revoking, renaming):
        add_interface_argument(action)


def run(args: argparse.Namespace) -> int:
    """0 once it is done. Raises NvpnError."""
    interface = choose_server(args.interface)
    if args.action == "list":
        _list(interface, as_json=args.json, names_alone=args.names)
    elif args.action == "revoke":
        _revoke(interface, args.client)
    else:
        _rename(interface, args.client, args.name)
    return 0


class _ActionParser(Parser):
    """The parser of an action, as argparse makes it: by the words before it."""

    def __init__(self, *, prog: str, **_: Any) -> None:
        super().__init__(_VERBS[prog.split()[-1]], prog=prog)


# --- what is done -----------------------------------------------------------------------


def _list(interface: str, *, as_json: bool, names_alone: bool) -> None:
    told = ask_server(interface, "nvpn_clients")
    if as_json:
        write_output(json.dumps({"interface": interface, **told}, indent=2) + "\n")
        return
    if names_alone:
        names = (clean(one["name"]) or one["public_key"] for one in told["clients"])
        write_output("".join(f"{name}\n" for name in names))
        return
    now = int(time.time())
    clients = [_client_row(one, now) for one in told["clients"]]
    open_ones = [one for one in told["invitations"] if one["state"] == "open"]
    text = (
        _table(_CLIENT_HEADINGS, clients)
        if clients
        else f"{interface} has no clients yet. 'nvpn invite NAME' lets one come.\n"
    )
    if open_ones:
        rows = [_invitation_row(one, now) for one in open_ones]
        text += "\n" + _table(_INVITATION_HEADINGS, rows)
    write_output(text)


def _revoke(interface: str, name_or_key: str) -> None:
    """A client, and invitations of the same name: it could come back by them."""
    told = ask_server(interface, "nvpn_clients")
    clients = _matching(told["clients"], name_or_key)
    invitations = [
        one for one in _matching(told["invitations"], name_or_key) if one["state"] == "open"
    ]
    if len(clients) > 1 or (not clients and len(invitations) > 1):
        raise ConfigError("more than one is called so", hint="give the whole key")
    if not clients and not invitations:
        raise _nobody()
    for one in clients:
        gone = ask_server(interface, "nvpn_client_revoke", client=one["public_key"])
        write_complaint(f"the client {clean(gone['name'])} is revoked\n")
        way_back = gone.get("way_back")
        if way_back and all(way_back["public_key"] != one["public_key"] for one in invitations):
            write_complaint(
                f"it came by the invitation {clean(way_back['name'])}, which is still open, so"
                " that it could come back; revoke that, too:"
                f" nvpn client revoke {way_back['public_key']}\n"
            )
    for one in invitations:
        ask_server(interface, "nvpn_invitation_revoke", invitation=one["public_key"])
        write_complaint(f"the invitation {clean(one['name'])} is revoked\n")


def _rename(interface: str, name_or_key: str, new: str) -> None:
    if not new:
        raise ConfigError("the new name is empty", hint="give it one")
    clients = _matching(ask_server(interface, "nvpn_clients")["clients"], name_or_key)
    if len(clients) > 1:
        raise ConfigError("more than one is called so", hint="give the whole key")
    if not clients:
        raise _nobody()
    ask_server(interface, "nvpn_client_rename", old=clients[0]["public_key"], new=new)


def _matching(found: Sequence[dict[str, Any]], name_or_key: str) -> list[dict[str, Any]]:
    """By its name, its key, or at least eight first characters of that."""
    named = [one for one in found if one["name"] == name_or_key]
    if named or len(name_or_key) < _FEWEST_CHARACTERS:
        return named
    return [one for one in found if one["public_key"].startswith(name_or_key)]


def _nobody() -> ConfigError:
    return ConfigError("there is no such client or open invitation", hint="see: nvpn client list")


# --- how it looks -----------------------------------------------------------------------


def _client_row(one: dict[str, Any], now: int) -> tuple[str, ...]:
    return (
        clean(one["name"]) or "-",
        " ".join(one["addresses"]) or "-",
        _lease(one),
        _ago(one["latest_handshake"] or one["last_seen"], now),
        _state(one),
        one["public_key"],
    )


def _state(one: dict[str, Any]) -> str:
    """A session outlives a client that has left, and a lease does not. Who cannot ask for one
    is not only away when it has none.
    """
    if one["origin"] == "static" and not one["is_leased"]:
        return "no address"
    if not one["is_connected"]:
        return "away"
    return "connected" if one["is_leased"] else "no lease"


def _invitation_row(one: dict[str, Any], now: int) -> tuple[str, ...]:
    return (
        clean(one["name"]),
        short_duration(one["expires_at"] - now),
        f"{one['uses_left']} of {one['uses']}",
        one["state"],
        one["public_key"],
    )


def _lease(one: dict[str, Any]) -> str:
    if not one["is_leased"]:
        return "-"
    seconds = one["lease_seconds"]
    return "for good" if seconds is None else short_duration(seconds)


def _ago(seconds: int | None, now: int) -> str:
    return f"{short_duration(now - seconds)} ago" if seconds else "never"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "".join(f"{line}\n" for line in align([headings, *rows]))
