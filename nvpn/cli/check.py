"""``nvpn check``: read configurations as ``up`` would, and tell every mistake in them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NamedTuple

from nvpn.cli.output import write_output
from nvpn.config.load import Examination, examine, find
from nvpn.config.model import BackendWish, StoreKind, TunnelConfig
from nvpn.daemon.carrier import choose_backend
from nvpn.datapath.choice import choose, explain_workers
from nvpn.errors import ConfigError, PlatformError


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
    reasons: dict[str, None] = {}
    for file in args.files:
        examination = _examine(file)
        for problem in examination.problems:
            print(problem, file=sys.stderr)
        for warning in examination.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        carrier = _choose(examination.config)
        if examination.config is None or carrier is None or not _has_store(examination.config):
            status = 1
        else:
            sys.stderr.flush()
            write_output(f"{_summary(examination.config)}, {carrier.name}\n")
            reasons.update(dict.fromkeys(carrier.reasons))
    for reason in reasons:
        write_output(f"{reason}\n")
    return status


class _Carrier(NamedTuple):
    """What would carry a tunnel here, and why it is that, in sentences."""

    name: str
    reasons: list[str]


def _examine(file: str) -> Examination:
    try:
        return examine(find(file))
    except ConfigError as error:
        return Examination(None, (error,), ())


def _choose(config: TunnelConfig | None) -> _Carrier | None:
    """What ``up`` would use here; None, with a sentence, if it would refuse."""
    if config is None:
        return None
    reasons: list[str] = []
    try:
        backend, why = choose_backend(config)
    except PlatformError as error:
        if os.geteuid() == 0:
            print(error, file=sys.stderr)
            return None
        # Only root can ask the kernel for sure.
        print(f"warning: {error}", file=sys.stderr)
        return _Carrier("kernel backend", reasons)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None
    if why:
        reasons.append(f"backend {backend.value}: {why}")
    if backend is BackendWish.KERNEL:
        return _Carrier("kernel backend", reasons)
    try:
        choice = choose(config.interface.datapath, file=str(config.path))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None
    unmet = explain_workers(choice, config.interface.workers, file=str(config.path))
    if unmet:
        print(f"warning: {unmet}", file=sys.stderr)
    if choice.why:
        reasons.append(f"datapath {choice}")
    return _Carrier(f"{choice.name} datapath", reasons)


def _has_store(config: TunnelConfig) -> bool:
    """Whether what keeps a server's leases can be used at all; a sentence if not."""
    if config.server is None or config.server.store.kind is not StoreKind.ETCD:
        return True
    # Loads what most tunnels do not need.
    from nvpn.daemon.server.stores import make_store
    from nvpn.resilience.registry import Breakers

    try:
        make_store(config.name, config.server.store, Breakers())
    except PlatformError as error:
        print(f"{config.path}: server.store: {error}", file=sys.stderr)
        return False
    return True


def _summary(config: TunnelConfig) -> str:
    addresses = ", ".join(str(address) for address in config.interface.addresses)
    if not addresses and any(peer.server for peer in config.peers):
        addresses = "an address by lease"
    peers = "1 peer" if len(config.peers) == 1 else f"{len(config.peers)} peers"
    # A path may hold bytes that are no text; standard output is strict about that.
    path = str(config.path).encode(errors="backslashreplace").decode()
    pools = config.server.pools if config.server is not None else ()
    leases = f", leases of {', '.join(map(str, pools))}" if pools else ""
    return f"{path}: good: interface {config.name}, {addresses or 'no address'}, {peers}{leases}"
