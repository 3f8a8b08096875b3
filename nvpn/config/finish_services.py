"""What serves the whole daemon, ``[metrics]`` and ``[resilience]``, checked and frozen."""

from __future__ import annotations

from typing import Final

from nvpn.config.draft import MetricsDraft, ResilienceDraft
from nvpn.config.findings import Findings
from nvpn.config.model import HostPort, MetricsConfig
from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy

_SECOND: Final = 1_000_000_000


def finish_metrics(metrics: MetricsDraft, findings: Findings) -> MetricsConfig | None:
    """Where numbers are served; None without ``[metrics]``."""
    listen = metrics.listen
    if metrics.place is not None and "listen" not in metrics.claims:
        hint = 'expected an address and a port, such as listen = "127.0.0.1:9586"'
        findings.error(metrics.place, "has no listen", hint)
    if listen is not None and not HostPort(*listen).is_loopback:
        findings.warn(
            metrics.claims["listen"],
            f"everybody who reaches {HostPort(*listen)} may read who is connected, and when",
            "it asks for no password; let a firewall guard it, or listen on 127.0.0.1",
        )
    return listen


def finish_resilience(resilience: ResilienceDraft, findings: Findings) -> Policies:
    """How patient to be; the defaults where nothing is said."""
    figures = resilience.figures
    retry, breaker = RetryPolicy(), BreakerPolicy()
    initial = _nanoseconds(figures.get("initial_interval"), retry.initial)
    # Who asks for a longer first wait alone does not want a shorter one afterwards.
    longest = retry.maximum if "max_interval" in figures else max(retry.maximum, initial)
    maximum = _nanoseconds(figures.get("max_interval"), longest)
    if maximum < initial:
        findings.error(
            resilience.claims["max_interval"],
            f"is shorter than the first wait, {initial / _SECOND:g} s",
            "set initial_interval lower, or this one higher",
        )
        maximum = initial
    return Policies(
        RetryPolicy(
            max_attempts=int(figures.get("max_attempts", retry.max_attempts)),
            initial=initial,
            maximum=maximum,
            jitter=figures.get("jitter", retry.jitter),
        ),
        BreakerPolicy(
            failure_threshold=int(figures.get("failure_threshold", breaker.failure_threshold)),
            reset_timeout=_nanoseconds(figures.get("reset_timeout"), breaker.reset_timeout),
            success_threshold=int(figures.get("success_threshold", breaker.success_threshold)),
        ),
    )


def _nanoseconds(seconds: float | None, otherwise: int) -> int:
    return otherwise if seconds is None else round(seconds * _SECOND)
