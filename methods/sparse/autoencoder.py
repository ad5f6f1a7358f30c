"""Code vectors as a few atoms of a learned dictionary: sparse autoencoders, trained by torch and run by numpy.

An item is centre + sum_j values[j] * atoms[index[j]]. Where queries are scored through the dictionary, search needs
the atoms and the codes, and the encoder serves `encode` alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.items import Array, Items, as_vectors, blocks
from packbench.method import Arrays, Codec, Method, Metric, Sample, Searcher
from packbench.methods.projection.linear import map_queries, map_rows, unit
from packbench.methods.sparse.support import BITS, HALF, SparseFormat, fitting_formats, top_k_rows
from packbench.methods.training import train

M = TypeVar("M", bound=Method)
Kept = Literal["positive", "highest"]  # which activations stay: the largest above zero, or the largest of any sign

FIT_ROWS = 65_536  # the dictionary of a larger sample hardly differs
LEVEL_ROWS = 4096  # whose values the levels are learnt from
BATCH, RATE = 128, 5e-3
EPOCHS, STEPS = 100, 1500  # whichever comes first
ROWS = 4096  # coded at once: their activations are rows x atoms float32


class DictionaryCodec(Codec):
    """Be a codec of k values at k of `atoms` places, each the weight of an atom; `bits` is the size of a value.

    With `keep_length`, the values of an item are scaled until what they rebuild is as long as its deviation from the
    centre: a few atoms always fall short, and by more for some items than for others, which would rank the latter
    first. Under cosine, items are brought to unit length and compared by inner product.
    """

    __slots__ = ()
    kind: ClassVar[str] = "codec"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    formula: ClassVar[str] = (
        "places + ceil(bits k/8) + 2 per item (bits=16: places + 2k), places the least over l of "
        "ceil(min(atoms, k + floor((atoms - 1)/2^l) + k l, k ceil(log2 atoms))/8), none if k = atoms; "
        "shared 2 atoms d + 4d + 4 2^bits (bits=16: 2 atoms d + 4d)"
    )
    kept: ClassVar[Kept] = "positive"
    k: int
    atoms: int
    bits: int
    keep_length: bool

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.atoms:
            raise ValueError(f"k is how many of {self.atoms} atoms are kept, got {self.k}")
        if self.bits not in BITS:
            raise ValueError(f"bits is one of {', '.join(map(str, BITS))}; got {self.bits}")

    @abstractmethod
    def learn(self, vectors: Array, sample: Sample) -> dict[str, Array]:
        """Learn from vectors (n, d), n > 0: the sample's, of unit length where its metric is cosine.

        Returns atoms (atoms, d) float16 and centre (d,) float32 for search, and for `activations` what it reads.
        """

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        return self.format.item_bytes(), dictionary_bytes(self.atoms, d) + self.format.shared_bytes(), 0.0

    def fit(self, sample: Sample) -> Arrays:
        vectors = as_vectors(sample.items, "fit sample")
        if not len(vectors):
            raise BadInput(f"{self}: the fit sample is empty, so there are no atoms to learn")
        cosine = sample.metric == "cosine"
        vectors = unit(vectors) if cosine else vectors
        learned = self.learn(vectors, sample)
        _, values = self.keep(self.activations(vectors[:LEVEL_ROWS], learned))
        return learned | self.format.learn(values) | {"build/unit": np.array([cosine], np.uint8)}

    def activations(self, vectors: Array, shared: Arrays) -> Array:
        """Return (n, atoms) float32, the same for a row whatever rows come with it."""
        bias = shared["build/bias"] if "build/bias" in shared else shared["bias"]
        return map_rows(vectors - shared["centre"], shared["build/encoder"]) + bias

    def keep(self, activations: Array) -> tuple[Array, Array]:
        """Return places and values (n, k) of the activations that stay, in ascending place."""
        if self.kept == "positive":
            return top_k_rows(np.maximum(activations, 0), self.k)
        index, _ = top_k_rows(activations - activations.min(axis=1, keepdims=True), self.k)
        return index, np.take_along_axis(activations, index.astype(np.intp), axis=1)

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        vectors = as_vectors(items)
        parts = blocks(len(vectors), ROWS) if len(vectors) else [slice(0)]
        pieces = [self._encode(vectors[part], shared) for part in parts]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def decode(self, codes: Arrays, shared: Arrays) -> Array:
        return self._deviations(codes, shared) + shared["centre"]

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        if metric == "l2":  # asks for the lengths of rebuilt vectors, which are not stored
            return super().open(codes, shared, metric)
        atoms = shared["atoms"].astype(np.float32)
        return self.format.searcher(codes, shared, "ip", lambda queries: map_queries(queries, atoms))

    @property
    def format(self) -> SparseFormat:
        """Return how codes are stored."""
        return SparseFormat(self.k, self.atoms, self.bits)

    def _encode(self, vectors: Array, shared: Arrays) -> dict[str, Array]:
        if shared["build/unit"][0]:
            vectors = unit(vectors)
        codes = self.format.code(*self.keep(self.activations(vectors, shared)), shared)
        if self.keep_length:
            wanted = np.linalg.norm(vectors - shared["centre"], axis=1, keepdims=True)
            found = np.linalg.norm(self._deviations(codes, shared), axis=1, keepdims=True)
            scaled = "values" if self.bits == 16 else "scale"
            longer = codes[scaled] * np.where(found > 0, wanted / np.where(found > 0, found, 1), 1)
            codes[scaled] = np.clip(longer, -HALF, HALF).astype(np.float16)
        return codes

    def _deviations(self, codes: Arrays, shared: Arrays) -> Array:
        return map_rows(self.format.rows(codes, shared), np.ascontiguousarray(shared["atoms"].T, np.float32))


def dictionary_bytes(atoms: int, d: int) -> float:
    """Return the bytes of float16 atoms and a float32 centre."""
    return 2.0 * atoms * d + 4.0 * d


def sizes(d: int) -> tuple[int, ...]:
    """Return the numbers of atoms to try at a budget, most promising first."""
    return (2 * d // 3, d // 3, 2 * d)


def filling(make: Callable[[int, int, int], M], numbers: Iterable[int], budget: Budget, extra: float = 0.0) -> list[M]:
    """Return `make(k, atoms, bits)` in the format of least expected error, for the first three numbers that fit.

    extra is the bytes that each atom takes besides the dictionary.

    Raises:
        BudgetTooSmall: not even two atoms fit.
    """
    least = float("inf")
    found = []
    for atoms in (*numbers, 32, 2):
        try:
            best = fitting_formats(budget, atoms, shared=dictionary_bytes(atoms, budget.d) + extra * atoms)[0]
            found.append(make(best.k, best.width, best.bits))
        except BudgetTooSmall as error:
            least = min(least, error.least)
    if not found:
        raise BudgetTooSmall(least)
    return found[:3]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Say how sparse autoencoders are trained: which activations stay, which weights are free, what is minimised.

    unit_atoms: atoms keep length one.
    wide: weight of the error with 4k atoms kept.
    revive: weight of the share of the error that is left when atoms unused for an epoch rebuild it alone.
    anneal: k falls from all atoms to its value over the first half of the epochs.
    contrast: weight of InfoNCE between the codes of vectors and those of their partners.
    agreement: weight of 1 - mean max cosine between the atoms of two autoencoders, of which the first is returned.
    saturated: activations are log(1 + ReLU), of vectors whose length is one on average.
    flops: weight of the sum over atoms of (mean activation)^2, with which all activations are kept, not k.
    steered: over the first half of the epochs, flops changes until k activations of a row are above zero on average.
    """

    k: int
    atoms: int
    seed: int
    kept: Kept = "positive"
    tied: bool = True
    unit_atoms: bool = True
    wide: float = 0.0
    revive: float = 0.0
    anneal: bool = False
    contrast: float = 0.0
    temperature: float = 0.2
    agreement: float = 0.0
    saturated: bool = False
    flops: float = 0.0
    steered: bool = False


def train_autoencoder(vectors: Array, recipe: Recipe, partners: Array | None = None) -> dict[str, Array]:
    """Train on vectors (n, d), and on a partner of each (n, d) where there are pairs.

    Returns:
        What `DictionaryCodec` asks for: the atoms, the centre, and the encoder as "build/" arrays.
    """
    import torch

    rows = fit_rows(len(vectors), recipe.seed)
    shift, length = standard(vectors[rows])
    x = torch.from_numpy((vectors[rows] - shift) / length)
    y = None if partners is None else torch.from_numpy((partners[rows] - shift) / length)
    seeds = (recipe.seed, recipe.seed + 1) if recipe.agreement else (recipe.seed,)
    networks = [_Network(recipe, vectors.shape[1], seed, patience=len(rows)) for seed in seeds]
    epochs = epochs_for(len(rows))

    def loss(batch: Array) -> Any:
        total: Any = 0.0
        for network in networks:
            error, codes = network.rebuilding(x[batch])
            others = codes
            if y is not None:
                other_error, others = network.rebuilding(y[batch])
                error = (error + other_error) / 2
            total = total + error + (recipe.contrast and recipe.contrast * info_nce(codes, others, recipe.temperature))
        if recipe.agreement:
            total = total + recipe.agreement * (1 - _mean_max_cosine(*(network.atoms for network in networks)))
        return total

    def held_out_loss(batch: Array) -> Any:
        # While k or a weight changes, errors do not compare from epoch to epoch; an infinite one stops nothing.
        return np.inf if networks[0].changing else loss(batch)

    def after_step() -> None:
        for network in networks:
            network.shorten()

    def after_epoch(epoch: int) -> None:
        for network in networks:
            network.adjust(min(1.0, 2 * (epoch + 1) / epochs))

    train(
        [parameter for network in networks for parameter in network.parameters()], loss, len(rows), seed=recipe.seed,
        epochs=epochs, batch=BATCH, rate=RATE, after_step=after_step, after_epoch=after_epoch,
        held_out_loss=held_out_loss,
    )  # fmt: skip
    return networks[0].arrays(shift, length)


def fit_rows(n: int, seed: int) -> Array:
    """Return the rows to train on: all of them, or as many as `FIT_ROWS` drawn at random."""
    rows = np.arange(n)
    return rows if n <= FIT_ROWS else np.sort(np.random.default_rng(seed).choice(rows, FIT_ROWS, replace=False))


def epochs_for(n: int) -> int:
    """Return how often to pass through n rows in batches of `BATCH`."""
    return max(3, min(EPOCHS, STEPS * BATCH // n))


def standard(vectors: Array) -> tuple[Array, np.float32]:
    """Return the median (d,) and the root mean square distance from it, 1 where all rows are equal.

    Shifted and scaled by these, vectors of any size train at the same rate.
    """
    median = np.median(vectors, axis=0).astype(np.float32)
    length = np.sqrt(np.mean(np.sum(np.square(vectors - median), axis=1, dtype=np.float64)))
    return median, np.float32(length if length > 0 else 1)


def info_nce(codes: Any, partners: Any, temperature: float) -> Any:
    """Return the cross-entropy of telling each code's partner from those of the rest of the batch, by cosine."""
    import torch
    from torch.nn.functional import cross_entropy

    lengths = torch.outer(*(one.norm(dim=1).clamp_min(1e-12) for one in (codes, partners)))
    return cross_entropy(codes @ partners.T / (temperature * lengths), torch.arange(len(codes)))


def _mean_max_cosine(one: Any, other: Any) -> Any:
    """Return how well each atom's nearest atom in the other dictionary matches it, on average over both."""
    from torch.nn.functional import normalize

    cosines = normalize(one) @ normalize(other).T
    return (cosines.max(0).values.mean() + cosines.max(1).values.mean()) / 2


class _Network:
    """Hold the torch parameters of one autoencoder, and what is known of the use of its atoms."""

    def __init__(self, recipe: Recipe, d: int, seed: int, patience: int) -> None:
        import torch

        self.recipe, self.flops = recipe, recipe.flops
        self.k = recipe.atoms if recipe.anneal or recipe.flops else recipe.k
        self.changing = recipe.anneal or recipe.steered
        # Random directions, not rows of the sample: those overfit a small one.
        drawn = np.random.default_rng([seed, 0x61746F6D]).standard_normal((recipe.atoms, d))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        self.atoms: Any = torch.tensor(drawn, dtype=torch.float32, requires_grad=True)
        self.encoder = self.atoms if recipe.tied else self.atoms.detach().clone().requires_grad_()
        self.bias = torch.zeros(recipe.atoms, requires_grad=True)
        self.centre = torch.zeros(d, requires_grad=True)
        self.idle, self.patience = torch.zeros(recipe.atoms), patience  # both in rows
        if recipe.unit_atoms:
            self.atoms.register_hook(self._across)  # type: ignore[no-untyped-call]

    def _across(self, gradient: Any) -> Any:
        """Return the part of a gradient that turns atoms and leaves their length."""
        atoms = self.atoms.detach()
        return gradient - (gradient * atoms).sum(1, keepdim=True) * atoms

    def parameters(self) -> list[Any]:
        tied = [self.atoms, self.bias, self.centre]
        return tied if self.recipe.tied else [*tied, self.encoder]

    def rebuilding(self, x: Any) -> tuple[Any, Any]:
        """Return the error of rebuilding vectors (n, d), with the terms that the recipe adds, and their codes."""
        import torch
        from torch.nn.functional import mse_loss

        recipe = self.recipe
        # (x - centre) @ encoder.T + bias, in which no product with a gradient is as large as the sample.
        activations = torch.addmm(self.bias - self.encoder @ self.centre, x, self.encoder.T)
        if recipe.saturated:
            activations = activations.relu().log1p()
        codes = self._kept(activations, self.k)
        rebuilt = self._rebuilt(codes)
        error = mse_loss(rebuilt, x, reduction="sum") / len(x)
        if recipe.wide:
            wide = self._rebuilt(self._kept(activations, 4 * self.k))
            error = error + recipe.wide / len(x) * mse_loss(wide, x, reduction="sum")
        if recipe.flops:
            if recipe.steered and self.changing and torch.is_grad_enabled():
                excess = int(codes.count_nonzero()) / (recipe.k * len(x))
                self.flops *= float(np.clip(excess**0.1, 0.95, 1.05))
            error = error + self.flops * codes.abs().mean(0).square().sum()
        if recipe.revive and torch.is_grad_enabled():
            self.idle += len(x)
            self.idle[codes.detach().abs().amax(0) > 0] = 0
            error = error + recipe.revive * self._revival(activations, x - rebuilt.detach())
        return error, codes

    def _kept(self, activations: Any, k: int) -> Any:
        """Set all but the k highest activations to zero, and what is below zero where only the positive stay."""
        import torch

        positive, found = self.recipe.kept == "positive", activations.detach().numpy()
        if k >= self.recipe.atoms:
            return activations.relu() if positive else activations
        # numpy sorts rows in a tenth of the time that torch takes to select from them.
        bound = np.sort(found, axis=1)[:, -k - 1, None]
        kept = found > (np.maximum(bound, 0) if positive else bound)
        return activations * torch.from_numpy(kept.astype(np.float32))

    def _rebuilt(self, codes: Any) -> Any:
        import torch

        return torch.addmm(self.centre, codes, self.atoms)

    def _revival(self, activations: Any, left: Any) -> Any:
        dead = self.idle > self.patience
        if not dead.any():
            return 0.0
        idle = activations[:, dead]
        best = idle.topk(min(max(1, left.shape[1] // 2), idle.shape[1]), dim=1)
        codes = idle.new_zeros(idle.shape).scatter(1, best.indices, best.values.relu())
        return (left - codes @ self.atoms[dead]).square().sum() / left.square().sum().clamp_min(1e-12)

    def shorten(self) -> None:
        """Bring atoms back to length one, if they are to have it."""
        if self.recipe.unit_atoms:
            self.atoms.data /= self.atoms.data.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def adjust(self, progress: float) -> None:
        """Let k fall in proportion to progress, from 0 to 1, at which nothing but the weights changes any more."""
        if self.changing and self.recipe.anneal:
            self.k = round(self.recipe.atoms + progress * (self.recipe.k - self.recipe.atoms))
        self.changing = self.changing and progress < 1

    def arrays(self, shift: Array, length: np.float32) -> dict[str, Array]:
        """Return the weights for vectors as they were given."""
        atoms, encoder, bias, centre = (
            one.detach().numpy() for one in (self.atoms, self.encoder, self.bias, self.centre)
        )
        return {
            "atoms": atoms.astype(np.float16), "centre": shift + length * centre,
            "build/encoder": encoder.copy(), "build/bias": length * bias,
            "build/length": np.array([length], np.float32),
        }  # fmt: skip
