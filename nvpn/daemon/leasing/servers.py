"""The other servers that a server names: as far as a client can use them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from nvpn.channel.messages import OtherServer
from nvpn.config.model import HostPort
from nvpn.config.values import check_name, parse_endpoint
from nvpn.daemon.leasing.hosts import is_for_hosts
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix


@dataclass(frozen=True, slots=True)
class FurtherServer:
    """``name`` is what it calls itself; empty if no peer can be called so. ``endpoints`` are
    never empty.
    """

    public_key: PublicKey
    name: str
    endpoints: tuple[HostPort, ...]


def take_servers(
    told: Iterable[OtherServer], known: Collection[PublicKey | None]
) -> tuple[FurtherServer, ...]:
    """Those that can be reached, each once.

    Args:
        known: keys that are none of another server: our own, and those of our peers.
    """
    taken: dict[PublicKey, FurtherServer] = {}
    for one in told:
        places = tuple(dict.fromkeys(_places(one.endpoints)))
        if places and one.public_key not in known:
            taken.setdefault(
                one.public_key, FurtherServer(one.public_key, usable_name(one.name), places)
            )
    return tuple(taken.values())


def merge_servers(
    before: Iterable[FurtherServer], told: Iterable[FurtherServer], speaking: PublicKey
) -> tuple[FurtherServer, ...]:
    """What is told now, in the order of before: whom we ask next is not to depend on whom we
    asked.

    Args:
        speaking: tells of all but itself.
    """
    now = {one.public_key: one for one in told}
    known = [
        now.pop(one.public_key, one)
        for one in before
        if one.public_key in now or one.public_key == speaking
    ]
    return (*known, *now.values())


def usable_name(text: str) -> str:
    """As a peer may be called; empty if none may."""
    try:
        return check_name(text)
    except ValueError:
        return ""


def _places(texts: Iterable[str]) -> Iterable[HostPort]:
    for text in texts:
        try:
            place = parse_endpoint(text)
        except ValueError:
            continue
        address = place.address
        if address is None or is_for_hosts(Prefix.of(address, len(address) * 8)):
            yield place
