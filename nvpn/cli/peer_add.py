"""``nvpn peer add``, ``rm`` and ``qr``: what is made for the other side, and where it goes.

Whatever can fail is done before anything is changed: the configuration is there, its code
is drawn and its files are made before the tunnel hears of the peer. After that only a
standard output that is gone can lose the key.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nvpn.cli import peer_actions, qr
from nvpn.cli.client_config import format_wgquick, free_address, guess_own_address, left_out
from nvpn.cli.endpoint_option import read_endpoint
from nvpn.cli.output import write_output
from nvpn.cli.paint import is_terminal, wants_colour
from nvpn.cli.secrets import SecretFile, hand_over
from nvpn.cli.usage import USAGE_ERROR, print_usage_error
from nvpn.config.edit import NewPeer, open_config
from nvpn.config.load import examine, find, load
from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.daemon.background import print_warning
from nvpn.errors import ConfigError, ConfigErrors, PlatformError
from nvpn.model.keys import KEY_LENGTH, PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Interface, Prefix

_MAX_INPUT: Final = 1 << 20
_EVERYTHING: Final = (Prefix(4, 0, 0), Prefix(6, 0, 0))
_TOML: Final = re.compile(r"^\s*(private_key|private_key_file)\s*=", re.MULTILINE)


def add_peer(args: argparse.Namespace) -> int:
    """``nvpn peer add``."""
    if args.from_pool:
        return _add_from_pool(args)
    if args.public_key is not None:
        return _add_known(args)
    file = open_config(peer_actions.choose_file(args.tunnel))
    config = peer_actions.examined(file)
    key = PrivateKey(os.urandom(KEY_LENGTH))
    psk = PresharedKey(os.urandom(KEY_LENGTH)) if args.psk else None
    try:
        allowed_ips = args.allowed_ips or _free_addresses(config)
        text = format_wgquick(_client(args, config, key, psk, allowed_ips))
        peer = NewPeer(args.name, key.public(), psk, None, allowed_ips)
        with _outputs(args, text) as outputs:
            warnings = peer_actions.add(file, peer)
            outputs.hand_over()
    finally:
        key.wipe()
        if psk is not None:
            psk.wipe()
    _warn(warnings)
    return 0


def remove_peer(args: argparse.Namespace) -> int:
    """``nvpn peer rm``."""
    file = open_config(peer_actions.choose_file(args.tunnel))
    peer = peer_actions.find_peer(peer_actions.examined(file), args.peer)
    _warn(peer_actions.remove(file, peer.public_key))
    return 0


def show_qr(args: argparse.Namespace) -> int:
    """``nvpn peer qr``."""
    config = _read_input() if args.file == "-" else load(find(args.file))
    if omitted := left_out(config):
        print_warning(f"not in the code, as the apps do not know it: {', '.join(omitted)}")
    args.qr, args.output = not (args.png or args.svg), None
    with _outputs(args, format_wgquick(config)) as outputs:
        outputs.hand_over()
    return 0


# --- a client without nvpn ----------------------------------------------------------------


def _add_from_pool(args: argparse.Namespace) -> int:
    """The server gives it addresses, and keeps what our file would."""
    from nvpn.cli import peer_from_pool

    if status := peer_from_pool.why_not(args):
        return status
    key = peer_from_pool.new_key()
    interface = ""
    try:
        interface, text = peer_from_pool.lease(args, key)
        with _outputs(args, text) as outputs:
            outputs.hand_over()
            interface = ""
    finally:
        if interface:
            peer_from_pool.give_back(interface, key)
        key.wipe()
    return 0


# --- a peer whose key is known ----------------------------------------------------------


def _add_known(args: argparse.Namespace) -> int:
    """Nothing but its public key is known, so there is no configuration to print."""
    needless = [
        f"--{option}"
        for option in ("qr", "png", "svg", "dns", "all", "force")
        if getattr(args, option)
    ]
    if args.output is not None and not args.psk:
        needless.append("--output")
    if needless:
        print_usage_error(
            f"{needless[0]} does not go with --public-key",
            tip="the peer's configuration can be printed only where its private key is made",
            command="nvpn peer add",
        )
        return USAGE_ERROR
    file = open_config(peer_actions.choose_file(args.tunnel))
    config = peer_actions.examined(file)
    endpoint = None if args.endpoint is None else read_endpoint(args.endpoint, lambda: None)
    psk = PresharedKey(os.urandom(KEY_LENGTH)) if args.psk else None
    peer = NewPeer(
        args.name,
        args.public_key,
        psk,
        endpoint,
        args.allowed_ips or _free_addresses(config),
        args.keepalive,
    )
    if psk is None:
        _warn(peer_actions.add(file, peer))
        return 0
    with contextlib.ExitStack() as stack:
        place = None
        if args.output not in (None, "-"):
            place = stack.enter_context(SecretFile(args.output, what="preshared key"))
        warnings = peer_actions.add(file, peer)
        if place is None:
            hand_over(psk.reveal_base64(), None)
        else:
            place.fill(f"{psk.reveal_base64()}\n".encode())
    _warn(warnings)
    return 0


# --- the other side ---------------------------------------------------------------------


def _client(
    args: argparse.Namespace,
    config: TunnelConfig,
    key: PrivateKey,
    psk: PresharedKey | None,
    allowed_ips: tuple[Prefix, ...],
) -> TunnelConfig:
    """The new peer's own configuration. Raises ConfigError: something is not known."""
    addresses = tuple(
        Interface(prefix.packed, prefix.length)
        for prefix in allowed_ips
        if prefix.length == prefix.bits
    )
    if not addresses:
        raise ConfigError(
            "none of the peer's prefixes is a single address",
            key="--allowed-ips",
            hint="give it one for itself, such as 10.8.0.7/32",
        )
    networks = tuple(dict.fromkeys(address.prefix for address in config.interface.addresses))
    us = PeerConfig(
        _public_key(config),
        preshared_key=psk,
        endpoint=_own_endpoint(args.endpoint, config),
        allowed_ips=_EVERYTHING if args.all else networks,
        persistent_keepalive=args.keepalive,
    )
    if not us.allowed_ips:
        raise ConfigError(
            "the tunnel has no address, so there is no network to reach",
            file=str(config.path),
            hint="give the interface one, or lead everything through it: --all",
        )
    interface = InterfaceConfig(private_key=key, addresses=addresses, dns=args.dns)
    return TunnelConfig(config.name, config.path, interface, (us,))


def _free_addresses(config: TunnelConfig) -> tuple[Prefix, ...]:
    """The next of each network of ours that nobody has by the file, or by lease."""
    taken = [prefix for peer in config.peers for prefix in peer.allowed_ips]
    running = None if config.server is None else peer_actions.find_running(config.name)
    if running is not None:  # what it has leased
        taken += [Prefix.parse(text) for peer in running.peers for text in peer.allowed_ips]
    taken += [
        Prefix.of(address.address, len(address.address) * 8)
        for address in config.interface.addresses
    ]
    found = []
    for network in config.interface.addresses:
        if network.length == len(network.address) * 8:
            continue  # no network: only we are in it
        free = free_address(network, taken)
        if free is None:
            raise ConfigError(
                f"there is no free address in {network.prefix}",
                file=str(config.path),
                hint="name one: --allowed-ips ADDRESS",
            )
        taken.append(free)
        found.append(free)
    if not found:
        raise ConfigError(
            "the tunnel has no network to take an address from",
            file=str(config.path),
            hint="name one: --allowed-ips ADDRESS",
        )
    return tuple(found)


def _public_key(config: TunnelConfig) -> PublicKey:
    if config.interface.private_key is not None:
        return config.interface.private_key.public()
    running = peer_actions.find_running(config.name)
    if running is None or not running.public_key:
        raise ConfigError(
            "no private key is given, so our public key is not known",
            file=str(config.path),
            hint=f"bring the tunnel up first: nvpn up {config.path}",
        )
    return PublicKey.from_base64(running.public_key)


def _own_endpoint(given: str | None, config: TunnelConfig) -> HostPort:
    port = config.interface.listen_port
    if not port:
        running = peer_actions.find_running(config.name)
        port = None if running is None else running.listen_port or None
    if given is not None:
        return read_endpoint(given, lambda: port)
    if config.server is not None and config.server.endpoints:
        return config.server.endpoints[0]
    host = guess_own_address()
    if host and port:
        place = HostPort(host, port)
        print_warning(f"the peer will look for us at {place}; for another place: --endpoint")
        return place
    raise ConfigError(
        "where the peer finds us is not known" if port else "our port is not known",
        file=str(config.path),
        hint="say where: --endpoint HOST:PORT",
    )


# --- where it goes ----------------------------------------------------------------------


@dataclass
class _Outputs:
    """All that is to be written, with its place."""

    text: str
    drawn: str | None
    files: list[tuple[SecretFile, bytes]]
    to_output: bool

    def hand_over(self) -> None:
        for file, content in self.files:
            file.fill(content)
        if self.drawn is not None:
            print_warning("the code holds a private key: let nobody else see it")
            write_output(self.drawn)
        if self.to_output:
            hand_over(self.text, None)


@contextlib.contextmanager
def _outputs(args: argparse.Namespace, text: str) -> Iterator[_Outputs]:
    """Everything drawn and every file made. Raises PlatformError."""
    wants_code = args.qr or args.png or args.svg
    code: Any = qr.make_code(text) if wants_code else None
    if args.qr and not args.force and not is_terminal(sys.stdout):
        raise PlatformError(
            "show a QR code",
            hint="standard output is no terminal; take --png FILE, or --force",
        )
    with contextlib.ExitStack() as stack:
        files = []
        for kind in ("png", "svg"):
            path = getattr(args, kind)
            if path is not None:
                place = stack.enter_context(SecretFile(path, what="code"))
                files.append((place, qr.draw_picture(code, kind)))
        if args.output not in (None, "-"):
            place = stack.enter_context(SecretFile(args.output, what="configuration"))
            files.append((place, f"{text}\n".encode()))
        to_output = args.output == "-" or (args.output is None and not wants_code)
        colour = wants_colour(sys.stdout)
        drawn = qr.draw_on_terminal(code, colour=colour) if args.qr else None
        yield _Outputs(text, drawn, files, to_output)


def _read_input() -> TunnelConfig:
    """A configuration of either kind from standard input."""
    try:
        with open(0, "rb", closefd=False) as stdin:
            data = stdin.read(_MAX_INPUT)
    except OSError as error:
        raise PlatformError("read standard input", errno=error.errno or 0) from None
    suffix = "toml" if _TOML.search(data.decode(errors="replace")) else "conf"
    path = Path(f"stdin.{suffix}")
    examination = examine(path, written={path: data})
    if examination.config is None:
        raise ConfigErrors(examination.problems)
    return examination.config


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        print_warning(sentence)
