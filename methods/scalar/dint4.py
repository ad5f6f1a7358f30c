"""Code each coordinate as a small integer or half of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Method
from packbench.methods.scalar.table import Scales, TableCodec
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class DINT4(TableCodec):
    """Round each coordinate to an integer of -6 to 6 steps, or to half a step, so that small values do not vanish.

    The greatest magnitude of a block of `block` coordinates is six steps; its scale has 8 bits, E4M3 under a factor of
    all items, and block=0 is the whole vector, with a scale in float16. Of 16 codes one is not used, so that the levels
    are symmetric. Lee, Kim, Baek, Hwang, Sung and Choi, "Enhancing Computation Efficiency in Large Language Models
    through Weight and Activation Quantization", 2023, without its search for the scale.
    """

    name: ClassVar[str] = "dint4"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Lee, Kim, Baek, Hwang, Sung, Choi, Enhancing Computation Efficiency in Large Language Models through Weight "
        "and Activation Quantization, 2023"
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
        magnitudes = np.array([0.5, 1, 2, 3, 4, 5, 6]) / 6
        return np.concatenate([[0.0], magnitudes, -magnitudes]).astype(np.float32)
