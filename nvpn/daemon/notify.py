"""Tells a service manager how a tunnel in front is doing."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from nvpn.daemon.background import FrontReporter, Reporter


def front_reporter(environment: MutableMapping[str, str] = os.environ) -> Reporter:
    """For a tunnel in front: one that reports to $NOTIFY_SOCKET, where there is one.

    The variable is taken out of the environment, for commands that we run.
    """
    return FrontReporter()
