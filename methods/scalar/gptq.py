"""Round so that the coordinates still to come make up for the errors of those before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packbench.items import Array
from packbench.methods.scalar.feedback import FeedbackGrid
from packbench.registry import register


@register
@dataclass(frozen=True, slots=True)
class GPTQ(FeedbackGrid):
    """Round to an even grid so that the error of scores is small, not the error of the vector.

    A stored vector is to its queries what a row of weights is to its inputs. With H = E[qq'] of the fit queries,
    shrunk, each coordinate in turn is rounded and its error handed on to those that follow, as far as they can make up
    for it in e'He. The bytes are those of int4 with a grid per dimension, and the squared error is greater. Frantar,
    Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", 2022, in the order of falling H_jj.
    """

    name: ClassVar[str] = "gptq"
    fidelity: ClassVar[str] = "TRANSFER"
    paper: ClassVar[str] = (
        "Frantar, Ashkboos, Hoefler, Alistarh, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained "
        "Transformers, 2022"
    )
    bits: int = 4

    def _follow(self, moments: Array) -> Array:
        # H = L'L with L lower triangular, so that e'He is a sum of squares (L_jj e_j + sum_{s<j} L_js e_s)², each
        # made small by its own e_j. It is the Cholesky factor of the inverse that GPTQ works with, inverted.
        lower = np.linalg.cholesky(moments[::-1, ::-1])[::-1, ::-1].T
        return np.tril(lower / np.diag(lower)[:, None], -1)
