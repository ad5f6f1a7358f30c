"""Specs: a method prints as the text that builds it, and nothing in a spec is ever run."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packbench import registry
from packbench.errors import BadInput
from packbench.method import Chain, Codec, Method
from packbench.spec import MAX_LENGTH, parse, parse_request, unparse


@dataclass(frozen=True, slots=True)
class Toy(Codec):
    """Hold one field of each kind."""

    name: ClassVar[str] = "toy_of_test_spec"
    count: int
    ratio: float = 0.5
    word: str = "a"
    flag: bool = False
    inner: Method | None = None

    def encode(self, items, shared):
        return {}

    def decode(self, codes, shared):
        return codes["x"]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    registry.methods()
    monkeypatch.setitem(registry._methods, "toy_of_test_spec", Toy)


@given(
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=40),
    st.booleans(),
)
def test_round_trip(count, ratio, word, flag):
    registry._methods.setdefault("toy_of_test_spec", Toy)
    method = Toy(count, ratio, word, flag)
    assert parse(unparse(method)) == method


@pytest.mark.parametrize(
    "text",
    [
        "float32()",
        "pca(dim=8) | int8()",
        "centre() | random_rotation(seed=3) | sign()",
        "rescore(sign(), int8(), factor=5, tier='disk')",
        "toy_of_test_spec(count=-3, inner=pq(m=4))",
    ],
)
def test_texts_print_as_they_were_read(text):
    method = parse(text)
    assert str(method) == text
    assert parse(str(method)) == method


def test_defaults_are_left_out_and_positions_count():
    assert str(parse("toy_of_test_spec(3, 0.5)")) == "toy_of_test_spec(count=3)"
    assert parse("toy_of_test_spec(3, 1)").ratio == 1.0


def test_a_bar_makes_a_chain():
    chain = parse("pca(dim=8) | centre() | int4()")
    assert isinstance(chain, Chain)
    assert [part.name for part in chain.transforms] == ["pca", "centre"]
    assert chain.method == parse("int4()")


def test_a_bare_name_is_a_request_to_be_solved():
    assert parse_request("pq") is registry.get("pq")
    assert parse_request("pq(m=4)") == parse("pq(m=4)")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("__import__('os')", "no method '__import__'"),
        ("sing()", "Did you mean 'sign'"),
        ("toy_of_test_spec(count=open('x'))", "no method 'open'"),
        ("toy_of_test_spec(count=1 + 1)", "is code"),
        ("toy_of_test_spec(count=[1])", "is code"),
        ("toy_of_test_spec(count=lambda: 1)", "is code"),
        ("toy_of_test_spec.__class__()", "is code"),
        ("(lambda: 1)()", "is code"),
        ("toy_of_test_spec(*(1,))", "without \\*"),
        ("toy_of_test_spec(**{})", "without \\*"),
        ("toy_of_test_spec()", "needs count"),
        ("toy_of_test_spec(1, count=2)", "twice"),
        ("toy_of_test_spec(1, colour=2)", "no argument 'colour'"),
        ("toy_of_test_spec('1')", "expects a whole number, got '1'"),
        ("toy_of_test_spec(True)", "expects a whole number, got True"),
        ("toy_of_test_spec(1.5)", "expects a whole number, got 1.5"),
        ("toy_of_test_spec(1, inner=2)", "expects"),
        ("float32() | int8()", "joins a transform"),
        ("pca(dim=8) | int8() | int4()", "nothing can follow"),
        ("pq(m=", "does not read"),
        ("", "does not read"),
        ("3", "names a method"),
        ("toy_of_test_spec(count=" + "-" * MAX_LENGTH + "1)", "longest allowed"),
        ("(" * 900 + ")" * 900, "does not read"),
    ],
)
def test_what_is_no_spec_gets_one_message(text, told):
    with pytest.raises(BadInput, match=told):
        parse(text)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text):
    try:
        method = parse(text)
    except BadInput:
        return
    assert parse(str(method)) == method
