"""Say what may get worse and by how much: the limits that a comparison holds results to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packbench.errors import BadInput

# What is judged from the outcome of each query; more is better.
QUALITY = ("recall@1", "recall@10", "recall@100", "nDCG@10", "MRR@10", "Recall@100")
# What is the same each time, and weighed; less is better.
BYTES = ("bytes.payload", "bytes.shared", "bytes.cold", "bytes.deployed")
# What no two runs measure alike; less is better. Latency counts in units of float32 search in the same process.
NOISY = (
    "query_ms.p50", "query_ms.p95", "query_ms.p99", "query_ms.mean", "seconds.fit", "seconds.encode",
    "bytes.resident", "peak_bytes.fit", "peak_bytes.encode", "peak_bytes.search",
)  # fmt: skip
_FORM = re.compile(r"(?P<metric>[A-Za-z_@.0-9]+):(?P<sign>[+-])(?P<amount>\d+(?:\.\d*)?|\.\d+)(?P<percent>%?)")


@dataclass(frozen=True, slots=True)
class Gate:
    """Hold the most that a figure may get worse: by an amount, or where relative by a share of what it was."""

    metric: str
    amount: float
    relative: bool = False

    def __str__(self) -> str:
        sign = "-" if self.metric in QUALITY else "+"
        return (
            f"{self.metric}:{sign}{self.amount * 100:g}%" if self.relative else f"{self.metric}:{sign}{self.amount:g}"
        )


DEFAULTS = (
    *(Gate(metric, 0.0) for metric in BYTES[:3]),
    Gate("recall@10", 0.005),
    Gate("recall@100", 0.005),  # ten times the outcomes per query: it tells a loss that recall@10 leaves in the noise
    Gate("nDCG@10", 0.01),
    Gate("query_ms.p50", 0.2, relative=True),
)


def parse_gate(text: str) -> Gate:
    """Read METRIC:±X or METRIC:±X%, such as recall@10:-0.005 or query_ms.p50:+20%; the sign says which way is worse.

    Raises:
        BadInput: another form, an unknown metric, a sign that says better, or an amount that the metric cannot have.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise BadInput(
            f"gate {text!r}: expected METRIC:-X or METRIC:+X%, such as recall@10:-0.005 or query_ms.p50:+20%"
        )
    metric, sign = found["metric"], found["sign"]
    if metric not in (*QUALITY, *BYTES, *NOISY):
        raise BadInput(f"gate {text!r}: no metric {metric!r}; there are {', '.join((*QUALITY, *BYTES, *NOISY))}")
    if (sign == "-") != (metric in QUALITY):
        worse = "less" if metric in QUALITY else "more"
        raise BadInput(f"gate {text!r}: {worse} is worse for {metric}; write {'-' if metric in QUALITY else '+'}")
    amount = float(found["amount"]) / (100 if found["percent"] else 1)
    if metric in QUALITY and (found["percent"] or amount >= 1):
        raise BadInput(f"gate {text!r}: quality may fall by an amount below 1, such as {metric}:-0.005")
    if metric in NOISY and not found["percent"]:
        raise BadInput(f"gate {text!r}: {metric} differs from machine to machine; give a share, such as {metric}:+20%")
    return Gate(metric, amount, relative=bool(found["percent"]))


def gates_of(texts: Iterable[str] = ()) -> tuple[Gate, ...]:
    """Return the gates that a build stands behind: the default ones, each replaced where another is given."""
    chosen = {gate.metric: gate for gate in DEFAULTS}
    chosen.update({gate.metric: gate for gate in map(parse_gate, texts)})
    return tuple(chosen.values())
