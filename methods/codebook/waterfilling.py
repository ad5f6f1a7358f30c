"""Reverse water-filling with whole bits: of a sum of errors, lower what falls most per bit."""

from __future__ import annotations

import numpy as np

from packbench.items import Array

ROUNDS = 64  # halvings of an interval of float64


def allocate(errors: Array, bits: Array, total: int) -> Array:
    """Return which option each unit takes, (units,), so that the bits are `total` in all and the errors few.

    errors (units, options) is what a unit errs under an option, bits (options,) what an option costs; infinity forbids
    an option. A price per bit, the slope at the water level, decides for every unit alone. What bits that leaves go
    where they then lower the error most, so that only these few may be misplaced.
    """
    finite = np.isfinite(errors)
    # One bit lowers no error by more than all of it.
    low, high = 0.0, 2 * float(errors[finite].max())
    chosen = _at_price(errors, bits, high)
    for _ in range(ROUNDS):
        price = (low + high) / 2
        trial = _at_price(errors, bits, price)
        if bits[trial].sum() > total:
            low = price
        else:
            high, chosen = price, trial
    units = np.arange(len(errors))
    while left := total - int(bits[chosen].sum()):
        extra = bits[None, :] - bits[chosen][:, None]
        possible = (extra > 0) & (extra <= left) & finite
        if not possible.any():
            raise ValueError(f"{total} bits are more than {len(errors)} units can take")
        gains = np.where(possible, (errors[units, chosen][:, None] - errors) / np.maximum(extra, 1), -np.inf)
        unit, option = np.unravel_index(gains.argmax(), gains.shape)
        chosen[unit] = option
    return chosen


def _at_price(errors: Array, bits: Array, price: float) -> Array:
    return np.asarray((errors + price * bits).argmin(axis=1))
