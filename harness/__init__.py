"""Measure which way of compressing embeddings keeps the most retrieval quality in N bytes per vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are looked up on first use, so that `import packbench` and `packbench --help` stay fast.
_HOME = {
    "Arrays": "method", "Budget": "budget", "BudgetTooSmall": "errors", "BadInput": "errors", "Chain": "method",
    "Codec": "method", "Dataset": "dataset", "Hits": "method", "Method": "method", "Metric": "method",
    "PackbenchError": "errors", "Ragged": "items", "Sample": "method", "Searcher": "method", "Transform": "method",
    "load": "datasets", "open_index": "serve", "parse": "spec", "register": "registry", "results": "store",
    "run": "runner", "top_k": "topk",
}  # fmt: skip
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from packbench.budget import Budget as Budget
    from packbench.dataset import Dataset as Dataset
    from packbench.datasets import load as load
    from packbench.errors import BadInput as BadInput
    from packbench.errors import BudgetTooSmall as BudgetTooSmall
    from packbench.errors import PackbenchError as PackbenchError
    from packbench.items import Ragged as Ragged
    from packbench.method import Arrays as Arrays
    from packbench.method import Chain as Chain
    from packbench.method import Codec as Codec
    from packbench.method import Hits as Hits
    from packbench.method import Method as Method
    from packbench.method import Metric as Metric
    from packbench.method import Sample as Sample
    from packbench.method import Searcher as Searcher
    from packbench.method import Transform as Transform
    from packbench.registry import register as register
    from packbench.runner import run as run
    from packbench.serve import open_index as open_index
    from packbench.spec import parse as parse
    from packbench.store import results as results
    from packbench.topk import top_k as top_k


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f"packbench.{_HOME[name]}"), name)
    raise AttributeError(f"module 'packbench' has no attribute {name!r}")
