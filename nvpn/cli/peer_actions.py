"""A tunnel's file and the running tunnel, changed together or not at all."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nvpn.config.edit import ConfigFile, NewPeer
from nvpn.config.load import SEARCHED, SUFFIXES, find
from nvpn.config.model import HostPort, PeerConfig, TunnelConfig
from nvpn.control import client
from nvpn.control.records import TunnelRecord
from nvpn.errors import ConfigError, ConfigErrors, ControlError, NvpnError, PlatformError
from nvpn.model.interface_name import is_interface_name
from nvpn.model.keys import PublicKey

_RELOAD_SECONDS: Final = 60.0


def choose_file(tunnel: str | None, *, searched: tuple[Path, ...] = SEARCHED) -> Path:
    """The file that is meant; None is enough where there is only one.

    Raises:
        ConfigError: no such file, or more than one could be meant.
    """
    if tunnel is not None:
        return find(tunnel, searched=searched)
    names: dict[str, None] = {}
    for directory in searched:
        try:
            files = sorted(os.listdir(directory))
        except OSError:
            continue
        stems = (Path(file).stem for file in files if file.endswith(SUFFIXES))
        names.update({stem: None for stem in stems if is_interface_name(stem)})
    if len(names) == 1:
        return find(next(iter(names)), searched=searched)
    places = " and ".join(map(str, searched))
    if not names:
        raise ConfigError(f"there is no tunnel in {places}", hint="name its file: -i FILE")
    raise ConfigError(
        f"there are several tunnels in {places}: {', '.join(sorted(names))}",
        hint=f"say which: -i {min(names)}",
    )


def examined(file: ConfigFile) -> TunnelConfig:
    """What the file would say. Raises ConfigErrors."""
    examination = file.examine()
    if examination.config is None:
        raise ConfigErrors(examination.problems)
    return examination.config


def find_peer(config: TunnelConfig, name_or_key: str) -> PeerConfig:
    """By its name, its key, or at least eight first characters of that.

    Raises:
        ConfigError: nobody, or more than one.
    """
    named = [peer for peer in config.peers if peer.name == name_or_key]
    keyed = [
        peer
        for peer in config.peers
        if len(name_or_key) >= 8 and peer.public_key.base64.startswith(name_or_key)
    ]
    found = named or keyed
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{len(found)} peers are called so", file=str(config.path), hint="give the key"
        )
    see = f"see: nvpn peer list -i {config.path}"
    if config.server is not None:
        see += ", and for those that the server has admitted: nvpn client list"
    raise ConfigError("there is no such peer", file=str(config.path), hint=see)


def add(file: ConfigFile, peer: NewPeer) -> list[str]:
    """Add the peer to the file and, if it is up, to the tunnel. Sentences of warning.

    Raises:
        NvpnError: the file would have mistakes, or the tunnel refused; nothing has changed.
    """
    file.add_peer(peer)
    return _commit(file, peer.public_key, lambda: _lines_to_add(peer), should_be_there=True)


def remove(file: ConfigFile, key: PublicKey) -> list[str]:
    """The opposite of :func:`add`."""
    file.remove_peer(key)
    lines = [f"public_key={key.hex}", "remove=true"]
    return _commit(file, key, lambda: lines, should_be_there=False)


def find_running(name: str) -> TunnelRecord | None:
    """The tunnel of that name, if it is up and we may look."""
    try:
        return client.get(name) if name in client.list_interfaces() else None
    except NvpnError:
        return None


def _commit(
    file: ConfigFile, key: PublicKey, lines: Callable[[], list[str]], *, should_be_there: bool
) -> list[str]:
    name = examined(file).name
    put_back = file.write()
    try:
        if name not in client.list_interfaces():
            return []
        warnings = _tell(name, lines)
        peers = {peer.public_key for peer in client.get(name).peers}
        if (key.base64 in peers) != should_be_there:
            raise PlatformError(
                f"change the running {name}",
                hint=f"it was started from another file than {file.path}; name that one",
            )
    except BaseException:
        put_back()
        raise
    return warnings


def _tell(name: str, lines: Callable[[], list[str]]) -> list[str]:
    """Have the file read again; whoever runs without one is told what changes."""
    try:
        answer = client.request(name, "nvpn_reload", timeout=_RELOAD_SECONDS)
    except (ControlError, PlatformError) as error:
        if not _has_no_file(error):
            raise
    else:
        return client.messages(answer)
    client.request(name, "set", lines())
    return [f"{name} was not started by nvpn from a file, so that no routes have changed"]


def _has_no_file(error: ControlError | PlatformError) -> bool:
    """Another program's daemon, the kernel's interface, or ours as a bare device."""
    return error.errno in (errno.EPROTO, errno.ENODEV) or (
        error.errno == errno.EINVAL and "not started from a file" in str(error)
    )


def _lines_to_add(peer: NewPeer) -> list[str]:
    lines = [f"public_key={peer.public_key.hex}", "replace_allowed_ips=true"]
    if peer.preshared_key is not None:
        lines.append(f"preshared_key={peer.preshared_key.reveal_hex()}")
    if peer.endpoint is not None:
        lines.append(f"endpoint={_resolve(peer.endpoint)}")
    if peer.persistent_keepalive:
        lines.append(f"persistent_keepalive_interval={peer.persistent_keepalive}")
    return [*lines, *(f"allowed_ip={prefix}" for prefix in peer.allowed_ips)]


def _resolve(endpoint: HostPort) -> str:
    """Its address now: who runs without a file looks up no names. Raises NvpnError."""
    from nvpn.control.wg_endpoint import resolve_endpoint

    return resolve_endpoint(str(endpoint), retries=0, sleep=time.sleep, tell=lambda _: None)
