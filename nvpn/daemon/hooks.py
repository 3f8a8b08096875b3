"""Runs the commands of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence


async def run_hooks(
    kind: str,
    commands: Sequence[str],
    name: str,
    *,
    show: Callable[[str], None],
    limit: float | None,
    namespace: int = -1,
) -> None:
    """Run commands one after the other, each to its end.

    Args:
        kind: what the file calls them, for messages: ``PreUp``.
        commands: for bash, with ``%i`` for the interface.
        show: gets every command before it runs, and every line that it writes.
        limit: seconds that each may take; None for no end.
        namespace: descriptor of the network namespace to run them in; -1 for ours.

    Raises:
        PlatformError: which hook failed, its exit status, the last line it wrote.
    """
