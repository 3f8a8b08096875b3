"""What wg(8) understands of a configuration, for ``wg setconf`` and its like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nvpn.config.files import read_config
from nvpn.config.findings import Findings
from nvpn.config.load import load
from nvpn.config.model import InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.errors import ConfigErrors
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot

_ONLY_WG_QUICK: Final = frozenset(
    ("address", "mtu", "dns", "table", "preup", "predown", "postup", "postdown", "saveconfig")
)
_SPACE: Final = " \t\n\v\f\r"


def strip_file(path: Path) -> str:
    """The text, keys that lie in files of their own included.

    A ``.conf`` file is not checked, as wg-quick does not check it: wg will.

    Raises:
        ConfigErrors: it cannot be read; or a TOML file has mistakes.
    """
    if path.suffix == ".toml":
        return format_for_wg(load(path))
    findings = Findings()
    source = read_config(path, findings)
    if source is None:
        raise ConfigErrors(findings.problems)
    return strip_conf(source.text)


def strip_conf(text: str) -> str:
    """A wg-quick file's text as ``wg-quick strip`` prints it, byte for byte."""
    kept: list[str] = []
    is_interface = False
    lines = text.split("\n")
    for line in lines[:-1] if not lines[-1].strip(" \t") else lines:
        line = line.strip(" \t")
        key = line.partition("#")[0].partition("=")[0].strip(_SPACE).lower()
        if key.startswith("["):
            is_interface = key == "[interface]"
        if not (is_interface and key in _ONLY_WG_QUICK):
            kept.append(line)
    # It collects lines with their ends, and echo adds one.
    return "".join(f"{line}\n" for line in kept) + "\n"


def format_for_wg(config: TunnelConfig) -> str:
    """A configuration as ``wg showconf`` would print it. Of several endpoints, the first."""
    sections = [list(interface_lines(config.interface)), *map(peer_lines, config.peers)]
    return "\n".join("".join(f"{line}\n" for line in lines) for lines in sections)


def interface_lines(interface: InterfaceConfig | TunnelSnapshot) -> Iterator[str]:
    """Our own side, header first, as wg writes it."""
    yield "[Interface]"
    if interface.listen_port:
        yield f"ListenPort = {interface.listen_port}"
    if interface.fwmark:
        yield f"FwMark = 0x{interface.fwmark:x}"
    if interface.private_key is not None:
        yield f"PrivateKey = {interface.private_key.reveal_base64()}"


def peer_lines(peer: PeerConfig | PeerSnapshot) -> Iterator[str]:
    """A peer, header first, as wg writes it."""
    yield "[Peer]"
    yield f"PublicKey = {peer.public_key.base64}"
    if peer.preshared_key is not None:
        yield f"PresharedKey = {peer.preshared_key.reveal_base64()}"
    if peer.allowed_ips:
        yield f"AllowedIPs = {', '.join(map(str, peer.allowed_ips))}"
    if peer.endpoint is not None:
        yield f"Endpoint = {peer.endpoint}"
    if peer.persistent_keepalive:
        yield f"PersistentKeepalive = {peer.persistent_keepalive}"
