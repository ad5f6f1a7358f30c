"""Train small torch models on a fit sample: one loop for every learned method, with early stopping and a fixed seed.

torch is imported when something is trained, never when a method is listed; what is learned leaves as numpy arrays, so
that encode and search need no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from packbench.items import Array

log = logging.getLogger(__name__)
HELD_OUT = 0.1  # of the fit sample, on which training is stopped
PATIENCE = 4  # epochs without improvement


def split(n: int, seed: int) -> tuple[Array, Array]:
    """Return the rows to train on and those held out to stop by, at least one of each."""
    order = np.random.default_rng(seed).permutation(n)
    held = min(max(1, round(HELD_OUT * n)), n - 1) if n > 1 else 0
    return np.sort(order[held:]), np.sort(order[:held] if held else order)


def train(
    parameters: Sequence[Any],
    loss: Callable[[Array], Any],
    n: int,
    *,
    seed: int,
    epochs: int,
    batch: int = 256,
    rate: float = 1e-3,
    after_step: Callable[[], None] | None = None,
    after_epoch: Callable[[int], None] | None = None,
    held_out_loss: Callable[[Array], Any] | None = None,
) -> float:
    """Minimise a loss over rows of the fit sample with Adam, and leave the parameters at their best held-out value.

    The step size stays for the first half of the epochs and then falls to zero in a straight line: steps of one size
    circle about the least loss, and take several times as many epochs to come as near.

    Args:
        parameters: torch tensors that require gradients.
        loss: takes row numbers (count,) and returns a torch scalar, the mean over them.
        n: rows of the sample.
        seed: of the split and of the order of batches; `torch.manual_seed` is set as well.
        epochs: at most so many passes; in the second half, the last is the one at whose end the held-out loss has not
            improved for `PATIENCE` of them.
        batch: rows per step.
        rate: Adam's first step size.
        after_step: called after each step, to project parameters back onto a constraint.
        after_epoch: called with the number of each finished epoch, to anneal a temperature or revive dead units.
        held_out_loss: what is stopped by, where the training loss is noisy on purpose; the loss itself unless given.

    Returns:
        The best held-out loss.
    """
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    rows, held = split(n, seed)
    adam = _adam(list(parameters))
    steps = epochs * -(-len(rows) // batch)
    judged = held_out_loss or loss
    best, waited, step = np.inf, 0, 0
    kept = [parameter.detach().clone() for parameter in parameters]
    for epoch in range(epochs):
        shuffled = rng.permutation(rows)
        for first in range(0, len(shuffled), batch):
            loss(shuffled[first : first + batch]).backward()
            adam(rate * min(1, 2 - 2 * step / steps))
            step += 1
            if after_step is not None:
                after_step()
        with torch.no_grad():
            now = float(judged(held))
        if after_epoch is not None:
            after_epoch(epoch)
        log.info("epoch %d/%d: held-out loss %.6g", epoch + 1, epochs, now)
        if now < best - 1e-6 * abs(best) or not np.isfinite(best):
            best, waited = now, 0
            kept = [parameter.detach().clone() for parameter in parameters]
        else:
            waited += 1
            if waited >= PATIENCE and 2 * step > steps:
                break
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return float(best)


def _adam(parameters: list[Any]) -> Callable[[float], None]:
    """Return what takes a step of a given size down the gradients of parameters, and clears them.

    Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2015. It is the function below torch.optim.Adam, whose
    constructor imports torch's compiler: more than a second of each worker.
    """
    import torch
    from torch.optim.adam import adam

    means, squares = ([torch.zeros_like(one) for one in parameters] for _ in range(2))
    counts = [torch.zeros(()) for _ in parameters]

    def step(size: float) -> None:
        with torch.no_grad():
            adam(
                parameters, [one.grad for one in parameters], means, squares, [], counts, fused=True, amsgrad=False,
                beta1=0.9, beta2=0.999, lr=size, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip
        for one in parameters:
            one.grad = None

    return step
