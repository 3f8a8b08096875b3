from __future__ import annotations

import pytest

from nvpn.datapath.description import describe_datapath


@pytest.mark.parametrize(
    ("offloads", "workers", "queues", "said"),
    [
        ("tso uso gso gro", 1, 1, "native (TSO, USO, GSO, GRO)"),
        ("tso gro", 1, 1, "native (TSO, GRO)"),
        ("", 1, 1, "native (no offloads)"),
        ("tso uso gso gro", 4, 1, "native (TSO, USO, GSO, GRO; 4 workers)"),
        ("gso", 4, 2, "native (GSO; 4 workers, 2 queues)"),
        ("", 1, 2, "native (no offloads; 2 queues)"),
    ],
)
def test_a_datapath_is_told_with_all_that_it_uses(
    offloads: str, workers: int, queues: int, said: str
) -> None:
    used = {name: name in offloads.split() for name in ("tso", "uso", "gso", "gro")}
    assert describe_datapath("native", **used, workers=workers, queues=queues) == said
