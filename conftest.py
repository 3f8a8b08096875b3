"""Puts the repository's root on the path (tests share ``tests.support``), and guards skips.

No example of hypothesis has a deadline: tests judge what is done, not how busy the machine is.

With NVPN_TESTS_MAY_NOT_SKIP set, a test that skips because something is needed fails: where
everything is installed, nothing important may be left out quietly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("nvpn", deadline=None)
settings.load_profile("nvpn")

sys.path.insert(0, str(Path(__file__).parent))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(  # noqa: D103 - a hook of pytest
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("NVPN_TESTS_MAY_NOT_SKIP"):
        reason = str(report.longrepr)
        if "needs " in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} may not skip here: {reason}"
    return report
