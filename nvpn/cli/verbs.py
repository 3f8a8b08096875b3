"""Which verbs there are, and what is said about each before its module is imported."""

from __future__ import annotations

from typing import Final, NamedTuple


class Verb(NamedTuple):
    """One word of the command line.

    ``module`` has ``add_arguments(parser)`` and ``run(args) -> int`` and is imported only
    when the verb is chosen. ``examples`` are pairs of a command and what it is good for.
    """

    name: str
    module: str
    summary: str
    description: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    aliases: tuple[str, ...] = ()


class Group(NamedTuple):
    """Verbs that stand together in the help."""

    title: str
    verbs: tuple[Verb, ...]


GROUPS: Final = (
    Group(
        "Tunnels",
        (
            Verb(
                "up",
                "nvpn.cli.up",
                "Bring a tunnel up from its file",
                "Bring a tunnel up: make the interface, its addresses and routes, tell the name\n"
                "servers, run the hooks, and go to the background once it is ready. Takes nvpn's\n"
                "TOML or a wg-quick .conf. What fails takes everything back.",
                (
                    ("nvpn up wg0.toml", "a file here"),
                    ("nvpn up wg0", "/etc/nvpn/wg0.toml or /etc/wireguard/wg0.conf"),
                    ("nvpn up -f wg0.toml", "stay in front, log to stderr"),
                    ("systemctl enable --now nvpn@wg0", "at every start of the machine"),
                ),
            ),
            Verb(
                "down",
                "nvpn.cli.down",
                "Take a tunnel down and remove all it made",
                "Take a tunnel down: the last hooks run, the keys are wiped, and the interface,\n"
                "its routes and all else that it made are removed; also what a killed one left.",
                (("nvpn down wg0", "by the interface's name"),),
            ),
            Verb(
                "reload",
                "nvpn.cli.reload",
                "Apply a changed file; unchanged peers do not notice",
                "Read the tunnel's file again and apply what changed. Peers whose settings\n"
                "did not change keep their sessions. A file with mistakes changes nothing.",
                (("nvpn reload wg0", "after an edit of wg0.toml"),),
            ),
            Verb(
                "show",
                "nvpn.cli.show",
                "Show tunnels and peers, and what is wrong",
                "Show tunnels and peers. On a terminal: a table, with a line for everything\n"
                "that is wrong. Through a pipe, with --plain, or with any argument of\n"
                "`wg show`: the very text that `wg show` prints.",
                (
                    ("nvpn show", "all tunnels, as a table"),
                    ("nvpn show -v wg0", "one, with full keys and dropped packets"),
                    ("nvpn show wg0 dump", "for scripts, as `wg show wg0 dump`"),
                    ("nvpn show --json | jq .", "everything that is known"),
                    ("nvpn show --watch", "what goes on just now, until Ctrl-C"),
                ),
                ("status",),
            ),
            Verb(
                "events",
                "nvpn.cli.events",
                "Tell who comes and goes, as it happens",
                "Follow running tunnels, and print a line of JSON for everything that happens:\n"
                "peers that connect, roam and disconnect, leases, clients that are admitted or\n"
                "refused. Ends with Ctrl-C.",
                (
                    ("nvpn events", "of all tunnels, those too that come later"),
                    ("nvpn events wg0 | jq .", "of one, until it goes down"),
                ),
            ),
            Verb(
                "peer",
                "nvpn.cli.peer",
                "Add, list and remove the peers of a tunnel's file",
                "Add, list and remove the peers of a tunnel's file, and of the tunnel if it\n"
                "runs. For a new peer, print its own configuration, as text or as a QR code.",
                (
                    ("nvpn peer add phone --qr", "keys for a phone, and a code to scan"),
                    ("nvpn peer rm phone", "from the file and the running tunnel"),
                ),
            ),
        ),
    ),
    Group(
        "Clients",
        (
            Verb(
                "invite",
                "nvpn.cli.invite",
                "Let somebody join, with one line of text",
                "Make an invitation to a running server and print it, on a line of its own.\n"
                "Whoever gives it to `nvpn join` becomes a client: the server knows its key\n"
                "from then on, and gives it its addresses.",
                (
                    ("nvpn invite laptop", "good once, for a day"),
                    ("nvpn invite laptop --qr --expires 15m", "and as a code to scan"),
                    ("nvpn invite office --uses 20 -o office.txt", "for twenty, in a file"),
                ),
            ),
            Verb(
                "join",
                "nvpn.cli.join",
                "Join a server that has invited us",
                "Make a key of our own, have the server admit it by an invitation, write the\n"
                "configuration and bring the tunnel up. The private key never leaves this host.",
                (
                    ("nvpn join nvpn:AUk...", "what nvpn invite printed"),
                    ("nvpn join - < invitation.txt", "seen by nobody in the list of processes"),
                ),
            ),
            Verb(
                "client",
                "nvpn.cli.client",
                "List, revoke and rename a server's clients",
                "List, revoke and rename those whom a server has admitted. Who stands in the\n"
                "server's file is a peer: for those there is `nvpn peer`.",
                (
                    ("nvpn client list", "and who may still come"),
                    ("nvpn client revoke laptop", "cut it off, and its invitation with it"),
                ),
            ),
        ),
    ),
    Group(
        "Keys",
        (
            Verb(
                "genkey",
                "nvpn.cli.genkey",
                "Make a private key",
                "Make a private key and write it to standard output or to a file that only\n"
                "you can read.",
                (
                    ("nvpn genkey -o wg0.key", "a file with mode 0600, never overwritten"),
                    ("nvpn genkey --pair -o wg0.key", "and print the public key"),
                    ("nvpn genkey | nvpn pubkey", "as with wg"),
                ),
            ),
            Verb(
                "genpsk",
                "nvpn.cli.genpsk",
                "Make a preshared key",
                "Make a preshared key: a secret that two peers share on top of their keys.",
                (("nvpn genpsk -o laptop.psk", "a file with mode 0600, never overwritten"),),
            ),
            Verb(
                "pubkey",
                "nvpn.cli.pubkey",
                "Print the public key of a private key",
                "Read a private key from standard input and print its public key. A key is\n"
                "never taken from the command line, where others could see it.",
                (("nvpn pubkey < wg0.key", "the public key of a key file"),),
            ),
        ),
    ),
    Group(
        "Files",
        (
            Verb(
                "import",
                "nvpn.cli.import_file",
                "Turn a wg-quick file into nvpn's",
                "Read a wg-quick .conf and print the same as nvpn's TOML, comments included.",
                (("nvpn import wg0.conf -o wg0.toml", "a file with mode 0600"),),
            ),
            Verb(
                "export",
                "nvpn.cli.export_file",
                "Turn nvpn's file into one for wg-quick",
                "Read nvpn's TOML and print the same as a wg-quick .conf, comments included.",
                (("nvpn export wg0.toml -o wg0.conf", "a file with mode 0600"),),
            ),
        ),
    ),
    Group(
        "Getting it right",
        (
            Verb(
                "check",
                "nvpn.cli.check",
                "Check configuration files; all mistakes at once",
                "Read configuration files as `nvpn up` would and report every mistake at\n"
                "once, each with its file, line and remedy. Changes nothing.",
                (("nvpn check wg0.toml", "exit status 1 if there is a mistake"),),
            ),
            Verb(
                "demo",
                "nvpn.cli.demo",
                "See a tunnel at work, on this machine alone",
                "Make two hosts out of namespaces, bring a tunnel up between them, ping and\n"
                "transfer through it, show its status, and clean up. Needs no set-up, and\n"
                "no root where the kernel lets users have namespaces.",
                (
                    ("nvpn demo", "some eight seconds"),
                    ("nvpn demo --seconds 30", "a longer transfer"),
                ),
            ),
        ),
    ),
    Group(
        "With wg and wg-quick",
        (
            Verb(
                "device",
                "nvpn.cli.device",
                "Make only the interface, for wg to configure",
                "Make an interface and its control socket, without address, key or peer:\n"
                "`wg` does the rest. `nvpn INTERFACE` is short for it, so that nvpn can stand\n"
                "in for wireguard-go wherever that is called, under wg-quick for one:\n"
                "WG_QUICK_USERSPACE_IMPLEMENTATION=nvpn wg-quick up wg0.",
                (
                    ("nvpn wg0", "in the background; returns when it is there"),
                    ("nvpn -f wg0", "in front"),
                ),
            ),
            Verb(
                "set",
                "nvpn.cli.set",
                "Change a running interface, as `wg set`",
                "Change a running interface, with the words of `wg set`. Keys come from files.",
                (("nvpn set wg0 peer KEY allowed-ips 10.8.0.7/32", "add or change a peer"),),
            ),
            Verb(
                "setconf",
                "nvpn.cli.setconf",
                "Make an interface what a file says, as `wg setconf`",
                "Give a running interface the settings of a file, and no others.",
                (("nvpn setconf wg0 wg0.conf", "the file is one for wg, without addresses"),),
            ),
            Verb(
                "addconf",
                "nvpn.cli.addconf",
                "Add a file's settings to an interface, as `wg addconf`",
                "Add the settings of a file to those of a running interface.",
                (("nvpn addconf wg0 laptop.conf", "peers that are there already stay"),),
            ),
            Verb(
                "syncconf",
                "nvpn.cli.syncconf",
                "As setconf, but peers that stay keep their sessions",
                "Bring a running interface to what a file says; peers that stay do not notice.",
                (("nvpn syncconf wg0 <(nvpn strip wg0)", "after an edit of the file"),),
            ),
            Verb(
                "showconf",
                "nvpn.cli.showconf",
                "Print an interface as a file for setconf",
                "Print the settings of a running interface, its keys included, as `wg showconf`.",
                (("nvpn showconf wg0", "a file for setconf"),),
            ),
            Verb(
                "save",
                "nvpn.cli.save",
                "Write the running state into the tunnel's file",
                "Write the state of a running tunnel into the file that it was started from.",
                (("nvpn save wg0", "after changes with `nvpn set`"),),
            ),
            Verb(
                "strip",
                "nvpn.cli.strip",
                "Print a configuration as wg understands it",
                "Print a tunnel's file without what only wg-quick or nvpn understands.",
                (("nvpn strip wg0", "for setconf or syncconf"),),
            ),
        ),
    ),
)

VERBS: Final = tuple(verb for group in GROUPS for verb in group.verbs)

# Words that people bring along from other programs. Without this table a slip such as
# `nvpn start` would make an interface of that name.
FOREIGN_WORDS: Final = {
    "start": "nvpn up",
    "connect": "nvpn up",
    "add": "nvpn up",
    "stop": "nvpn down",
    "disconnect": "nvpn down",
    "del": "nvpn down",
    "restart": "nvpn down, then nvpn up",
    "list": "nvpn show",
    "ls": "nvpn show",
    "stat": "nvpn show",
    "watch": "nvpn show --watch",
    "monitor": "nvpn events",
    "validate": "nvpn check",
    "test": "nvpn check",
    "keygen": "nvpn genkey",
    "qr": "nvpn peer qr FILE",
    "clients": "nvpn client list",
    "revoke": "nvpn client revoke NAME",
    "rename": "nvpn client rename NAME NEW",
    "leases": "nvpn client list",
    "invitations": "nvpn client list",
    "enrol": "nvpn join INVITATION",
    "enroll": "nvpn join INVITATION",
    "run": "nvpn up -f",
}


def find_verb(word: str) -> Verb | None:
    """The verb of that name or alias."""
    for verb in VERBS:
        if word == verb.name or word in verb.aliases:
            return verb
    return None


def verb_words() -> list[str]:
    """Every word that is a verb, aliases too."""
    return [word for verb in VERBS for word in (verb.name, *verb.aliases)] + ["help", "version"]


def closest(word: str, candidates: list[str]) -> str | None:
    """The candidate that ``word`` is a slip of, if any: a prefix, or a typo or two.

    Kept small on purpose: difflib costs more to import than the whole of ``show``.
    """
    lowered = word.lower()
    if len(lowered) > 1:
        for candidate in candidates:
            if candidate.startswith(lowered) and candidate != word:
                return candidate
    best, best_excess = None, 1
    for candidate in candidates:
        excess = _distance(lowered, candidate) - _allowed(lowered, candidate)
        if excess < best_excess:
            best, best_excess = candidate, excess
    return best


def _allowed(word: str, candidate: str) -> int:
    """How many edits make a slip. Short words are near to everything: "us" is not "up"."""
    shorter = min(len(word), len(candidate))
    if shorter < 4:
        return 1 if set(word) == set(candidate) else 0
    return 2 if shorter >= 6 else 1


def _distance(a: str, b: str) -> int:
    """Edits between two words, a swap of neighbours being one (optimal string alignment)."""
    before: list[int] = []
    previous = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        current = [i]
        for j, other in enumerate(b, 1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (char != other))
            if i > 1 and j > 1 and char == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, previous = previous, current
    return previous[-1]
