"""Which tunnels want which name servers in one resolv.conf, on disk and in order.

Every daemon of the host reads and writes the same file, one after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import format_address, parse_address
from nvpn.netconf.locks import take_lock

_LOCK_SECONDS: Final = 3.0
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Claim:
    """A tunnel's wish, and by :func:`identify_process` which daemon has it."""

    name: str
    wanted: NameServers
    owner: str


@dataclass(slots=True)
class ResolvStack:
    """The claims, the youngest last, and what is known of the file.

    ``written`` are the SHA-256 sums of what we wrote or were about to: a file with any
    other has been written by somebody else. ``had_file`` and ``made_directory`` say what
    there was before us.
    """

    claims: list[Claim] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    had_file: bool = False
    made_directory: bool = False

    @property
    def top(self) -> Claim | None:
        """Who came last, and wins."""
        return self.claims[-1] if self.claims else None

    def put(self, claim: Claim) -> None:
        """A new claim goes on top; another wish of the same tunnel keeps its place."""
        for place, known in enumerate(self.claims):
            if known.name == claim.name:
                self.claims[place] = claim
                return
        self.claims.append(claim)

    def remove(self, name: str) -> bool:
        """Whether there was one."""
        kept = [claim for claim in self.claims if claim.name != name]
        was_there = len(kept) < len(self.claims)
        self.claims = kept
        return was_there

    def forget_dead(self, *, but: str, is_alive: Callable[[str], bool]) -> None:
        """Claims of daemons that were killed, ``but`` that of the tunnel we are about."""
        self.claims = [
            claim for claim in self.claims if claim.name == but or is_alive(claim.owner)
        ]


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Alone with what is in the directory, which is made when it is missing.

    Raises:
        PlatformError: somebody else does not come to an end.
    """
    operation = f"lock {directory}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PlatformError(operation, errno=error.errno or 0) from None
    try:
        try:
            is_ours = take_lock(descriptor, seconds=_LOCK_SECONDS)
        except OSError as error:
            raise PlatformError(operation, errno=error.errno or 0) from None
        if not is_ours:
            raise PlatformError(
                operation, hint=f"another process has held it for {_LOCK_SECONDS:g} s"
            )
        yield
    finally:
        os.close(descriptor)


def read_stack(path: Path) -> ResolvStack:
    """What is on disk; an empty stack when there is none, or nonsense."""
    try:
        with open(path, "rb") as file:
            return _parse(json.loads(file.read(_MAX_BYTES)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ResolvStack()


def write_stack(path: Path, stack: ResolvStack) -> None:
    """Atomically, and on disk on return. Raises OSError."""
    if not stack.claims:
        path.unlink(missing_ok=True)
        return
    text = json.dumps(
        {
            "claims": [
                {
                    "name": claim.name,
                    "servers": [format_address(server) for server in claim.wanted.servers],
                    "search": list(claim.wanted.search),
                    "owner": claim.owner,
                }
                for claim in stack.claims
            ],
            "written": stack.written,
            "had_file": stack.had_file,
            "made_directory": stack.made_directory,
        }
    )
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(
        fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with open(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.rename(fresh, path)


def identify_process(process: int) -> str:
    """Its number, its start, and this boot; ``?`` for what cannot be known."""
    started = boot = "?"
    try:
        with open(f"/proc/{process}/stat", errors="replace") as stat:
            # After the name, which may hold anything: the 22nd field is the start in ticks.
            started = stat.read().rpartition(")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            boot = boot_id.read().strip()
    except (OSError, IndexError):
        pass
    return f"{process} {started} {boot}"


def is_alive(owner: str) -> bool:
    """Whether the process of :func:`identify_process` runs, as far as we may know."""
    process = owner.partition(" ")[0]
    if not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # not ours to signal, so it is there
    now = identify_process(int(process))
    fields = zip(owner.split(), now.split(), strict=False)
    return all("?" in (then, today) or then == today for then, today in fields)


def _parse(found: Any) -> ResolvStack:
    claims = [
        Claim(
            str(claim["name"]),
            NameServers(
                tuple(parse_address(server) for server in claim["servers"]),
                tuple(str(domain) for domain in claim["search"]),
            ),
            str(claim["owner"]),
        )
        for claim in found["claims"]
    ]
    written = [str(one) for one in found["written"]]
    return ResolvStack(claims, written, bool(found["had_file"]), bool(found["made_directory"]))
