"""Learn levels bit after bit: each bit codes what the ones before it leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from packbench.budget import Budget
from packbench.errors import BadInput
from packbench.items import Array, Items, as_vectors
from packbench.method import BUILD, Arrays, Method, Metric, Sample, Searcher
from packbench.methods.binary.hamming import AsymmetricSearcher, check_scorer, code_bytes, pack_signs, whole_bytes
from packbench.methods.binary.linear import mean_of, project, random_rotation, unit_if
from packbench.methods.binary.sign import is_centred
from packbench.methods.projection.mlp import learnt, principal, values
from packbench.methods.training import train
from packbench.registry import register

POSITIVES = ("noise", "pairs")
TEMPERATURE = 0.1
QUEUE = 2048  # keys of earlier batches that serve as negatives
MOMENTUM = 0.99  # with which the parameters that make keys follow
BATCH = 256


@register
@dataclass(frozen=True, slots=True)
class BEBR(Method):
    """Code a vector in `dim` numbers of 1 + loops bits, each bit learnt to code what the bits before it leave.

    The signs of W_0 x come first; each loop rebuilds the vector as R_t b and adds 2^-t times the signs of W_t (x - R_t
    b) to b. Training is contrastive with straight-through signs: a vector and a copy of it with Gaussian noise of
    `noise` times its length, or sample queries and the items paired with them, against other items, those of a momentum
    queue included. W and R are linear, turned principal components at the start. The symmetric scorer codes queries as
    well and compares levels, for which search keeps every layer; the asymmetric one keeps W_0 q as it is and needs that
    layer alone. Lengths of items are lost. Gan and others, "Binary Embedding-based Retrieval at Tencent", 2023.
    """

    name: ClassVar[str] = "bebr"
    fidelity: ClassVar[str] = "ANALOGUE"
    kind: ClassVar[str] = "codec"
    imports: ClassVar[tuple[str, ...]] = ("torch",)
    paper: ClassVar[str] = "Gan et al., Binary Embedding-based Retrieval at Tencent, 2023"
    formula: ClassVar[str] = (
        "ceil(dim (loops + 1) / 8) per item; shared 4 d (dim + 1) + 1, symmetric 4 d ((2 loops + 1) dim + 1) + 1"
    )

    dim: int
    loops: int = 1
    scorer: str = "asymmetric"
    positives: str = "noise"
    noise: float = 1.0
    epochs: int = 5
    rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1 or not 0 <= self.loops <= 7:
            raise ValueError(f"dim is at least 1 and loops 0 to 7, got dim={self.dim}, loops={self.loops}")
        if self.positives not in POSITIVES:
            raise ValueError(f"positives={self.positives!r}: expected one of {', '.join(POSITIVES)}")
        check_scorer(self.scorer)

    @classmethod
    def for_budget(cls, budget: Budget) -> Iterable[Method]:
        def most(loops: int, scorer: str) -> BEBR:
            layers = 1 if scorer == "asymmetric" else 2 * loops + 1
            bits = whole_bytes(budget, 4 * budget.d * layers / (loops + 1), fixed=4 * budget.d + 1)
            return cls(max(1, min(budget.d, bits // (loops + 1))), loops, scorer)

        # As few loops as use up the budget, for a new dimension tells more than a finer level; then one more.
        chosen = [most(loops, "asymmetric") for loops in range(4)]
        first = next((at for at, one in enumerate(chosen) if one.dim < budget.d), len(chosen) - 1)
        ordered = [chosen[first], chosen[max(first - 1, 0)], chosen[min(first + 1, 3)], most(first, "symmetric")]
        return budget.fitting(list(dict.fromkeys(ordered))[:3])

    def needed(self) -> frozenset[str]:
        return frozenset({"queries", "pairs"}) if self.positives == "pairs" else frozenset()

    def planned_bytes(self, d: int) -> tuple[float, float, float]:
        layers = 1 if self.scorer == "asymmetric" else 2 * self.loops + 1
        return float(code_bytes(self.dim * (self.loops + 1))), 4.0 * d * (layers * self.dim + 1) + 1, 0.0

    def fit(self, sample: Sample) -> Arrays:
        flag = np.array([sample.metric == "cosine"], np.uint8)
        x = unit_if(flag, as_vectors(sample.items, "fit sample"))
        if len(x) < 2 or self.dim > x.shape[1]:
            raise BadInput(f"{self}: {len(x)} rows of {x.shape[1]} coordinates; expected 2 or more of at least dim")
        mean = mean_of(x)
        shared = {"mean": mean, "unit": flag}
        anchors, positives = x, x
        if self.positives == "pairs":
            pairs = np.asarray(sample.extras.get("pairs", np.empty((0, 2)))).astype(np.int64)
            if sample.queries is None or pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) < 2:
                raise BadInput(f"{self}: needs sample queries and, in extras['pairs'], rows (query, item)")
            queries = unit_if(flag, as_vectors(sample.queries, "fit queries"))
            anchors, positives = queries[pairs[:, 0]], x[pairs[:, 1]]
        layers = self._train(anchors - mean, positives - mean, principal(x - mean, self.dim))
        for name, layer in layers.items():
            shared[name if name == "W0" or self.scorer == "symmetric" else BUILD + name] = layer
        return shared

    def _train(self, anchors: Array, positives: Array, components: Array) -> dict[str, Array]:
        import torch

        # Signs see no scale; at unit variance of what they cut, the straight-through slope passes where it matters.
        length = max(float(np.sqrt(np.mean((positives @ components.T) ** 2))), 1e-12)
        begin = random_rotation(self.dim, self.seed) @ components
        rebuild = begin.T * np.float32(np.sqrt(2 / np.pi))
        names = ["W0", *(f"{layer}{loop}" for loop in range(1, self.loops + 1) for layer in ("R", "W"))]
        online = learnt([rebuild if name.startswith("R") else begin for name in names])
        momentum = [parameter.detach().clone() for parameter in online]
        asked, answers = torch.from_numpy(anchors / length), torch.from_numpy(positives / length)
        generator = torch.Generator().manual_seed(self.seed)
        spread = self.noise * float(answers.square().sum(dim=1).mean().sqrt()) / np.sqrt(answers.shape[1])
        noise = torch.randn(asked.shape, generator=generator) * spread if self.positives == "noise" else 0
        held = asked + noise
        directions = torch.nn.functional.normalize
        keys = torch.empty(0, self.dim)
        kept_rows = np.empty(0, np.int64)

        def levels(rows: Any, layers: list[Any]) -> tuple[Any, Any]:
            real = rows @ layers[0].T
            code = _signs(real)
            for loop in range(1, self.loops + 1):
                back, ahead = layers[2 * loop - 1 : 2 * loop + 1]
                code = code + 2.0**-loop * _signs((rows - code @ back.T) @ ahead.T)
            return real, code

        def contrast(queries: Any, rows: Array, others: Any, other_rows: Array) -> Any:
            real, code = levels(queries, online)
            asking = real if self.scorer == "asymmetric" else code
            candidates = torch.cat([directions(levels(answers[rows], online)[1]), others])
            logits = directions(asking) / TEMPERATURE @ candidates.T
            same = np.concatenate([rows, other_rows]) == rows[:, None]
            same[np.arange(len(rows)), np.arange(len(rows))] = False
            logits = logits.masked_fill(torch.from_numpy(same), -torch.inf)
            return torch.nn.functional.cross_entropy(logits, torch.arange(len(rows)))

        def loss(rows: Array) -> Any:
            nonlocal keys, kept_rows
            fresh = asked[rows]
            if self.positives == "noise":
                fresh = fresh + torch.randn(fresh.shape, generator=generator) * spread
            value = contrast(fresh, rows, keys, kept_rows)
            with torch.no_grad():
                keys = torch.cat([directions(levels(answers[rows], momentum)[1]), keys])[:QUEUE]
            kept_rows = np.concatenate([rows, kept_rows])[:QUEUE]
            return value

        def follow() -> None:
            with torch.no_grad():
                for slow, fast in zip(momentum, online, strict=True):
                    slow.lerp_(fast, 1 - MOMENTUM)

        train(
            online, loss, len(asked), seed=self.seed, epochs=self.epochs, batch=BATCH, rate=self.rate,
            after_step=follow, held_out_loss=lambda rows: contrast(held[rows], rows, keys[:0], kept_rows[:0]),
        )  # fmt: skip
        # The rebuilt vector is subtracted from one of the original length.
        return {
            name: layer * np.float32(length) if name.startswith("R") else layer
            for name, layer in zip(names, values(online), strict=True)
        }

    def _planes(self, vectors: Array, shared: Arrays) -> Array:
        """Return the signs (n, loops + 1, dim) float32 of centred vectors."""
        layer = {name.removeprefix(BUILD): np.ascontiguousarray(value.T) for name, value in shared.items()}
        planes = np.empty((len(vectors), self.loops + 1, self.dim), np.float32)
        planes[:, 0] = np.where(project(vectors, layer["W0"]) > 0, 1, -1)
        code = planes[:, 0].copy()
        for loop in range(1, self.loops + 1):
            left = vectors - project(code, layer[f"R{loop}"])
            planes[:, loop] = np.where(project(left, layer[f"W{loop}"]) > 0, 1, -1)
            code += np.float32(2.0**-loop) * planes[:, loop]
        return planes

    def encode(self, items: Items, shared: Arrays) -> Arrays:
        planes = self._planes(unit_if(shared["unit"], as_vectors(items)) - shared["mean"], shared)
        return {"codes": pack_signs(planes.reshape(len(planes), (self.loops + 1) * self.dim))}

    def open(self, codes: Arrays, shared: Arrays, metric: Metric) -> Searcher:
        weights = np.float32(2.0) ** -np.arange(self.loops + 1, dtype=np.float32)

        def real(queries: Array) -> Array:
            vectors = unit_if(shared["unit"], queries)
            if is_centred(self.scorer, metric):
                vectors = vectors - shared["mean"]
            if self.scorer == "symmetric":
                mapped = np.einsum("npd,p->nd", self._planes(vectors, shared), weights)
            else:
                mapped = vectors @ shared["W0"].T
            # A level is the sum of its signs times these weights, so one product serves all planes.
            return np.asarray((mapped[:, None] * weights[:, None]).reshape(len(queries), (self.loops + 1) * self.dim))

        return AsymmetricSearcher(codes["codes"], real)


def _signs(real: Any) -> Any:
    """Return signs, with the slope of a line from -1 to 1 where that cuts and none beyond."""
    import torch

    soft = real.clamp(-1, 1)
    return soft + (torch.where(real > 0, 1.0, -1.0) - soft).detach()
