"""Read sizes and counts as people write them: 8GB, 512MiB, 1M."""

from __future__ import annotations

import re

from packbench.errors import BadInput

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
          "TIB": 2**40}  # fmt: skip
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def _parse(text: str, units: dict[str, int], what: str, example: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text.replace("_", "").replace(",", ""))
    if match is None or match[2].upper() not in units:
        raise BadInput(f"{what} {text!r}: expected a number and a unit, such as {example}")
    value = int(float(match[1]) * units[match[2].upper()])
    if value < 1:
        raise BadInput(f"{what} {text!r}: expected at least 1")
    return value


def parse_bytes(text: str, what: str = "size") -> int:
    """Return the bytes of a size such as 8GB, 512MiB or 1000."""
    return _parse(text, _BYTES, what, "8GB or 512MiB")


def parse_count(text: str, what: str = "count") -> int:
    """Return a count such as 50M, 1_000_000 or 10k."""
    return _parse(text, _COUNTS, what, "1000000 or 50M")
