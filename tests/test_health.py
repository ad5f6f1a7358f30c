"""Codec health and the waterfall of losses: known faults are flagged without recall, and honest methods never."""

from pathlib import Path

import numpy as np
import pytest

from packbench import Ragged, registry, runner
from packbench.dataset import from_vectors
from packbench.health import health_of, red_flags
from packbench.method import STAGES, Chain, Codec, Sample
from packbench.spec import parse
from packbench.store import Store

PLUGIN = Path(__file__).parent / "plugins" / "unhealthy.py"
FAULTS = {
    "unclamped()": "values where their bits allow 256",
    "wrapped()": "opposite end of their range",
    "two_of_sixteen()": "of the 8 bits in each byte",
    "unheard()": "second stage changes no answer",
}
HEALTHY = (
    "clamped()", "two_of_sixteen(too_wide=1.0)", "unheard(asks=True)", "pq(m=8)", "pca(dim=16) | int4()",
    "ivf(code=int8(), nlist=8, nprobe=2)", "float32()", "sign()", "centre() | sign()",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1300, 32)).astype(np.float32) @ np.diag(np.linspace(2, 0.5, 32)).astype(np.float32)
    data = from_vectors(vectors[:900], vectors[900:1000], metric="ip", name="made/health")
    results = tmp_path_factory.mktemp("results")
    registry.load_plugin(PLUGIN)
    runner.run(data, [*FAULTS, *HEALTHY], results, budgets=(400.0,), timing_seconds=0.02, plugins=(str(PLUGIN),))
    return {row["request"]: row for row in Store(results).rows() if row["budget"]}


@pytest.mark.parametrize(("spec", "told"), FAULTS.items())
def test_known_faults_are_flagged(rows, spec, told):
    assert rows[spec]["status"] == "ok"
    (flag,) = red_flags(rows[spec]["health"])
    assert told in flag


@pytest.mark.parametrize("spec", HEALTHY)
def test_healthy_codes_are_not(rows, spec):
    assert rows[spec]["status"] == "ok"
    assert red_flags(rows[spec]["health"]) == []


def test_flags_do_not_look_at_recall(rows):
    for spec in FAULTS:
        assert not any("recall" in name or "ndcg" in name.lower() for name in rows[spec]["health"])
    # Wrapped and unclamped codes differ in one thing alone, so recall is what the flags foretell.
    assert rows["wrapped()"]["recall"]["recall@10"] < rows["clamped()"]["recall"]["recall@10"]


def test_stages_of_a_second_look(rows):
    per_query = rows["unheard(asks=True)"]["per_query"]
    assert sum(per_query["shortlist recall@10"]) < sum(per_query["recall@10"])
    assert rows["unheard(asks=True)"]["health"]["reordered"] > 0.5
    assert rows["unheard()"]["per_query"]["shortlist recall@10"] == rows["unheard()"]["per_query"]["recall@10"]


def test_stages_of_lists(rows):
    per_query = rows["ivf(code=int8(), nlist=8, nprobe=2)"]["per_query"]
    assert sum(per_query["codes recall@10"]) == sum(per_query["scan recall@10"]) > sum(per_query["recall@10"])


def test_decoded_codes_scored_exactly_are_the_ceiling_of_a_decoding_search(rows):
    for spec in ("clamped()", "pca(dim=16) | int4()", "float32()"):
        assert rows[spec]["per_query"]["codes recall@10"] == rows[spec]["per_query"]["recall@10"]


@pytest.mark.parametrize("spec", ["pq(m=8)", "pca(dim=16) | int4()", "rescore(sign(), int8())", "int8()"])
def test_stages_have_known_names(spec):
    vectors = np.random.default_rng(1).standard_normal((400, 32)).astype(np.float32)
    method = parse(spec)
    shared = method.fit(Sample(vectors, "ip"))
    found = method.stages(method.encode(vectors, shared), shared, "ip")
    assert set(found) <= set(STAGES)
    for searcher in found.values():
        assert searcher.search(vectors[:3], 5).ids.shape == (3, 5)


def test_figures_of_a_perfect_copy():
    vectors = np.random.default_rng(2).standard_normal((500, 16)).astype(np.float32)
    found = health_of(parse("float32()"), {"vectors": vectors}, {}, vectors)
    assert found["norm_ratio"] == pytest.approx(1)
    assert found["score_slope"] == pytest.approx(1, abs=0.01)
    assert found["wrapped"] == found["clipped"] == found["norm_spread"] == 0
    assert "use" not in found


def test_use_is_the_entropy_of_bytes():
    rng = np.random.default_rng(3)
    method = parse("int8()")
    codes = {"codes": rng.integers(0, 4, (1024, 6)).astype(np.uint8)}
    found = health_of(method, codes, {}, Ragged(np.zeros((1024, 6), np.float32), np.arange(1025)))
    assert found["use"] == pytest.approx(2 / 8, abs=0.01)
    assert found["values"] == 4


def test_a_decode_that_fails_costs_the_figures_alone(tmp_path):
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from dataclasses import dataclass\nimport numpy as np\nfrom packbench import Codec, register\n"
        "from packbench.exact import ExactSearcher\n\n\n"
        "@register\n@dataclass(frozen=True, slots=True)\nclass Broken(Codec):\n    '''Cannot decode.'''\n\n"
        "    name = 'broken_decode'\n\n    def encode(self, items, shared):\n"
        "        return {'codes': np.asarray(items, np.float32)}\n\n    def decode(self, codes, shared):\n"
        "        raise ValueError('no way back')\n\n    def open(self, codes, shared, metric):\n"
        "        return ExactSearcher(codes['codes'], metric)\n"
    )
    registry.load_plugin(plugin)
    vectors = np.random.default_rng(4).standard_normal((400, 8)).astype(np.float32)
    data = from_vectors(vectors[:300], vectors[300:350], metric="ip", name="made/broken")
    runner.run(data, ["broken_decode()"], tmp_path, budgets=(64.0,), timing_seconds=0.02, references=False,
               plugins=(str(plugin),))  # fmt: skip
    (row,) = Store(tmp_path).rows()
    assert row["status"] == "ok" and row["recall"]["recall@10"] == 1
    assert "no way back" in row["health"]["failed"]
    assert red_flags(row["health"])


def test_every_decoder_has_the_stage_of_its_codes():
    for cls in registry.methods().values():
        if issubclass(cls, Codec) and not issubclass(cls, Chain):
            assert cls.stages.__qualname__ in ("Codec.stages", f"{cls.__name__}.stages")
