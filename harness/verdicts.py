"""Say what a method breaks: answers that no search gives, or that change; bytes other than those planned."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from packbench.artefact import Ledger
from packbench.budget import Budget
from packbench.method import Hits, Method
from packbench.quality import check_hits


class Broken(AssertionError):
    """Say which part of the contract a method breaks."""


class Died(Broken):
    """Say that a method ran into a limit or took its process down, so that no check can run it in this one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Tell what one check of one method came to."""

    check: str
    passed: bool
    message: str = ""


def require(holds: object, message: str) -> None:
    """Raise Broken with the message unless something holds."""
    if not holds:
        raise Broken(message)


def valid_hits(found: Hits, n_queries: int, k: int, n: int, what: str) -> Hits:
    """Return hits that a run would accept, best first."""
    require(isinstance(found, Hits), f"{what}: search returned {type(found).__name__}, expected packbench.Hits")
    ids, scores = np.asarray(found.ids), np.asarray(found.scores)
    check_hits(ids, n_queries, k, n)
    require(scores.shape == ids.shape, f"{what}: ids are {ids.shape}, scores {scores.shape}")
    require((ids[:, 0] >= 0).all(), f"{what}: a query has no answer at all")
    require(not np.isnan(scores[ids >= 0]).any(), f"{what}: a score is NaN")
    falls = scores[:, 1:] <= scores[:, :-1]
    require(falls[ids[:, 1:] >= 0].all(), f"{what}: the scores of an answer rise; best first is expected")
    return found


def same_answers(found: Hits, wanted: Hits, where: str, share: float = 0.99) -> None:
    """Compare answers position by position; items whose scores agree may change places, for sums round differently."""
    require(found.ids.shape == wanted.ids.shape, f"answers of shape {found.ids.shape} {where}, not {wanted.ids.shape}")
    scale = float(np.abs(wanted.scores[wanted.ids >= 0]).max(initial=0.0))
    close = np.isclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-4 * scale)
    same = float(np.mean((found.ids == wanted.ids) | ((found.ids >= 0) & (wanted.ids >= 0) & close)))
    require(same >= share, f"{1 - same:.0%} of the answers differ {where}")


def weighs_as_planned(ledger: Ledger, planned: tuple[float, float, float], what: str) -> None:
    """Hold planned bytes (per item, shared, cold per item) against the scales."""
    weighed = (ledger.payload, float(ledger.shared), ledger.cold)
    same = np.allclose(weighed, planned, rtol=1e-9, atol=1e-9)
    told = "planned_bytes says {} per item, {} shared and {} cold per item; the scales {}, {} and {}"
    require(same, f"{what}: " + told.format(*planned, *weighed))


def planned_within(method: Method, budget: Budget) -> None:
    """Hold a configuration against the budget that it was made for, by its own formula where it has one."""
    try:
        item, shared, cold = method.planned_bytes(budget.d)
    except TypeError:
        return  # no formula
    fits = budget.holds(item, shared, cold)
    require(fits, f"for_budget yields {method} at {budget.bytes_per_item:g} bytes; by its formula it needs "
                   f"{item + shared / budget.n:.2f} and {cold:.2f} on disk")  # fmt: skip


def names_row(error: Exception, row: int) -> bool:
    """Tell whether an error names a row."""
    return re.search(rf"\b{row}\b", str(error)) is not None


def refused(act: Callable[[], object], row: int, what: str) -> None:
    """Expect a ValueError (BadInput is one) that names the row."""
    try:
        act()
    except ValueError as error:
        require(names_row(error, row), f"{what} for an error that does not name row {row}: {str(error)[:80]!r}")
        return
    raise Broken(f"{what}; packbench.items.as_vectors refuses it and names the row")
