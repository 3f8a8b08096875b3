"""Puts the repository's root on the path (tests share ``tests.support``), and guards skips.

No example of hypothesis has a deadline, nor does it judge how long examples take to be found:
tests judge what is done, not how busy the machine is.

With NVPN_TESTS_MAY_NOT_SKIP set, a test that skips fails, unless that is the nature of the
machine: where everything is installed, nothing may be left out quietly.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

# Where nothing may skip, the same tree shall fail or pass the same way twice; elsewhere every run
# tries new examples.
settings.register_profile(
    "nvpn",
    deadline=None,
    derandomize="NVPN_TESTS_MAY_NOT_SKIP" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("nvpn")

# A shell's background is deaf to Ctrl-C and hands that down, to what tests start, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.insert(0, str(Path(__file__).parent))

MAY_SKIP: Final = {
    # What an older or a differently built kernel lacks; no installation changes that.
    "this kernel has no UDP_SEGMENT",
    "this kernel takes no merged UDP",
    # Distributions and containers forbid them to ordinary users, or to everybody.
    "users may not have namespaces here",
    "no user namespaces here",
    # A virtual environment below a home directory that is closed to others.
    "no Python that other users may run has what nvpn needs",
    # A kernel with WireGuard of its own, which wg-quick takes without asking.
    "wg-quick prefers this kernel's own WireGuard",
    "this kernel has WireGuard of its own",
    # Says what is answered where it is missing, and here it is there, as it has to be.
    "the native datapath is there",
}
"""The reasons that installing something would not remove."""


def forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skip that may not be here."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    if not os.environ.get("NVPN_TESTS_MAY_NOT_SKIP"):
        return
    where = report.longrepr
    reason = str(where[2] if isinstance(where, tuple) else where).removeprefix("Skipped: ")
    if reason not in MAY_SKIP:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} may not skip here: {reason}"


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at ten thousand tests again: they all stay."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:  # noqa: D103 - a hook of pytest
    report = yield
    forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:  # noqa: D103 - a hook of pytest
    report = yield
    forbid_skip(report)
    return report
