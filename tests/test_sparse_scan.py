"""Hold the scan of packed positions against dense products, in each of its layouts."""

from __future__ import annotations

import numpy as np
import pytest

from packbench.items import Array
from packbench.methods.sparse import scan
from packbench.methods.sparse.support import SparseFormat, _layout, densify, pack_index, unpack_index

# Of each: positions, width. Ones for all positions; ones and a few lower bits; many lower bits; lists; all and none.
SHAPES = [(150, 384), (48, 384), (24, 384), (9, 70), (12, 4096), (3, 70000), (2, 300), (1, 5), (40, 40), (1, 1)]


def drawn(n: int, k: int, width: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.stack([np.sort(rng.choice(width, k, replace=False)) for _ in range(n)])


@pytest.mark.parametrize(("k", "width"), SHAPES)
def test_positions_come_back_from_every_layout(k: int, width: int) -> None:
    for n in (1, 50):
        index = drawn(n, k, width)
        assert np.array_equal(unpack_index(pack_index(index, width), k, width), index)
    ends = np.stack([np.arange(k), np.arange(width - k, width)])
    assert np.array_equal(unpack_index(pack_index(ends, width), k, width), ends)


def test_the_layouts_are_all_there() -> None:
    found = [_layout(k, width) for k, width in SHAPES]
    kinds = {(one.bits > 0, one.high > 0, one.low > 0, one.low > 7) for one in found}
    assert kinds >= {
        (True, True, False, False), (True, True, True, False), (True, True, True, True), (True, False, True, True),
        (True, False, True, False), (False, False, False, False),
    }  # fmt: skip


@pytest.mark.parametrize(("k", "width"), [shape for shape in SHAPES if shape[0] < shape[1]])
@pytest.mark.parametrize("queries", [1, 3, 4, 70])
def test_products_are_those_of_dense_rows(k: int, width: int, queries: int) -> None:
    rng = np.random.default_rng(1)
    index, q = drawn(40, k, width), rng.standard_normal((queries, width), dtype=np.float32)
    values = (rng.standard_normal((40, k)) * 20).astype(np.int8)
    layout = _layout(k, width)
    found = scan.packed_dots(pack_index(index, width), layout.low, layout.high, layout.step, values, q)
    expected = q @ densify(index, values.astype(np.float32), width).T
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert np.allclose(scan.dots(index.astype(np.uint32), values, q), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("bits", [3, 16])
def test_scores_do_not_depend_on_where_an_item_lies(metric: str, bits: int) -> None:
    rng = np.random.default_rng(2)
    stored = SparseFormat(20, 150, bits)
    index, values = drawn(1500, 20, 150), rng.standard_normal((1500, 20)).astype(np.float32)
    shared = stored.learn(values)
    codes = stored.code(index, values, shared)
    queries = rng.standard_normal((6, 150), dtype=np.float32)
    whole = stored.searcher(codes, shared, metric).search(queries, 1500)
    part = stored.searcher({name: array[400:1411] for name, array in codes.items()}, shared, metric).search(
        queries, 1011
    )
    for row in range(6):
        scores = dict(zip(whole.ids[row].tolist(), whole.scores[row].tolist(), strict=True))
        assert part.scores[row].tolist() == [scores[i + 400] for i in part.ids[row].tolist()]


def test_bytes_that_no_encoder_wrote_read_nothing_beyond_their_rows() -> None:
    layout = _layout(48, 384)
    packed = np.full((5, 30), 255, np.uint8)
    index = np.full((7, 48), 9, np.uint16)
    scan.unpack(packed, layout.low, layout.high, layout.step, index[1:6])
    assert (index[[0, 6]] == 9).all()
