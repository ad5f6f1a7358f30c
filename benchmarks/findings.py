"""Print what the full board shows: the best of each family, what each ingredient buys, and who loses to a control.

    python benchmarks/findings.py [--results leaderboard/results]

Differences are of recall@10, paired by query, with 95% bootstrap intervals.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from packbench.leaderboard.cells import outcomes
from packbench.leaderboard.stats import Bootstrap, Interval
from packbench.store import Row, Store

# What a family's methods have to beat: the same store filled at random.
CONTROLS = {
    "scalar": ("random_bins",), "binary": ("lsh",), "projection": ("random_dims", "random_projection"),
    "codebook": ("random_codebook",), "sparse": ("random_mask",), "rows": ("random_rows",),
}  # fmt: skip
# What is compared, first against second; a name stands for its configuration at each budget, a spec for itself.
TWO_BITS = "int4(bits=2, granularity='vector')"
PAIRS = {
    "rotation before 2 bits": (f"random_rotation() | {TWO_BITS}", TWO_BITS),
    "Hadamard before 2 bits": (f"hadamard_rotation() | {TWO_BITS}", TWO_BITS),
    "PCA before 2 bits": (f"pca(dim={{d}}) | {TWO_BITS}", TWO_BITS),
    "centring before 2 bits": (f"centre() | {TWO_BITS}", TWO_BITS),
    "rotation before sign": ("random_rotation() | sign()", "sign()"),
    "centring before sign": ("centre() | sign()", "sign()"),
    "asymmetric sign": ("sign(scorer='asymmetric')", "sign()"),
    "asymmetric itq": ("itq(bits={d}, scorer='asymmetric')", "itq(bits={d})"),
    "itq over random hyperplanes": ("itq(bits={d})", "lsh(bits={d})"),
    "queries in the basis": ("query_aware_svd", "pca"),
    "learned basis (tldr)": ("tldr", "pca"),
    "OPQ over PQ": ("opq", "pq"),
    "transform coding over OPQ": ("transform_coding", "opq"),
    "truncation over random dims": ("truncate", "random_dims"),
}  # fmt: skip
SLOW_SECONDS = 60.0


class Cells:
    """Hold the measured rows of one data set, and one bootstrap that pairs them by query."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = {(row["request"], row["budget"]): row for row in rows}
        self.d = rows[0]["d"]
        keys = {row["measurement"]: outcomes([row]) / 10 for row in rows}
        self._at = {key: at for at, key in enumerate(keys)}
        self._bootstrap = Bootstrap(list(keys.values()))

    def mean(self, row: Row) -> Interval:
        """Return recall@10 with its interval."""
        return self._bootstrap.mean(self._at[row["measurement"]])

    def difference(self, row: Row, other: Row) -> Interval:
        """Return how far recall@10 of a row lies above that of another."""
        return self._bootstrap.difference(self._at[row["measurement"]], self._at[other["measurement"]])

    def budgets(self) -> list[float]:
        """Return the budgets, least first."""
        return sorted({budget for _, budget in self.rows if budget is not None})


def best_of_families(cells: Cells) -> Table:
    """Tabulate the best row of each family at each budget."""
    table = Table("bytes", "family", "spec", "weighed", "recall@10")
    for budget in cells.budgets():
        best: dict[str, Row] = {}
        rows = [row for (_, at), row in cells.rows.items() if at == budget]
        for row in sorted(rows, key=lambda row: row["recall"]["recall@10"]):
            best["control" if row["kind"] == "control" else row["family"]] = row
        for family, row in sorted(best.items(), key=lambda pair: -pair[1]["recall"]["recall@10"]):
            table.add_row(f"{budget:g}", family, row["spec"], f"{row['bytes']['deployed']:.1f}", told(cells.mean(row)))
        table.add_section()
    return table


def ingredients(cells: Cells) -> Table:
    """Tabulate what each ingredient buys, once for each pair of specs."""
    table = Table("ingredient", "bytes", "with", "without", "difference")
    for label, (with_it, without_it) in PAIRS.items():
        seen = set()
        for budget in cells.budgets():
            row, other = (cells.rows.get((name.format(d=cells.d), budget)) for name in (with_it, without_it))
            if row is None or other is None or (row["spec"], other["spec"]) in seen:
                continue
            seen.add((row["spec"], other["spec"]))
            table.add_row(label, f"{budget:g}", row["spec"], other["spec"], told(cells.difference(row, other)))
    return table


def below_controls(cells: Cells) -> Iterator[str]:
    """Yield the rows that are surely worse than the best control of their family of no more bytes."""
    for budget in cells.budgets():
        rows = [row for (_, at), row in cells.rows.items() if at == budget]
        for row in rows:
            own = CONTROLS.get(row["family"], ())
            lighter = [one for one in rows if one["request"] in own and one is not row
                       and one["bytes"]["deployed"] <= row["bytes"]["deployed"] * 1.02]  # fmt: skip
            if not lighter or row["request"] in own:
                continue
            control = max(lighter, key=lambda one: one["recall"]["recall@10"])
            gap = cells.difference(row, control)
            if gap.high < 0:
                yield f"{budget:g} bytes: {row['spec']} {told(gap)} against {control['spec']}"


def told(interval: Interval) -> str:
    """Return a figure with its interval."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def main() -> None:
    """Print the tables of each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", default=Path(__file__).parent.parent / "leaderboard" / "results", type=Path)
    by_dataset: dict[str, list[Row]] = defaultdict(list)
    statuses: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in Store(parser.parse_args().results).by_id().values():
        statuses[row["dataset"]][row["status"]] += 1
        if row["status"] == "ok":
            by_dataset[row["dataset"]].append(row)
    out = Console(width=170)
    for dataset, rows in by_dataset.items():
        cells = Cells(rows)
        out.rule(f"{dataset}: " + ", ".join(f"{count} {status}" for status, count in statuses[dataset].items()))
        out.print(best_of_families(cells))
        out.print(ingredients(cells))
        out.print(
            "Surely below the control of their family of no more bytes:",
            *below_controls(cells),
            sep="\n  ",
            highlight=False,
        )
        slow = {row["spec"]: row["seconds"]["fit"] for row in rows if row["seconds"]["fit"] > SLOW_SECONDS}
        out.print(f"Fits of more than {SLOW_SECONDS:g} s: {slow or 'none'}", highlight=False)


if __name__ == "__main__":
    main()
