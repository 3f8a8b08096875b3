"""A running datapath in a few words, the same ones for every implementation."""

from __future__ import annotations


def describe_datapath(
    name: str, *, tso: bool, uso: bool, gso: bool, gro: bool, workers: int = 1, queues: int = 1
) -> str:
    """``native (TSO, USO, GSO, GRO; 4 workers, 2 queues)``: one of either is not told.

    Args:
        name: the implementation's.
        tso, uso, gso, gro: whether it is in use now; see :class:`ports.Offloads`.
        workers: threads that move packets.
        queues: of the overlay device.
    """
    offloads = {"TSO": tso, "USO": uso, "GSO": gso, "GRO": gro}
    told = ", ".join(offload for offload, used in offloads.items() if used) or "no offloads"
    several = {"workers": workers, "queues": queues}
    counts = ", ".join(f"{count} {what}" for what, count in several.items() if count > 1)
    return f"{name} ({told}; {counts})" if counts else f"{name} ({told})"
