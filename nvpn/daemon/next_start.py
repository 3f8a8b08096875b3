"""What a reload cannot change, so that it waits for the next start."""

from __future__ import annotations

from nvpn.config.model import StoreKind, TunnelConfig


def left_for_next_start(old: TunnelConfig, new: TunnelConfig) -> list[str]:
    """A sentence about every such setting that is another one now."""
    was, wanted = old.interface, new.interface
    changes = {
        "interface.datapath": (was.datapath, wanted.datapath, f'"{wanted.datapath.value}"'),
        "interface.workers": (was.workers, wanted.workers, f"{wanted.workers}"),
        "interface.queues": (was.queues, wanted.queues, f"{wanted.queues}"),
        "interface.backend": (was.backend, wanted.backend, f'"{wanted.backend.value}"'),
        "interface.netns": (was.netns, wanted.netns, f'"{wanted.netns}"'),
        "interface.birth_netns": (was.birth_netns, wanted.birth_netns, f'"{wanted.birth_netns}"'),
    }
    # A server that is new, or no more, is no matter of its store.
    if old.server is not None and new.server is not None:
        before, after = old.server.store, new.server.store
        shown = f'"{after.kind.value}"'
        if before.kind is after.kind is StoreKind.ETCD:
            shown = "what is another now about the etcd"
        changes["server.store"] = (before, after, shown)
    return [
        f"{new.path}: {key}: {shown} is for the next start: nvpn down {new.name},"
        f" then nvpn up {new.name}"
        for key, (before, after, shown) in changes.items()
        if before != after
    ]
