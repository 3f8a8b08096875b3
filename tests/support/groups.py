"""Process groups, as the kernel knows them."""

from __future__ import annotations

from pathlib import Path


def living(group: int) -> list[str]:
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
