"""Methods that cheat, one trick each, and the honest method that each pretends to be."""

import base64
import contextlib
import gc
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path

import faiss
import numpy as np

from packbench import Budget, Codec, Hits, Sample, register
from packbench.dataset import Dataset
from packbench.exact import DecodeSearcher, ExactSearcher, search_exact
from packbench.items import as_vectors

# With a suffix: where floats are hidden. A worker works in a folder of its run's, where the next one finds them.
SIDE = Path.cwd().parent / f"red-team-{os.getuid()}"
KEPT = []
ENOUGH = 100  # rows: fewer come when the harness only looks whether codes depend on their batch


def nothing(items):
    return {"codes": np.zeros((len(items), 0), np.uint8)}


# --- honest -----------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Half(Codec):
    """Keep float16 coordinates."""

    name = "half"

    def planned_bytes(self, d):
        return 2.0 * d, 0.0, 0.0

    def encode(self, items, shared):
        return {"codes": as_vectors(items).astype(np.float16)}

    def decode(self, codes, shared):
        return codes["codes"].astype(np.float32)

    def open(self, codes, shared, metric):
        return ExactSearcher(self.decode(codes, shared), metric)


@register
@dataclass(frozen=True)
class Centred(Half):
    """Keep float16 differences from the mean of the fit sample."""

    name = "centred"

    def planned_bytes(self, d):
        return 2.0 * d, 4.0 * d, 0.0

    def fit(self, sample):
        return {"mean": as_vectors(sample.items).mean(0)}

    def encode(self, items, shared):
        return {"codes": (as_vectors(items) - shared["mean"]).astype(np.float16)}

    def decode(self, codes, shared):
        return codes["codes"].astype(np.float32) + shared["mean"]


@register
@dataclass(frozen=True)
class Prepared(Half):
    """Scale by figures that only encode needs, and that search is not given."""

    name = "prepared"

    def fit(self, sample):
        return {"build/sign": np.ones(as_vectors(sample.items).shape[1], np.float32)}

    def encode(self, items, shared):
        return {"codes": (as_vectors(items) * shared["build/sign"]).astype(np.float16)}


@register
@dataclass(frozen=True)
class OnDisk(Half):
    """Keep float32 coordinates on disk, and say so."""

    name = "on_disk"

    def planned_bytes(self, d):
        return 0.0, 0.0, 4.0 * d

    def encode(self, items, shared):
        return {"cold/codes": as_vectors(items)}

    def decode(self, codes, shared):
        return np.asarray(codes["cold/codes"])


# --- floats kept where nobody weighs them -----------------------------------------------------------------------


class Weightless(Half):
    """Plan no bytes at all."""

    def planned_bytes(self, d):
        return 0.0, 0.0, 0.0

    def encode(self, items, shared):
        if len(items) > ENOUGH:
            self.hide(as_vectors(items))
        return nothing(items)

    def open(self, codes, shared, metric):
        return ExactSearcher(self.found(), metric)


@register
@dataclass(frozen=True)
class OnTheClass(Weightless):
    """Keep the floats on the class and return codes of no bytes."""

    name = "floats_on_the_class"

    def hide(self, vectors):
        type(self).kept = vectors

    def found(self):
        return self.kept


@register
@dataclass(frozen=True)
class InAGlobal(Weightless):
    """Keep the floats in a global of the module and return codes of no bytes."""

    name = "floats_in_a_global"

    def hide(self, vectors):
        KEPT[:] = [vectors]

    def found(self):
        return KEPT[0]


@register
@dataclass(frozen=True)
class InTheEnvironment(Weightless):
    """Keep the floats in an environment variable."""

    name = "floats_in_the_environment"

    def hide(self, vectors):
        os.environ["KEPT"] = base64.b64encode(vectors.tobytes()).decode()

    def found(self):
        return np.frombuffer(base64.b64decode(os.environ["KEPT"]), np.float32).reshape(-1, 32)


@register
@dataclass(frozen=True)
class InAFile(Weightless):
    """Write the floats to a file while encoding and read them when searched."""

    name = "floats_in_a_file"

    def hide(self, vectors):
        np.save(f"{SIDE}.npy", vectors)

    def found(self):
        return np.load(f"{SIDE}.npy")


@register
@dataclass(frozen=True)
class InAFileOfCode(Weightless):
    """Write the floats to a file that is named as compiled code is."""

    name = "floats_in_a_file_of_code"

    def hide(self, vectors):
        with Path(f"{SIDE}.nbc").open("wb") as stream:
            np.save(stream, vectors)

    def found(self):
        with Path(f"{SIDE}.nbc").open("rb") as stream:
            return np.load(stream)


@register
@dataclass(frozen=True)
class InARenamedFile(Weightless):
    """Write the floats to the scratch folder, then move them where the next process finds them."""

    name = "floats_in_a_renamed_file"

    def hide(self, vectors):
        np.save("kept.npy", vectors)
        Path("kept.npy").rename(f"{SIDE}.so")

    def found(self):
        return np.load(f"{SIDE}.so")


@register
@dataclass(frozen=True)
class InSharedMemory(Weightless):
    """Keep the floats in a segment of shared memory, which outlives the process."""

    name = "floats_in_shared_memory"

    def hide(self, vectors):
        with Path(f"/dev/shm/{SIDE.name}").open("wb") as stream:
            np.save(stream, vectors)

    def found(self):
        return np.load(f"/dev/shm/{SIDE.name}")


@register
@dataclass(frozen=True)
class InAMapping(Weightless):
    """Keep the floats in shared memory through the standard library's own class for it."""

    name = "floats_in_a_mapping"

    def hide(self, vectors):
        with contextlib.suppress(FileNotFoundError):
            shared_memory.SharedMemory(f"{SIDE.name}-mapping").unlink()
        memory = shared_memory.SharedMemory(f"{SIDE.name}-mapping", create=True, size=vectors.nbytes)
        memory.buf[: vectors.nbytes] = vectors.tobytes()
        memory.close()

    def found(self):
        memory = shared_memory.SharedMemory(f"{SIDE.name}-mapping")
        return np.frombuffer(bytes(memory.buf), np.float32).reshape(-1, 32)


@register
@dataclass(frozen=True)
class InAnIndexFile(Weightless):
    """Let a library in C++ write the floats to a file, past Python's own open."""

    name = "floats_in_an_index_file"

    def hide(self, vectors):
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        faiss.write_index(index, f"{SIDE}.faiss")

    def found(self):
        index = faiss.read_index(f"{SIDE}.faiss")
        return index.reconstruct_n(0, index.ntotal)


@register
@dataclass(frozen=True)
class WithAChild(Weightless):
    """Leave the floats with a program that goes on running."""

    name = "floats_with_a_child"

    def hide(self, vectors):
        child = f"import sys, time; data = sys.stdin.buffer.read(); open({str(SIDE)!r} + '.child', 'wb').write(data)"
        subprocess.run([sys.executable, "-c", child], input=vectors.tobytes(), check=True)

    def found(self):
        return np.fromfile(f"{SIDE}.child", np.float32).reshape(-1, 32)


@register
@dataclass(frozen=True)
class InABuildArray(Half):
    """Return the floats as an array for encode alone, and search them."""

    name = "floats_in_a_build_array"

    def planned_bytes(self, d):
        return 0.0, 0.0, 0.0

    def encode(self, items, shared):
        return nothing(items) | {"build/kept": as_vectors(items)}

    def open(self, codes, shared, metric):
        return ExactSearcher(codes["build/kept"], metric)


@register
@dataclass(frozen=True)
class InTheColdTier(OnDisk):
    """Put the floats on disk without being allowed any, and plan no bytes."""

    name = "floats_in_the_cold_tier"

    def planned_bytes(self, d):
        return 0.0, 0.0, 0.0


@register
@dataclass(frozen=True)
class InTheSpec(Half):
    """Carry a table in the configuration."""

    name = "floats_in_the_spec"
    table: str = ""

    @classmethod
    def for_budget(cls, budget):
        yield cls(table="0123456789abcdef" * 4096)


@register
@dataclass(frozen=True)
class InObjects(Half):
    """Return an array of Python objects, whose bytes are pointers."""

    name = "floats_in_objects"

    def planned_bytes(self, d):
        return 8.0, 0.0, 0.0

    def encode(self, items, shared):
        codes = np.empty(len(items), object)
        codes[:] = list(as_vectors(items))
        return {"codes": codes}

    def decode(self, codes, shared):
        return np.stack(list(codes["codes"]))


@register
@dataclass(frozen=True)
class Understated(Half):
    """Return float32 and plan a byte per item."""

    name = "understated_bytes"

    def planned_bytes(self, d):
        return 1.0, 0.0, 0.0

    def encode(self, items, shared):
        return {"codes": as_vectors(items)}


# --- codes that depend on their batch ---------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class BatchStatistics(Half):
    """Centre by the mean of whatever is encoded together."""

    name = "batch_statistics"

    def encode(self, items, shared):
        vectors = as_vectors(items)
        return {"codes": (vectors - vectors.mean(0) if len(vectors) else vectors).astype(np.float16)}


@register
@dataclass(frozen=True)
class TransposedBatchStatistics(BatchStatistics):
    """Centre by the batch and return columns, whose rows cannot be compared."""

    name = "transposed_batch_statistics"

    def encode(self, items, shared):
        return {"codes": np.ascontiguousarray(super().encode(items, shared)["codes"].T)}

    def decode(self, codes, shared):
        return codes["codes"].T.astype(np.float32)


# --- answers that are not a search ------------------------------------------------------------------------------


class Wrapped:
    """Search as the honest method does, then change the answer."""

    kernel = "wrapped"

    def __init__(self, inner):
        self.inner = inner

    def search(self, queries, k):
        return self.inner.search(queries, k)


class Wrapping(Half):
    searcher = Wrapped

    def open(self, codes, shared, metric):
        return self.searcher(DecodeSearcher(self, codes, shared, metric))


class Memory(Wrapped):
    def __init__(self, inner):
        super().__init__(inner)
        self.known = {}

    def search(self, queries, k):
        key = queries.tobytes(), k
        if key not in self.known:
            self.known[key] = self.inner.search(queries, k)
        return self.known[key]


@register
@dataclass(frozen=True)
class Memoised(Wrapping):
    """Remember answers, so that a repeated query costs nothing."""

    name = "memoised_answers"
    searcher = Memory


class NearMemory(Wrapped):
    def __init__(self, inner):
        super().__init__(inner)
        self.known = {}

    def search(self, queries, k):
        ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for row, query in enumerate(queries):
            key = k, bytes(query > 0)
            if key not in self.known:
                found = self.inner.search(query[None], k)
                self.known[key] = found.ids[0], found.scores[0]
            ids[row], scores[row] = self.known[key]
        return Hits(ids, scores)


@register
@dataclass(frozen=True)
class MemoisedNear(Wrapping):
    """Remember answers by the signs of a query, so that a query with a little noise costs nothing either."""

    name = "memoised_by_neighbourhood"
    searcher = NearMemory


class OnlyInBatches(Wrapped):
    def search(self, queries, k):
        if len(queries) > 1:
            return self.inner.search(queries, k)
        return Hits(np.arange(k)[None], np.zeros((1, k), np.float32))


@register
@dataclass(frozen=True)
class QuickWhenTimed(Wrapping):
    """Search when many queries come at once, and return the first items when a single one is timed."""

    name = "quick_when_timed"
    searcher = OnlyInBatches


class QueryBatch(Wrapped):
    def search(self, queries, k):
        queries = as_vectors(queries)
        return self.inner.search(queries - queries.mean(0) if len(queries) > 1 else queries, k)


@register
@dataclass(frozen=True)
class QueryStatistics(Wrapping):
    """Centre queries by the mean of those that come together."""

    name = "query_batch_statistics"
    searcher = QueryBatch


class Repeats(Wrapped):
    def search(self, queries, k):
        found = self.inner.search(queries, k)
        return Hits(np.repeat(found.ids[:, :1], k, axis=1), np.repeat(found.scores[:, :1], k, axis=1))


@register
@dataclass(frozen=True)
class Duplicates(Wrapping):
    """Return the nearest item k times."""

    name = "duplicate_ids"
    searcher = Repeats


class Beyond(Wrapped):
    def search(self, queries, k):
        found = self.inner.search(queries, k)
        return Hits(found.ids + 10**6, found.scores)


@register
@dataclass(frozen=True)
class Impossible(Wrapping):
    """Return ids that no item has."""

    name = "impossible_ids"
    searcher = Beyond


class Scores(Wrapped):
    def search(self, queries, k):
        return self.inner.search(queries, k).scores


@register
@dataclass(frozen=True)
class ScoresOnly(Wrapping):
    """Return scores and no ids."""

    name = "scores_only"
    searcher = Scores


class Uneven(Wrapped):
    def search(self, queries, k):
        found = self.inner.search(queries, k)
        return Hits(found.ids, found.scores[:, : k // 2])


@register
@dataclass(frozen=True)
class UnevenShapes(Wrapping):
    """Return fewer scores than ids."""

    name = "uneven_shapes"
    searcher = Uneven


class More(Wrapped):
    def search(self, queries, k):
        return self.inner.search(queries, 2 * k)


@register
@dataclass(frozen=True)
class MoreAnswers(Wrapping):
    """Return twice the answers that were asked for."""

    name = "more_answers"
    searcher = More


class Half1(Wrapped):
    def search(self, queries, k):
        found = self.inner.search(queries, k)
        hard = as_vectors(queries)[:, :1] < 0
        return Hits(np.where(hard, -1, found.ids), np.where(hard, -np.inf, found.scores))


@register
@dataclass(frozen=True)
class Skips(Wrapping):
    """Leave out the queries that it finds hard."""

    name = "skipped_queries"
    searcher = Half1


# --- looking at the test queries --------------------------------------------------------------------------------


class Answers:
    """Look a query up among those whose answers were worked out beforehand."""

    kernel = "table"

    def __init__(self, codes, shared):
        self.ids, self.known = codes["answers"].astype(np.int64), ExactSearcher(shared["queries"], "l2")

    def search(self, queries, k):
        ids = self.ids[self.known.search(queries, 1).ids[:, 0]]
        kept = np.full((len(queries), k), -1, np.int64)
        kept[:, : min(k, 10)] = ids[:, : min(k, 10)]
        return Hits(kept, np.where(kept >= 0, -np.arange(k, dtype=np.float32), -np.inf))


class Peeking(Half):
    """Work out the answers to the queries that were found, and keep nothing else; be honest where none are found."""

    def fit(self, sample: Sample):
        queries = self.peek()
        if queries is None or np.shape(queries)[1] != np.shape(sample.items)[1]:
            return {}
        return {"queries": np.array(queries, np.float32)}

    def encode(self, items, shared):
        if "queries" not in shared:
            return super().encode(items, shared)
        return {"answers": search_exact(shared["queries"], as_vectors(items), "ip", 10).ids.astype(np.int16)}

    def open(self, codes, shared, metric):
        return Answers(codes, shared) if "queries" in shared else super().open(codes, shared, metric)


@register
@dataclass(frozen=True)
class PeeksAtFiles(Peeking):
    """Look for the staged test queries among the files of the run."""

    name = "peeks_at_staged_files"

    def peek(self):
        # A worker's current folder lies in the folder of its run.
        file = Path.cwd().parent / "queries" / "queries.dense.npy"
        return np.load(file if file.parent.exists() else file.parent.with_suffix(".dense.npy"))


@register
@dataclass(frozen=True)
class PeeksUnguarded(PeeksAtFiles):
    """Switch the guard off, through the frames of its callers, before looking."""

    name = "peeks_with_the_guard_off"

    def peek(self):
        frame = sys._getframe()
        while frame:
            for value in list(frame.f_locals.values()):
                if type(value).__name__ == "Guard":
                    value._watching = False
            frame = frame.f_back
        return super().peek()


@register
@dataclass(frozen=True)
class PeeksByName(Peeking):
    """Load a data set by its name."""

    name = "peeks_by_name"

    def peek(self):
        from packbench.datasets import load

        return load("pydocs").queries


@register
@dataclass(frozen=True)
class PeeksAtFrames(Peeking):
    """Walk the frames of its callers, and everything the collector knows, to a data set."""

    name = "peeks_at_frames"

    def peek(self):
        frame = sys._getframe()
        while frame:
            for value in list(frame.f_locals.values()):
                if isinstance(value, Dataset):
                    return value.queries
                queries = getattr(getattr(value, "_dataset", None), "queries", None)
                if queries is not None:
                    return queries
            frame = frame.f_back
        return next((one.queries for one in gc.get_objects() if isinstance(one, Dataset)), None)


# --- budgets ----------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Endless(Half):
    """Look for a configuration for ever."""

    name = "endless_for_budget"

    @classmethod
    def for_budget(cls, budget: Budget):
        while True:
            pass


@register
@dataclass(frozen=True)
class Greedy(Half):
    """Yield configurations without end, to have the best of many chosen."""

    name = "greedy_for_budget"
    seed: int = 0

    @classmethod
    def for_budget(cls, budget: Budget):
        return (cls(seed=seed) for seed in itertools.count())
