"""Code each coordinate as a small integer or half of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.items import Array
from packbench.methods.scalar.table import FourBitCodec
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class DINT4(FourBitCodec):
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
    block: int = 32

    def _table(self) -> Array:
        magnitudes = np.array([0.5, 1, 2, 3, 4, 5, 6]) / 6
        return np.concatenate([[0.0], magnitudes, -magnitudes]).astype(np.float32)
