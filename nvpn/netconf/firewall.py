"""The firewall of a tunnel as text for ``nft -f -``: pure.

The guard keeps packets to the tunnel's addresses out that did not come through the tunnel:
who is in the same network as this host could otherwise find out that address, and whether
connections go through the tunnel (CVE-2019-14899). And it lets the answers to our outer
packets carry their mark, so that a check of the reverse path looks at the way they came.

The kill switch lets nothing leave the host but through the tunnel, or to the local network.
The table of a server that forwards lets its clients' connections fit into the tunnel, and the
clients go on to where nobody knows their addresses. The channel's
table keeps who has nothing but an address for that from everything else.

Each is one table that replaces its former self in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nvpn.model.prefixes import Prefix, format_address

_SHORTEST_LAN: Final = {4: 8, 6: 32}
"""Whoever gives out addresses here must not declare half of the Internet to be local."""


@dataclass(frozen=True, slots=True)
class GuardFacts:
    """``link_index`` and ``link_name`` are the tunnel's, ``addresses`` its own (4 or 16 bytes).

    ``marks`` are those of its outer packets: two of them while they change.
    """

    name: str
    link_index: int
    link_name: str
    addresses: tuple[bytes, ...]
    marks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SwitchFacts:
    """``marks`` are those of outer packets, ours and other tunnels'.

    ``lan`` are the networks that the host is connected to, those in tunnels left out.
    """

    name: str
    marks: tuple[int, ...]
    lan: frozenset[Prefix] = frozenset()


def guard_table(name: str) -> str:
    """What the guard's table is called, in the family inet."""
    return f"nvpn-{_escape(name)}"


def switch_table(name: str) -> str:
    """What the kill switch's table is called, in the family inet."""
    # No guard is called so: an interface's name has no slash.
    return f"nvpn-{_escape(name)}/switch"


def forwarding_table(name: str) -> str:
    """What the table of a host that forwards is called, in the family inet."""
    return f"nvpn-{_escape(name)}/forward"


def forwarding_rules(name: str, translated: Iterable[Prefix]) -> str:
    """TCP connections through the tunnel begin with segments that fit into it, and what comes
    from ``translated`` and leaves by another interface leaves as our own.

    ``name`` is the tunnel's interface: between its peers nothing is translated.
    """
    # The smaller of the routes there and back counts, and nft only ever lowers the figure.
    fit = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
    fits = [f'{way}ifname "{name}" {fit}' for way in ("i", "o")]
    masquerades = [
        f'{"ip" if source.version == 4 else "ip6"} saddr {source} oifname != "{name}" masquerade'
        for source in translated
    ]
    head = "type nat hook postrouting priority srcnat; policy accept;"
    return _replace(
        forwarding_table(name),
        _chain("forward", "forward", "mangle", "accept", fits),
        _block("chain postrouting", [head, *masquerades]) if masquerades else "",
    )


def guard_rules(facts: GuardFacts) -> str:
    """The guard. The interface is known by its index: names change."""
    drops = [
        f"iif != {facts.link_index} {_family(address)} daddr {format_address(address)}"
        " fib saddr type != local drop"
        for address in facts.addresses
    ]
    marks = _set(map(str, facts.marks))
    return _replace(
        guard_table(facts.name),
        _chain("preraw", "prerouting", "raw", "accept", drops),
        _chain(
            "premangle",
            "prerouting",
            "mangle",
            "accept",
            [f"meta l4proto udp ct mark {marks} meta mark set ct mark"],
        ),
        _chain(
            "postmangle",
            "postrouting",
            "mangle",
            "accept",
            [f"meta l4proto udp meta mark {marks} ct mark set meta mark"],
        ),
    )


def channel_table(name: str) -> str:
    """What the table is called that guards the control channel, in the family inet."""
    return f"nvpn-{_escape(name)}/channel"


def channel_rules(name: str, link_index: int, address: bytes, port: int, uid: int) -> str:
    """Of what comes through the tunnel, datagrams between these ports reach our link-local
    address, and nothing that is sent from a link-local address another one of this host.

    Link-local and multicast ones may have been given to peers for other purposes. Nobody on
    this host reaches that address, as a peer whose address he took, or speaks from it, but
    ``uid``.
    """
    here = format_address(address)
    inbound = [
        f'iif != {{ {link_index}, "lo" }} accept',
        f"iif {link_index} ip6 daddr {here} udp sport {port} udp dport {port} accept",
        f"ip6 daddr {here} drop",
        f"iif {link_index} ip6 saddr fe80::/10 ip6 daddr != {{ fe80::/10, ff00::/8 }} drop",
    ]
    outbound = [f"oif {link_index} ip6 saddr {here} meta skuid != {uid} drop"]
    return _replace(
        channel_table(name),
        _chain("input", "input", "filter", "accept", inbound),
        _chain("output", "output", "filter", "accept", outbound),
    )


def kill_switch_rules(facts: SwitchFacts) -> str:
    """The kill switch."""
    lan = [prefix for prefix in sorted(facts.lan) if is_lan(prefix)]
    # What goes into another tunnel does not leave the host yet: it comes out of that one's
    # process or driver again, and past here.
    allowed = [
        'oifname "lo" accept',
        f'oifname "{facts.name}" accept',
        'meta oifkind { "tun", "wireguard" } accept',
        "ip daddr @lan4 accept",
        "ip6 daddr @lan6 accept",
        "ip daddr { 224.0.0.0/24, 239.255.255.250, 255.255.255.255 } accept",
        "ip6 daddr { fe80::/10, ff02::/16 } accept",
        "udp sport 68 udp dport 67 accept",
        "udp sport 546 udp dport 547 accept",
        "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
    ]
    own = [f"meta mark {_set(map(str, facts.marks))} accept"] if facts.marks else []
    return _replace(
        switch_table(facts.name),
        _lan_set("lan4", "ipv4_addr", (prefix for prefix in lan if prefix.version == 4)),
        _lan_set("lan6", "ipv6_addr", (prefix for prefix in lan if prefix.version == 6)),
        _block("chain allowed", allowed),
        _chain(
            "output",
            "output",
            "filter",
            "drop",
            [*own, "fib daddr type local accept", "jump allowed"],
        ),
        _chain("forward", "forward", "filter", "drop", ["jump allowed"]),
    )


def removal(table: str) -> str:
    """Removes a table, whether it is there or not."""
    return f"add table inet {table}\ndelete table inet {table}\n"


def dropping_chains(listed: str) -> tuple[str, ...]:
    """From ``nft list chains`` those that drop what is forwarded, unless they are ours."""
    table = chain = ""
    found = []
    for line in listed.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif "hook forward" in line and "policy drop" in line and "nvpn-" not in table:
            found.append(f"{table} {chain}")
    return tuple(found)


def is_lan(prefix: Prefix) -> bool:
    """Whether a connected network can be a local one at all."""
    return prefix.length >= _SHORTEST_LAN[prefix.version]


def iptables_comment(name: str) -> str:
    """What the guard's rules are known by where there is no nft."""
    return f"nvpn rule for {name}"


def iptables_rules(facts: GuardFacts, version: int) -> str:
    """The guard for ``iptables-restore -n`` or ``ip6tables-restore -n``."""
    comment = f'-m comment --comment "{iptables_comment(facts.name)}"'
    length = 4 if version == 4 else 16
    drops = [
        f"-I PREROUTING ! -i {facts.link_name} -d {format_address(address)}"
        f" -m addrtype ! --src-type LOCAL -j DROP {comment}"
        for address in facts.addresses
        if len(address) == length
    ]
    marks = [
        line
        for mark in facts.marks
        for line in (
            f"-I POSTROUTING -m mark --mark {mark} -p udp -j CONNMARK --save-mark {comment}",
            f"-I PREROUTING -m connmark --mark {mark} -p udp -j CONNMARK --restore-mark {comment}",
        )
    ]
    return "\n".join(["*raw", *drops, "COMMIT", "*mangle", *marks, "COMMIT", ""])


def iptables_removal(saved: str, name: str) -> str:
    """From the output of ``iptables-save`` what ``iptables-restore -n`` needs to remove ours.

    Empty when there is nothing of ours.
    """
    mark = f'--comment "{iptables_comment(name)}"'
    kept: list[str] = []
    found = False
    for line in saved.splitlines():
        if line.startswith("*") or line == "COMMIT":
            kept.append(line)
        elif line.startswith("-A ") and mark in line:
            kept.append("-D" + line[2:])
            found = True
    return "\n".join([*kept, ""]) if found else ""


def _escape(name: str) -> str:
    """An interface's name as nft takes it for a table's: two characters it does not."""
    return name.replace("=", "/3d").replace("+", "/2b")


def _family(address: bytes) -> str:
    return "ip" if len(address) == 4 else "ip6"


def _set(elements: Iterable[str]) -> str:
    return f"{{ {', '.join(elements)} }}"


def _lan_set(name: str, kind: str, prefixes: Iterable[Prefix]) -> str:
    lines = [f"type {kind}", "flags interval", "auto-merge"]
    if elements := [str(prefix) for prefix in prefixes]:
        lines.append(f"elements = {_set(elements)}")
    return _block(f"set {name}", lines)


def _chain(name: str, hook: str, priority: str, policy: str, rules: Iterable[str]) -> str:
    head = f"type filter hook {hook} priority {priority}; policy {policy};"
    return _block(f"chain {name}", [head, *rules])


def _block(head: str, lines: Iterable[str]) -> str:
    inner = "".join(f"\t\t{line}\n" for line in lines)
    return f"\t{head} {{\n{inner}\t}}\n"


def _replace(table: str, *blocks: str) -> str:
    return f"{removal(table)}table inet {table} {{\n{''.join(blocks)}}}\n"
