"""Hold the scan of packed positions against dense products, in each of its layouts."""

from __future__ import annotations

import numpy as np
import pytest

from packbench.items import Array
from packbench.methods.sparse import scan
from packbench.methods.sparse.support import (
    SparseFormat,
    _layout,
    densify,
    pack_index,
    packed_index_bytes,
    unpack_index,
)

# Of each: positions, width. Ones for all positions; ones and a few lower bits; many lower bits; lists; all and none.
SHAPES = [(150, 384), (48, 384), (24, 384), (9, 70), (12, 4096), (3, 70000), (2, 300), (1, 5), (40, 40), (1, 1)]


def drawn(n: int, k: int, width: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.stack([np.sort(rng.choice(width, k, replace=False)) for _ in range(n)])


def products(
    packed: Array, layout: scan.Layout, width: int, values: Array | None, queries: Array, part: slice
) -> tuple[Array, Array]:
    asked = scan.arranged(queries, width)
    return scan.packed_dots(packed, layout, values, None, asked, len(queries), part, squares=True)


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


@pytest.mark.parametrize(("k", "width"), SHAPES)
@pytest.mark.parametrize("queries", [1, 3, 4, 70])
def test_products_are_those_of_dense_rows(k: int, width: int, queries: int) -> None:
    rng = np.random.default_rng(1)
    index, q = drawn(90, k, width), rng.standard_normal((queries, width), dtype=np.float32)
    values = (rng.standard_normal((90, k)) * 20).astype(np.int8)
    layout, part = (k, *_layout(k, width).parts), slice(3, 90)
    expected = q @ densify(index, values.astype(np.float32), width).T
    found, squares = products(pack_index(index, width), layout, width, values, q, part)
    assert np.allclose(found, expected[:, part], rtol=1e-4, atol=1e-3)
    assert np.allclose(squares, (values[part].astype(np.float32) ** 2).sum(axis=1), rtol=1e-5)
    assert np.allclose(scan.dots(index.astype(np.uint32), values, q), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int8, np.uint8, None])
@pytest.mark.parametrize("queries", [1, 20])
def test_values_of_every_type_count(kind: type | None, queries: int) -> None:
    rng = np.random.default_rng(2)
    index, q = drawn(40, 21, 90), rng.standard_normal((queries, 90), dtype=np.float32)
    values = None if kind is None else (rng.standard_normal((40, 21)) * 9).astype(np.int8).astype(kind)
    if kind is np.float16:
        values[0, :4] = -65504, 6e-8, 6.1e-5, -0.1  # the largest, the smallest, the smallest that is normal
    dense = densify(index, np.ones((40, 21)) if values is None else values, 90)
    layout = (21, *_layout(21, 90).parts)
    found, _ = products(pack_index(index, 90), layout, 90, values, q, slice(0, 40))
    assert np.allclose(found, q @ dense.T, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("bits", [1, 3, 5, 6, 7, 8])  # of which the tables are 1, 1, 2, 4, 8 and 16 vectors
def test_numbers_of_levels_come_back_and_count(bits: int) -> None:
    rng = np.random.default_rng(3)
    stored, index = SparseFormat(37, 150, bits), drawn(60, 37, 150)
    values, q = rng.standard_normal((60, 37)).astype(np.float32), rng.standard_normal((5, 150), dtype=np.float32)
    shared = stored.learn(values)
    codes = stored.code(index, values, shared)
    assert codes["values"].shape == (60, -(-37 * bits // 8))
    found, rounded = stored.entries(codes, shared)
    assert np.array_equal(found, index)
    levels = shared["levels"] * codes["scale"].astype(np.float32)[:, :, None]
    nearest = np.abs(levels - values[:, :, None]).min(axis=2)
    assert np.abs(np.abs(rounded - values) - nearest).mean() < 0.03  # the scale is that of what was chosen
    for some in (q[:1], q):
        hits = stored.searcher(codes, shared, "ip").search(some, 60)
        expected = np.take_along_axis(some @ stored.rows(codes, shared).T, hits.ids, axis=1)
        assert np.allclose(hits.scores, expected, rtol=1e-4, atol=1e-4)


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
    scan.unpack(packed, (48, *layout.parts), index[1:6])
    assert (index[[0, 6]] == 9).all()


@pytest.mark.parametrize(("k", "width"), [(48, 384), (150, 384), (9, 70), (12, 4096), (2, 300)])
@pytest.mark.parametrize("byte", [0, 255])
@pytest.mark.parametrize("queries", [1, 9])
def test_codes_that_no_encoder_wrote_read_no_query_beyond_its_end(k: int, width: int, byte: int, queries: int) -> None:
    packed = np.full((30, packed_index_bytes(k, width)), byte, np.uint8)
    layout = (k, *_layout(k, width).parts)
    q = np.ones((queries, width), np.float32)
    found, _ = products(packed, layout, width, None, q, slice(0, 30))
    assert ((found >= 0) & (found <= k)).all()
