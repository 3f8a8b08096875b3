"""From what people say about ports to the rules of the datapath's filter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from nvpn.datapath.commands import PeerId, Rule, SetFilter
from nvpn.model.keys import PublicKey
from nvpn.model.ports import PortPolicy, PortSpec

_EVERYTHING: Final = SetFilter(None)


def compile_filter(interface: PortPolicy, peers: Mapping[PeerId, PortPolicy]) -> SetFilter:
    """The rules for all peers, of whom some have a policy of their own.

    A policy of a peer's own holds instead of the interface's. What is disallowed is so even
    where it is allowed; where something is allowed, the rest is not.
    """
    own = {peer: policy for peer, policy in peers.items() if policy.is_given}
    if not interface.is_given and not own:
        return _EVERYTHING
    rules: list[Rule] = []
    for peer, policy in own.items():
        rules += _rules(policy, peer)
        rules.append(Rule(accept=policy.allowed is None, peer=peer))
    rules += _rules(interface, None)
    return SetFilter(tuple(rules), otherwise=interface.allowed is None, remember=True)


def _rules(policy: PortPolicy, peer: PeerId | None) -> Iterator[Rule]:
    for accept, specs in (False, policy.disallowed or ()), (True, policy.allowed or ()):
        for spec in specs:
            yield from _rules_of(spec, accept, peer)


def _rules_of(spec: PortSpec, accept: bool, peer: PeerId | None) -> Iterator[Rule]:
    for protocol in spec.protocols:
        yield Rule(accept, peer, protocol=protocol, destination_ports=spec.ports)


class PortPolicies:
    """What is said about ports, and the command that puts it in force.

    Policies are by key and rules by the datapath's name for a peer, so that rules change
    with the peers, too.

    Args:
        name_of: a peer's name now; None for an unknown one.
    """

    def __init__(self, name_of: Callable[[PublicKey], PeerId | None]) -> None:
        self._name_of: Final = name_of
        self._interface = PortPolicy()
        self._peers: dict[PublicKey, PortPolicy] = {}
        self._names: dict[PublicKey, PeerId | None] = {}
        self._given = _EVERYTHING
        self._changed = False

    def change(self, interface: PortPolicy, peers: Mapping[PublicKey, PortPolicy]) -> None:
        """These hold from now on. Peers may be named that are still to come."""
        self._interface = interface
        self._peers = {peer: policy for peer, policy in peers.items() if policy.is_given}
        self._changed = True

    def commands(self) -> tuple[SetFilter, ...]:
        """What the datapath has to be told, now that peers or policies may have changed."""
        names = {peer: self._name_of(peer) for peer in self._peers}
        if not self._changed and names == self._names:
            return ()
        self._changed = False
        self._names = names
        known = {name: self._peers[peer] for peer, name in names.items() if name is not None}
        command = compile_filter(self._interface, known)
        if command == self._given:
            return ()
        self._given = command
        return (command,)
