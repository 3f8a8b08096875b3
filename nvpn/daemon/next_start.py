"""What a reload cannot change, so that it waits for the next start."""

from __future__ import annotations

from nvpn.config.model import TunnelConfig


def left_for_next_start(old: TunnelConfig, new: TunnelConfig) -> list[str]:
    """A sentence about every such setting that is another one now."""
    was, wanted = old.interface, new.interface
    changes = {
        "datapath": (was.datapath, wanted.datapath, f'"{wanted.datapath.value}"'),
        "workers": (was.workers, wanted.workers, f"{wanted.workers}"),
        "queues": (was.queues, wanted.queues, f"{wanted.queues}"),
        "backend": (was.backend, wanted.backend, f'"{wanted.backend.value}"'),
        "netns": (was.netns, wanted.netns, f'"{wanted.netns}"'),
        "birth_netns": (was.birth_netns, wanted.birth_netns, f'"{wanted.birth_netns}"'),
    }
    return [
        f"{new.path}: interface.{key}: {shown} is for the next start: nvpn down {new.name},"
        f" then nvpn up {new.name}"
        for key, (before, after, shown) in changes.items()
        if before != after
    ]
