"""Code each coordinate as a 4-bit floating-point number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Method
from packbench.methods.scalar.table import Scales, TableCodec, float_values
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class FP4(TableCodec):
    """Round each coordinate to a 4-bit floating-point number, E2M1, under the scale of its vector or block.

    The values are 0, 0.5, 1, 1.5, 2, 3, 4 and 6 with either sign, the greatest magnitude of the block being 6. A block
    of `block` coordinates has a scale of 8 bits, E4M3 under a factor of all items; block=0 is the whole vector, with a
    scale in float16. Dotzel et al., "FLIQS: One-Shot Mixed-Precision Floating-Point and Integer Quantization Search",
    2023, one of its formats.
    """

    name: ClassVar[str] = "fp4"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Dotzel et al., FLIQS: One-Shot Mixed-Precision Floating-Point and Integer Quantization Search, 2023"
    )
    formula: ClassVar[str] = "ceil(d/2) + ceil(d/block) per item, shared 8 (block=0: + 2, shared 4)"
    bits: ClassVar[int] = 4  # type: ignore[misc]
    block: int = 32

    def __post_init__(self) -> None:
        if self.block < 0 or self.block % 8:
            raise ValueError(f"block is 0 (the whole vector) or a multiple of 8, got {self.block}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting([cls(16), cls(32), cls(64), cls(0)]), 2)

    def _scales(self) -> Scales:
        return Scales(self.block, self.block > 0)

    def _table(self) -> Array:
        magnitudes = float_values(2, 1) / 6
        return np.concatenate([magnitudes, -magnitudes]).astype(np.float32)
