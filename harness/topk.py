"""Select the k best scores of each row without sorting the rest; equal scores go to the lower id."""

from __future__ import annotations

import numpy as np
from numba import njit

from packbench.items import Array
from packbench.method import Hits

RUN = 64  # scores that are passed over together: nearly always none of them is high enough, and one branch says so


@njit(cache=True, nogil=True)
def _select(scores, first_id, best, ids):  # type: ignore[no-untyped-def]
    """Merge scores (q, n) of ids first_id, first_id + 1, ... into rows kept sorted, best first."""
    q, n = scores.shape
    k = best.shape[1]
    for row in range(q):
        # Slices, whose indices cannot be negative: the compiler vectorises the comparison of a run.
        line, kept, names = scores[row], best[row], ids[row]
        floor = kept[k - 1]
        for start in range(0, n, RUN):
            run = line[start : start + RUN]
            higher = np.int32(0)
            for i in range(len(run)):
                higher += np.int32(run[i] > floor)
            if higher == 0:
                continue
            for i in range(len(run)):
                score = run[i]
                # Ids arrive in ascending order, so a later equal score never displaces an earlier one.
                if score > floor:
                    at = k - 1
                    while at > 0 and kept[at - 1] < score:
                        kept[at] = kept[at - 1]
                        names[at] = names[at - 1]
                        at -= 1
                    kept[at] = score
                    names[at] = first_id + start + i
                    floor = kept[k - 1]


class TopK:
    """Keep the k best of score blocks that arrive in ascending order of id."""

    def __init__(self, n_queries: int, k: int) -> None:
        self._best = np.full((n_queries, k), -np.inf, np.float32)
        self._ids = np.full((n_queries, k), -1, np.int64)

    def add(self, scores: Array, first_id: int) -> None:
        """Take scores (n_queries, block) float32, higher is better, of the ids from first_id on."""
        if self._best.shape[1]:
            _select(np.ascontiguousarray(scores, np.float32), first_id, self._best, self._ids)

    def hits(self) -> Hits:
        """Return what was kept, best first."""
        return Hits(self._ids, self._best)


def top_k(scores: Array, k: int) -> Hits:
    """Return the k best of each row of scores (n_queries, n), higher is better; -1 fills rows that are too short."""
    kept = TopK(len(scores), k)
    kept.add(scores, 0)
    return kept.hits()
