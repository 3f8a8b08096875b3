"""``nvpn check``: read configurations as ``up`` would, and tell every mistake in them."""

from __future__ import annotations

import argparse
import sys

from nvpn.cli.output import write_output
from nvpn.config.load import Examination, examine, find
from nvpn.config.model import TunnelConfig
from nvpn.datapath.choice import Choice, choose, explain_workers
from nvpn.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files."""
    parser.add_argument(
        "files",
        metavar="FILE|NAME",
        nargs="+",
        help="A .toml or wg-quick .conf file, or the name of one in /etc/nvpn or /etc/wireguard",
    )


def run(args: argparse.Namespace) -> int:
    """Mistakes and warnings to standard error, a line for each good file to standard output.

    Returns 1 if any file has a mistake, or asks for what is not there.
    """
    status = 0
    choices: dict[Choice, None] = {}
    for file in args.files:
        examination = _examine(file)
        for problem in examination.problems:
            print(problem, file=sys.stderr)
        for warning in examination.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        choice = _choose(examination.config)
        if examination.config is None or choice is None:
            status = 1
        else:
            config = examination.config
            unmet = explain_workers(choice, config.interface.workers, file=str(config.path))
            if unmet:
                print(f"warning: {unmet}", file=sys.stderr)
            sys.stderr.flush()
            write_output(f"{_summary(config)}, {choice.name} datapath\n")
            choices[choice] = None
    for choice in choices:
        if choice.why:
            write_output(f"datapath {choice}\n")
    return status


def _examine(file: str) -> Examination:
    try:
        return examine(find(file))
    except ConfigError as error:
        return Examination(None, (error,), ())


def _choose(config: TunnelConfig | None) -> Choice | None:
    """The datapath that ``up`` would use here."""
    if config is None:
        return None
    try:
        return choose(config.interface.datapath, file=str(config.path))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None


def _summary(config: TunnelConfig) -> str:
    addresses = ", ".join(str(address) for address in config.interface.addresses)
    peers = "1 peer" if len(config.peers) == 1 else f"{len(config.peers)} peers"
    # A path may hold bytes that are no text; standard output is strict about that.
    path = str(config.path).encode(errors="backslashreplace").decode()
    return f"{path}: good: interface {config.name}, {addresses or 'no address'}, {peers}"
