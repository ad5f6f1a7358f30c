"""Code each coordinate as the nearest quantile of a Gaussian."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np
from scipy.special import ndtri

from packbench.budget import Budget
from packbench.items import Array
from packbench.method import Method
from packbench.methods.scalar.table import Scales, TableCodec
from packbench.registry import register

OUTERMOST = 0.9677083  # probability of the last level: the mean of 1 - 1/32 and 1 - 1/30


@register
@dataclass(frozen=True, slots=True)
class NormalFloat(TableCodec):
    """Round each coordinate to one of 2^bits quantiles of a Gaussian, zero among them, under the scale of its block.

    Half the levels are positive, one is zero; the greatest magnitude of a block is a level. It suits blocks that are
    about Gaussian: rotate first. Scales are 8 bits, E4M3 under a factor of all items, or float16 with double=False.
    Guo, Greengard, Xing and Kim, "LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model
    Finetuning", 2023, after Dettmers, Pagnoni, Holtzman and Zettlemoyer, "QLoRA", 2023.
    """

    name: ClassVar[str] = "normal_float"
    fidelity: ClassVar[str] = "TRANSFER"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = (
        "Guo, Greengard, Xing, Kim, LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model "
        "Finetuning, 2023"
    )
    formula: ClassVar[str] = (
        "ceil(bits d/8) + ceil(d/block) per item, shared 8 (double=False: + 2 ceil(d/block), shared 4)"
    )
    bits: int = 4
    block: int = 64
    double: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits is 2 to 8, got {self.bits}")
        if self.block < 0 or self.block % 8:
            raise ValueError(f"block is 0 (the whole vector) or a multiple of 8, got {self.block}")

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        return islice(budget.fitting(cls(b, block) for b in range(8, 1, -1) for block in (32, 64, 0)), 2)

    def _scales(self) -> Scales:
        return Scales(self.block, self.double)

    def _table(self) -> Array:
        half = 2 ** (self.bits - 1)
        positive = ndtri(np.linspace(0.5, OUTERMOST, half + 1))
        negative = -ndtri(np.linspace(0.5, OUTERMOST, half))[:0:-1]
        levels = np.concatenate([negative, positive]) / positive[-1]
        return np.asarray(levels, np.float32)
