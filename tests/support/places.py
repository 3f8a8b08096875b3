"""Endpoints, written briefly."""

from __future__ import annotations

from nvpn.model.endpoint import Endpoint


def places(*addresses: str, port: int = 1) -> tuple[Endpoint, ...]:
    texts = (f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in addresses)
    return tuple(map(Endpoint.parse, texts))
