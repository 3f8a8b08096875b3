"""Writes the state of a running tunnel back into its file.

A ``.conf`` file becomes what ``wg-quick save`` makes of it, byte for byte, except that
comments stay. In a TOML file only that is touched which differs. What was leased is in
neither: it is somebody else's to give, for a while.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nvpn.config.comments import weave_comments
from nvpn.config.edit import EditedFiles, NewPeer
from nvpn.config.edit_toml import Change, EditedToml, Value
from nvpn.config.load import Examination, examine
from nvpn.config.model import HostPort, PeerConfig, TunnelConfig
from nvpn.config.strip import interface_lines, peer_lines
from nvpn.config.writing import replace_files
from nvpn.errors import ConfigErrors, PlatformError
from nvpn.model.changes import Owner
from nvpn.model.keys import PublicKey
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import Interface, Prefix, format_address
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot

_LINK_LOCAL = Prefix.parse("fe80::/10")


@dataclass(frozen=True, slots=True)
class Running:
    """A tunnel now, and its interface. ``mtu`` is in bytes. The keys stay the snapshot's.

    ``leased`` are addresses of the interface, 4 or 16 bytes, that are not the file's to give,
    and ``keepalives`` persistent keepalives of peers, in seconds.
    """

    snapshot: TunnelSnapshot
    addresses: tuple[Interface, ...]
    mtu: int
    dns: NameServers | None
    leased: frozenset[bytes] = frozenset()
    keepalives: Mapping[PublicKey, int] = field(default_factory=dict)

    def without_leases(self, config: TunnelConfig) -> Running:
        """What a file may say, whose addresses stay even if they are leased, too."""
        given = {address.address for address in config.interface.addresses}
        gone = self.leased - given
        peers = tuple(
            replace(
                peer,
                allowed_ips=_without(peer.allowed_ips, peer.leased),
                persistent_keepalive=_unless(
                    peer.persistent_keepalive, self.keepalives.get(peer.public_key)
                ),
            )
            for peer in self.snapshot.peers
            if peer.owner is Owner.CONFIG
        )
        return replace(
            self,
            snapshot=replace(self.snapshot, peers=peers),
            addresses=tuple(one for one in self.addresses if one.address not in gone),
        )


def save_running(config: TunnelConfig, running: Running) -> list[str]:
    """Write the running state into the configuration's file; sentences of warning. Blocks.

    What ``config`` says beyond that is taken from the file as it is now.

    Raises:
        ConfigErrors: the file has mistakes by now; it stays as it is.
        PlatformError: nothing was changed.
    """
    examination = examine(config.path)
    if examination.config is None:
        raise ConfigErrors(examination.problems)
    running, everything = running.without_leases(examination.config), running
    if config.path.suffix == ".toml":
        known = {peer.public_key for peer in config.peers}
        has_default = _has_default(everything.snapshot)
        return _TomlSaver(examination.config, running, known, has_default=has_default).save()
    _save_conf(examination.config, running)
    return []


def _save_conf(config: TunnelConfig, running: Running) -> None:
    try:
        old = config.path.read_bytes()
    except OSError as error:
        raise PlatformError(f"read {config.path}", errno=error.errno or 0) from None
    text = old.decode("utf-8-sig")
    lines = ["[Interface]", *_wg_quick_lines(config, running, text)]
    lines += list(interface_lines(running.snapshot))[1:]
    written = {peer.public_key: peer for peer in config.peers}
    for peer in running.snapshot.peers:
        before = written.get(peer.public_key)
        lines += ["", *_peer_lines(peer, before)]
    new = weave_comments(text, lines)
    replace_files({config.path: old}, {config.path: "".join(f"{x}\n" for x in new).encode()})


def _peer_lines(now: PeerSnapshot, before: PeerConfig | None) -> Iterator[str]:
    for line in peer_lines(now):
        # Of several endpoints the first stays the first, wherever the peer is now.
        is_choice = before and before.endpoint and (before.other_endpoints or before.server)
        if before and is_choice and line.startswith("Endpoint ="):
            yield f"Endpoint = {before.endpoint}"
        else:
            yield line


def _wg_quick_lines(config: TunnelConfig, running: Running, text: str) -> Iterator[str]:
    """What wg does not know, in the order in which wg-quick writes it."""
    interface = config.interface
    for address in _in_order(running.addresses, interface.addresses):
        yield f"Address = {address}"
    if running.dns is not None:
        yield from (f"DNS = {format_address(server)}" for server in running.dns.servers)
        yield from (f"DNS = {domain}" for domain in running.dns.search)
    if interface.mtu is not None:
        yield f"MTU = {running.mtu}"
    table = _written_table(text)
    if table:
        yield f"Table = {table}"
    if interface.save_config:
        yield "SaveConfig = true"
    yield from (f"PreUp = {command}" for command in interface.hooks.pre_up)
    yield from (f"PostUp = {command}" for command in interface.hooks.post_up)
    yield from (f"PreDown = {command}" for command in interface.hooks.pre_down)
    yield from (f"PostDown = {command}" for command in interface.hooks.post_down)


def _written_table(text: str) -> str:
    """As it is in the file: a name stays a name."""
    table = ""
    for line in text.split("\n"):
        key, _, value = line.partition("#")[0].partition("=")
        if key.strip().lower() == "table":
            table = value.strip()
    return table


def _in_order(now: Iterable[Interface], written: tuple[Interface, ...]) -> list[Interface]:
    """As ``ip address`` lists them, as far as the file's own order tells."""
    places = {address: place for place, address in enumerate(written)}
    return sorted(now, key=lambda one: (len(one.address), places.get(one, len(places)), one))


class _TomlSaver:
    def __init__(
        self,
        config: TunnelConfig,
        running: Running,
        known: set[PublicKey],
        *,
        has_default: bool,
    ) -> None:
        self._config = config
        self._has_default = has_default
        self._known = known
        self._running = running
        self._files = EditedFiles(config.path, EditedToml)
        self._warnings: list[str] = []
        self._changes: dict[Path, list[Change]] = {file: [] for file in self._files.files()}
        # Where things are written: peers, and keys of our own side.
        self._peers: dict[PublicKey, tuple[Path, int]] = {}
        self._keys: dict[str, Path] = {}
        self._peer_keys: dict[PublicKey, Container[str]] = {}
        for file in self._changes:
            self._look_into(file)

    def save(self) -> list[str]:
        self._save_interface()
        written = {peer.public_key: peer for peer in self._config.peers}
        new: list[NewPeer] = []
        names = {peer.name for peer in self._config.peers}
        for peer in self._running.snapshot.peers:
            before = written.pop(peer.public_key, None)
            if before is None:
                new.append(_new_peer(peer, "" if peer.name in names else peer.name))
            else:
                self._save_peer(peer, before)
        for key in [key for key in written if key not in self._known]:
            # Somebody has written it since; that it does not run says nothing.
            self._warnings.append(
                f"{self._peers[key][0]}: {written.pop(key).label} is not running yet, and stays"
            )
        for file, changes in self._changes.items():
            gone = [self._peers[key][1] for key in written if self._peers[key][0] == file]
            with self._files.changing(file) as edited:
                edited.set_all(changes)
                edited.remove_peers(gone)
                if file == self._config.path:
                    edited.add_peers(new)
        examination: Examination = self._files.examine()
        if examination.config is None:
            raise ConfigErrors(examination.problems)
        self._files.write()
        return self._warnings

    def _look_into(self, file: Path) -> None:
        edited = self._files.edit(file)
        for index, (key, peer) in enumerate(
            zip(edited.peers(), edited.peer_tables(), strict=True)
        ):
            self._peers[key] = file, index
            self._peer_keys[key] = peer
        for name in edited.get(("interface",)):
            self._keys[name] = file

    def _save_interface(self) -> None:
        interface, now = self._config.interface, self._running.snapshot
        if now.private_key != interface.private_key:
            key = now.private_key.reveal_base64() if now.private_key else None
            if "private_key_file" in self._keys:
                file = self._keys["private_key_file"]
                self._set("private_key_file", None)
                self._warn_about_file(file, "interface.private_key_file", "private_key", key)
            self._set("private_key", key)
        if now.listen_port != (interface.listen_port or 0):
            self._set("listen_port", now.listen_port)
        # A mark that nobody asked for was chosen for a default route, and will be again.
        is_chosen = not interface.fwmark and (interface.kill_switch or self._has_default)
        if now.fwmark != interface.fwmark and not is_chosen:
            self._set("fwmark", f"0x{now.fwmark:x}" if now.fwmark else None)
        if interface.mtu is not None and interface.mtu != self._running.mtu:
            self._set("mtu", self._running.mtu)
        here = [
            address
            for address in _in_order(self._running.addresses, interface.addresses)
            if address in interface.addresses or not _LINK_LOCAL.covers(address.prefix)
        ]
        if set(here) != set(interface.addresses):
            self._set("address", [str(address) for address in here] or None)

    def _save_peer(self, now: PeerSnapshot, before: PeerConfig) -> None:
        peer = now.public_key
        if now.preshared_key != before.preshared_key:
            key = now.preshared_key.reveal_base64() if now.preshared_key else None
            if "preshared_key_file" in self._peer_keys[peer]:
                what = f"preshared_key_file of {before.label}"
                self._set("preshared_key_file", None, peer)
                self._warn_about_file(self._peers[peer][0], what, "preshared_key", key)
            self._set("preshared_key", key, peer)
        if set(now.allowed_ips) != set(before.allowed_ips):
            self._set("allowed_ips", [str(prefix) for prefix in now.allowed_ips] or None, peer)
        if now.persistent_keepalive != (before.persistent_keepalive or 0):
            self._set("persistent_keepalive", now.persistent_keepalive or None, peer)
        # A name, or a choice of several, says more than the address that it led to; and a
        # server tells where else it is.
        is_fixed = before.endpoint is None or before.endpoint.is_literal
        is_fixed = is_fixed and not before.other_endpoints and not before.server
        if now.endpoint and is_fixed and str(now.endpoint) != str(before.endpoint):
            self._set("endpoint", str(now.endpoint), peer)

    def _warn_about_file(self, file: Path, what: str, key: str, value: str | None) -> None:
        self._warnings.append(
            f"{file}: {what} named a key that is not the running one;"
            f" {'none' if value is None else key} is written in its place"
        )

    def _set(self, key: str, value: Value | None, peer: PublicKey | None = None) -> None:
        if peer is not None:
            file, index = self._peers[peer]
            self._changes[file].append(Change(("peer", index), key, value))
        else:
            file = self._keys.get(key, self._config.path)
            self._changes[file].append(Change(("interface",), key, value))


def _has_default(snapshot: TunnelSnapshot) -> bool:
    return any(prefix.is_default for peer in snapshot.peers for prefix in peer.allowed_ips)


def _unless(seconds: int, leased: int | None) -> int:
    return 0 if seconds == leased else seconds


def _without(prefixes: tuple[Prefix, ...], leased: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
    return tuple(prefix for prefix in prefixes if prefix not in leased)


def _new_peer(peer: PeerSnapshot, name: str) -> NewPeer:
    endpoint = None
    if peer.endpoint is not None and peer.endpoint.address:
        host, _, port = str(peer.endpoint).rpartition(":")
        endpoint = HostPort(host.strip("[]"), int(port))
    return NewPeer(
        name,
        peer.public_key,
        peer.preshared_key,
        endpoint,
        peer.allowed_ips,
        peer.persistent_keepalive,
    )
