"""Code each coordinate as a 4-bit floating-point number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.items import Array
from packbench.methods.scalar.table import FourBitCodec, float_values
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class FP4(FourBitCodec):
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
    block: int = 32

    def _table(self) -> Array:
        magnitudes = float_values(2, 1) / 6
        return np.concatenate([magnitudes, -magnitudes]).astype(np.float32)
