"""Round so that each coordinate makes up for the errors of those before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.items import Array
from packbench.methods.scalar.feedback import FeedbackGrid
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class GPFQ(FeedbackGrid):
    """Round coordinates to an even grid one by one, keeping the path of their scores near the true one.

    Each coordinate takes the level that brings the scores of the coordinates so far nearest to those of the vector,
    whatever is still to come: x_j + sum_{s<j} H_js e_s / H_jj is rounded, which the paper writes with the scores
    themselves. H = E[qq'] of the fit queries, shrunk; gptq also counts on the coordinates that follow. The bytes are
    those of int4 with a grid per dimension. Zhang, Zhou and Saab, "Post-training Quantization for Neural Networks with
    Provable Guarantees", 2022.
    """

    name: ClassVar[str] = "gpfq"
    fidelity: ClassVar[str] = "TRANSFER"
    paper: ClassVar[str] = (
        "Zhang, Zhou, Saab, Post-training Quantization for Neural Networks with Provable Guarantees, 2022"
    )
    bits: int = 4

    def _follow(self, moments: Array) -> Array:
        return np.tril(moments / np.diag(moments)[:, None], -1)
