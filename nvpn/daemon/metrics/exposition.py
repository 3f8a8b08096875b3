"""Metrics as text: OpenMetrics 1.0, and the older format of Prometheus.

Both have the same samples; what is said about a metric differs a little. Text is made in
pieces, so that ten thousand peers do not keep packets waiting.

Source: the OpenMetrics specification 1.0, and "Exposition formats" of Prometheus' manual.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

_END: Final = "# EOF\n"
_LINES_A_PIECE: Final = 512


class Format(enum.Enum):
    """Which of the two; the value is its content type."""

    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Kind(enum.Enum):
    """What a metric is, and what its samples' names end in."""

    COUNTER = "_total"
    GAUGE = ""
    INFO = "_info"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and its samples.

    Args:
        name: without the ending of its kind; it ends in the unit where there is one.
        help: one line, for people.
        samples: made by :func:`sample`.
    """

    name: str
    kind: Kind
    help: str
    unit: str = ""
    samples: list[str] = field(default_factory=list)

    @property
    def sample_name(self) -> str:
        """What its samples are called."""
        return f"{self.name}{self.kind.value}"

    def add(self, labels: Mapping[str, str], value: int | float) -> None:
        """One more sample."""
        self.samples.append(sample(self.sample_name, format_labels(labels), value))


def format_labels(labels: Mapping[str, str]) -> str:
    """With their braces; nothing without labels."""
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def sample(name: str, labels: str, value: int | float) -> str:
    """One line. ``labels`` as :func:`format_labels` made them."""
    return f"{name}{labels} {value}\n"


def expose(metrics: Iterable[Metric], form: Format) -> Iterator[str]:
    """The whole text, in pieces of some hundred lines."""
    for metric in metrics:
        yield _describe(metric, form)
        for start in range(0, len(metric.samples), _LINES_A_PIECE):
            yield "".join(metric.samples[start : start + _LINES_A_PIECE])
    if form is Format.OPENMETRICS:
        yield _END


def _describe(metric: Metric, form: Format) -> str:
    # The older format describes samples, and knows no info.
    if form is Format.PROMETHEUS:
        name, unit = metric.sample_name, ""
        kind = "counter" if metric.kind is Kind.COUNTER else "gauge"
    else:
        name, unit, kind = metric.name, metric.unit, metric.kind.name.lower()
    told = f"# HELP {name} {metric.help}\n# TYPE {name} {kind}\n"
    return f"{told}# UNIT {name} {unit}\n" if unit else told


def _escape(value: str) -> str:
    # Both formats end a line with a line feed only; JSON's other escapes are none here.
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
