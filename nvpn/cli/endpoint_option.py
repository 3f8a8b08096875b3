"""``--endpoint HOST[:PORT]``, the same for every verb that tells somebody where we are."""

from __future__ import annotations

from collections.abc import Callable

from nvpn.config.model import HostPort
from nvpn.config.values import make_endpoint, parse_endpoint, parse_place
from nvpn.errors import ConfigError


def read_endpoint(text: str, port: Callable[[], int | None]) -> HostPort:
    """What stands after the option.

    Args:
        port: asked for the port where the text has none; None: the text has to have one.

    Raises:
        ConfigError: it is no endpoint.
    """
    try:
        host, given = parse_place(text)
        given = given or port()
        return parse_endpoint(text) if given is None else make_endpoint(host, given)
    except ValueError as error:
        raise ConfigError(str(error), key="--endpoint") from None
