"""Import once, in the server that workers are forked from, what every worker needs."""

from __future__ import annotations

import gc

import faiss  # noqa: F401
import numpy as np

from packbench import kernels, registry, resources, sandbox, worker
from packbench.topk import top_k

# Look around once, not in every worker.
for cls in registry.methods().values():
    registry.field_types(cls)
resources.thread_pools()
sandbox.version()
sandbox.installed()
worker.own_folders()
# Compile or load what every search needs, and load what else lies on disk, so that no worker pays for it.
top_k(np.zeros((1, 4), np.float32), 2)
kernels.load_kernels()
# What is imported stays: a worker's collector need not walk it, nor copy its pages by touching them.
gc.collect()
gc.freeze()
