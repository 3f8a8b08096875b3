"""Hands rulesets to nft, or to iptables where there is no nft, of this network namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from nvpn.errors import PlatformError
from nvpn.netconf.firewall import dropping_chains, iptables_removal, removal

_TIMEOUT_SECONDS: Final = 10.0
_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
_PROGRAMS: Final = {4: "iptables", 6: "ip6tables"}


def has_nft() -> bool:
    """Whether nft is installed."""
    return _find("nft") is not None


def has_iptables(version: int) -> bool:
    """Whether there is an iptables for that IP version."""
    return _find(f"{_PROGRAMS[version]}-restore") is not None


def apply_ruleset(text: str) -> None:
    """Run ``nft -f -``: all of it happens, or nothing. Raises PlatformError."""
    _run(["nft", "-f", "-"], text, "change the firewall")


def remove_table(name: str) -> None:
    """Remove a table of the family inet; none is no error. Raises PlatformError."""
    apply_ruleset(removal(name))


def chains_that_drop_forwarded() -> tuple[str, ...]:
    """Chains of others, ``family table chain``, whose policy drops what is forwarded.

    As docker sets one. Empty also where nobody can tell.
    """
    if not has_nft():
        return ()
    try:
        return dropping_chains(_run(["nft", "list", "chains"], "", "read the firewall"))
    except PlatformError:
        return ()


def apply_iptables(text: str, version: int) -> None:
    """Run ``iptables-restore -n``, or ``ip6tables-restore -n``. Raises PlatformError."""
    _run([f"{_PROGRAMS[version]}-restore", "-n"], text, "change the firewall")


def remove_iptables(name: str) -> None:
    """Remove a tunnel's guard from both iptables, as far as they are there.

    Raises:
        PlatformError: one of them refuses.
    """
    for version, program in _PROGRAMS.items():
        if not has_iptables(version) or _find(f"{program}-save") is None:
            continue
        saved = _run([f"{program}-save"], "", "read the firewall")
        if text := iptables_removal(saved, name):
            apply_iptables(text, version)


def _run(command: Sequence[str], text: str, operation: str) -> str:
    program = _find(command[0])
    if program is None:
        raise PlatformError(operation, hint=f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        hint = f"{command[0]} did not end within {_TIMEOUT_SECONDS:.0f} s"
        raise PlatformError(operation, hint=hint) from None
    except OSError as error:
        raise PlatformError(operation, errno=error.errno or 0) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise PlatformError(operation, hint=f"{command[0]} says: {lines[0]}")
    return done.stdout


def _find(program: str) -> str | None:
    """Its absolute path: a user's PATH may lack the directories of root's programs."""
    path = f"{os.environ.get('PATH', '')}:{_SBIN}".split(":")
    return shutil.which(program, path=":".join(filter(os.path.isabs, path)))
