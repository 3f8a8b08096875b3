"""``nvpn set``: change a running interface, as `wg set` does."""

from __future__ import annotations

import argparse

from nvpn.cli import as_wg
from nvpn.control.wg_config import parse_set_arguments
from nvpn.control.wg_words import WgError

_HELP = """INTERFACE
       [listen-port PORT] [fwmark MARK] [private-key FILE]
       [peer KEY [remove] [preshared-key FILE] [endpoint HOST:PORT]
                 [persistent-keepalive SECONDS]
                 [allowed-ips [+|-]ADDRESS/BITS,...]]..."""

USAGE = (
    "<interface> [listen-port <port>] [fwmark <mark>] [private-key <file path>]"
    " [peer <base64 public key> [remove] [preshared-key <file path>] [endpoint <ip>:<port>]"
    " [persistent-keepalive <interval seconds>]"
    " [allowed-ips [+|-]<ip1>/<cidr1>[,[+|-]<ip2>/<cidr2>]...] ]..."
)
"""wg's line about it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INTERFACE and wg's words."""
    as_wg.add_words(parser, _HELP)


def run(args: argparse.Namespace) -> int:
    """0 once it is done; otherwise 1, and wg's sentence says why."""
    words: list[str] = args.words
    if len(words) < 2:
        return as_wg.complain_about_usage("set", USAGE)
    try:
        lines = parse_set_arguments(
            words[1:], read_key=as_wg.read_key, resolve=as_wg.resolve, warn=as_wg.warn
        )
    except WgError as error:
        return as_wg.complain(str(error))
    return as_wg.change(words[0], lines)
