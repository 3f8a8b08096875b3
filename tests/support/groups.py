"""Process groups, as the kernel knows them."""

from __future__ import annotations

from pathlib import Path

from tests.support.world import wait_until


def wait_until_none_lives(group: int) -> None:
    """Fail if a process group lives on; what was killed is given a moment to die."""
    wait_until(lambda: not _living(group), 30, f"nothing of group {group} lives")


def _living(group: int) -> list[str]:
    """What runs in a process group, the dead that nobody has waited for left out."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            name, _, rest = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue
        state, _, its_group = rest.split()[:3]
        if int(its_group) == group and state != "Z":
            found.append(name)
    return found
