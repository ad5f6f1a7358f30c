"""Run the benchmarks of packbench itself and write their tables into RESULTS.md beside this file.

    python benchmarks/results.py [--only kernels ...]      (or: make benchmarks)

A benchmark that is left out keeps the section it had. Ratios are of one run on one machine; seconds are this
machine's. Run it with nothing else at work.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from packbench import resources

HERE = Path(__file__).parent
FILE = HERE / "RESULTS.md"
HEAD = """# What packbench costs, and how fast it scans

Written by `make benchmarks`: what each command printed, with the machine and the versions it ran on. Compare ratios;
seconds are those of one machine, and change with what else it does.
"""


@dataclass(frozen=True)
class Benchmark:
    """Name a section, the command whose output it holds, and what a reader has to know of it."""

    name: str
    command: tuple[str, ...]
    text: str


BENCHMARKS = (
    Benchmark(
        "kernels", ("kernels.py",),
        "One query on one thread over a million codes. `of bandwidth` is what a code's bytes are of the bytes that the "
        "same thread can read in that time: a kernel near it is bound by memory, one far from it by arithmetic or "
        "look-ups. `x faiss` is faiss's time over ours for the same code in the same process.\n\n"
        "Memory alone would allow no more where `of bandwidth` is near 100 %: there ratios about 1.0 say that both are "
        "bound by it. faiss has no trellis codes: those stand beside product codes of the same bytes, which need one "
        "look-up a byte where these need one for each step of 1 to 8 bits. Short 4-bit look-ups are behind fast-scan, "
        "which stops at sums of rounded tables; ours bounds each sum, and adds the best up exactly. Below 60 % of "
        "bandwidth by arithmetic: int4 and other packed integers (about four instructions for sixteen coordinates), "
        "tables (a permutation more), scaled signs (a look-up for each four), RaBitQ (a popcount for each of eight "
        "bit planes), sparse codes (positions to be listed, and one load of the query for each).",
    ),
    Benchmark(
        "batches", ("kernels.py", "--batch", "256", "--n", "100000", "--d", "384"),
        "The same with 256 queries at once over 100,000 codes: blocks are decoded once and go through BLAS, look-ups "
        "are scanned query by query. There faiss's fast-scan of 4 bits, which takes several queries through a block of "
        "codes while that lies in registers, is ahead; its sums are of rounded tables, ours are made exact.",
    ),
    Benchmark(
        "fitting", ("fitting.py",),
        "k-means for product codes against `faiss.ProductQuantizer.train` with 25 iterations, the faster of its "
        "two settings, on the same thread.",
    ),
    Benchmark(
        "overhead", ("overhead.py",),
        "A whole run of the standard methods on the embedded data set, over what its own rows account for; `packbench "
        "run --profile` shows what lies outside: the start of the run and of the server that workers come from, checks "
        "of codes, what workers do around their phases. Where a second core is free, answers are judged and candidates "
        "validated there beside the next build, so that part of what rows account for takes no time of its own.",
    ),
    Benchmark(
        "scale", ("scale.py",),
        "Items that stay in their file; `docs/scale.md` explains the columns and shows the plot.",
    ),
)  # fmt: skip


def section(benchmark: Benchmark) -> str:
    """Run a benchmark and return its section, the command and its figures."""
    begin = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, str(HERE / benchmark.command[0]), *benchmark.command[1:]], stdout=subprocess.PIPE, text=True
    )
    if ran.returncode:
        raise SystemExit(f"{benchmark.command[0]} ended with status {ran.returncode}; {FILE.name} is as it was")
    facts = resources.machine()
    versions = ", ".join(f"{name} {version}" for name, version in resources.versions().items())
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, {time.perf_counter() - begin:.0f} s; {facts['cpu']}, {facts['cores']} cores, "
        f"{facts['memory_gib']} GiB, {facts['simd']}; {versions}"
    )
    command = " ".join(("python", f"benchmarks/{benchmark.command[0]}", *benchmark.command[1:]))
    return f"## {benchmark.name}\n{benchmark.text}\n\n`{command}` ({about})\n\n{ran.stdout.strip()}\n"


def sections(text: str) -> dict[str, str]:
    """Return the sections of a file by their names."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0].removeprefix("## "): part.strip() + "\n" for part in parts}


def main() -> None:
    """Run what was asked for and put it into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[benchmark.name for benchmark in BENCHMARKS])
    only = parser.parse_args().only
    for benchmark in BENCHMARKS:
        if only and benchmark.name not in only:
            continue
        sys.stderr.write(f"{benchmark.name} ...\n")
        done = section(benchmark)
        kept = sections(FILE.read_text()) if FILE.is_file() else {}
        kept[benchmark.name] = done
        order = [one.name for one in BENCHMARKS] + [name for name in kept if name not in {b.name for b in BENCHMARKS}]
        FILE.write_text("\n".join([HEAD, *(kept[name] for name in order if name in kept)]))


if __name__ == "__main__":
    main()
