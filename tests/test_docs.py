"""The pages that are generated say what the code says."""

import gzip
import os
from pathlib import Path

from packbench import registry
from packbench.plan import Plan, checked_requests
from packbench.reference import methods_page
from packbench.store import Store

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
BELOW = "\n# Compared with references\n"  # what follows in docs/methods.md is written by hand


def test_the_page_of_the_methods_is_that_of_the_registry():
    """`PACKBENCH_DOCS=write pytest tests/test_docs.py` writes it anew."""
    plugins = {name for name, cls in registry.methods().items() if cls.family() == "plugin"}
    assert not plugins, "another test left its plug-ins behind"
    written, _, rest = PAGE.read_text().partition(BELOW) if PAGE.exists() else ("", "", "")
    if os.environ.get("PACKBENCH_DOCS") == "write":
        PAGE.write_text(methods_page() + BELOW + rest)
        written = methods_page()
    assert written == methods_page()


def test_all_stands_for_every_method_that_a_name_is_enough_for():
    requests = checked_requests(["sign()", "all"], Plan())
    assert requests[0] == "sign()"
    assert {"pq", "pca", "float32", "rescore"} <= set(requests)
    assert "faiss" not in requests, "it needs a factory string"
    assert len(requests) == len(set(requests)) >= len(registry.methods()) - 5


def test_gzipped_rows_are_read(tmp_path):
    store = Store(tmp_path)
    store.append({"id": "a", "value": 1})
    (tmp_path / "old.jsonl.gz").write_bytes(gzip.compress(b'{"id":"b","value":2}\n'))
    assert {row["id"] for row in store.rows()} == {"a", "b"}
