"""When the hooks of a tunnel run, and what their failures mean then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nvpn.config.model import Hooks
from nvpn.daemon.hooks import SECONDS_AT_THE_END, run_hooks
from nvpn.errors import PlatformError


class HookMoments:
    """A start is refused by a hook that fails; an end is not held up by one.

    PreDown belongs to a tunnel that was up, PostDown to one whose PostUp hooks had begun:
    what they did before one of them failed, PostDown undoes.

    Args:
        name: of the interface.
        namespace: descriptor of the interface's network namespace; -1 for ours.
        hooks: as configured now: a reload may bring others.
        show: gets what they write.
    """

    def __init__(
        self,
        name: str,
        *,
        namespace: int,
        hooks: Callable[[], Hooks],
        show: Callable[[str], None],
    ) -> None:
        self._name = name
        self._namespace = namespace
        self._hooks = hooks
        self._show = show
        self._has_begun = False
        self._is_up = False

    async def pre_up(self) -> None:
        """The link is there, and nothing else. Raises PlatformError."""
        await self._run("PreUp", self._hooks().pre_up)

    async def post_up(self) -> None:
        """All the rest is there. Raises PlatformError."""
        self._has_begun = True
        await self._run("PostUp", self._hooks().post_up)
        self._is_up = True

    async def pre_down(self) -> list[str]:
        """The tunnel works still. Returns sentences of warning."""
        return await self._try("PreDown", self._hooks().pre_down) if self._is_up else []

    async def post_down(self) -> list[str]:
        """Nothing of it is there any more. Returns sentences of warning."""
        return await self._try("PostDown", self._hooks().post_down) if self._has_begun else []

    async def _try(self, kind: str, commands: Sequence[str]) -> list[str]:
        """One that fails keeps none of the others from running."""
        told = []
        for number, command in enumerate(commands, 1):
            try:
                await self._run(kind, (command,), first=number, limit=SECONDS_AT_THE_END)
            except PlatformError as error:
                told.append(str(error))
        return told

    async def _run(
        self, kind: str, commands: Sequence[str], *, first: int = 1, limit: float | None = None
    ) -> None:
        await run_hooks(
            kind,
            commands,
            self._name,
            first=first,
            show=self._show,
            # A command may hold a secret, which the log is not to have.
            announce=_keep if self._is_up else self._show,
            limit=limit,
            namespace=self._namespace,
        )


def _keep(command: str) -> None:
    """Tell nobody."""
