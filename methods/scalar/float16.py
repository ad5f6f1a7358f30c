"""Cast to IEEE half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.items import Array
from packbench.methods.scalar.casts import CastCodec
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class Float16(CastCodec):
    """Round each coordinate to IEEE half precision: 11 significant bits, values up to 65504.

    Larger values saturate, and below 6.1e-5 precision falls off: look at the range of vectors that are not normalised.
    IEEE 754 binary16, 2008.
    """

    name: ClassVar[str] = "float16"
    fidelity: ClassVar[str] = "EXACT"
    kind: ClassVar[str] = "quantiser"
    paper: ClassVar[str] = "IEEE, Standard for Floating-Point Arithmetic (754), 2008"
    formula: ClassVar[str] = "2d per item"
    _half: ClassVar[bool] = True  # type: ignore[misc]

    def _cast(self, vectors: Array) -> Array:
        limit = np.finfo(np.float16).max
        return np.clip(vectors, -limit, limit).astype(np.float16)
