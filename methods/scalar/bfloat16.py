"""Cast to the upper half of a float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.items import Array
from packbench.methods.scalar.casts import CastCodec
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class BFloat16(CastCodec):
    """Round each coordinate to bfloat16: the range of float32 with 8 significant bits.

    Eight times coarser than float16, so it wins only where the dynamic range is extreme. Kalamkar and others, "A Study
    of BFLOAT16 for Deep Learning Training", 2019.
    """

    name: ClassVar[str] = "bfloat16"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019"
    formula: ClassVar[str] = "2d per item"
    _half: ClassVar[bool] = False  # type: ignore[misc]

    def _cast(self, vectors: Array) -> Array:
        pattern = vectors.view(np.uint32)
        # Adding just under half a unit, plus the last kept bit, rounds to nearest with ties to even.
        rounded = (pattern + (0x7FFF + ((pattern >> 16) & 1))) >> 16
        # The largest finite numbers would round to infinity: they saturate.
        return np.where(rounded & 0x7FFF == 0x7F80, rounded - 1, rounded).astype(np.uint16)
