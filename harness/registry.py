"""Keep the methods by name: built in, from entry points, or from a file given with --plugin."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar, cast

from packbench.budget import Budget
from packbench.errors import BadInput, BudgetTooSmall
from packbench.method import Chain, Method

GROUP = "packbench.methods"
_methods: dict[str, type[Method]] = {}
_loaded = False
M = TypeVar("M", bound=type[Method])


def register(cls: M) -> M:
    """Add a method class under its `name`; put it above @dataclass(frozen=True, slots=True)."""
    name = getattr(cls, "name", None)
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not isinstance(name, str) or not name.isidentifier():
        raise BadInput(f"{where}: a method needs a class attribute such as name = 'my_method', got {name!r}")
    params = getattr(cls, "__dataclass_params__", None)
    if params is None or not params.frozen or "__dataclass_fields__" not in vars(cls):
        raise BadInput(f"{where}: write @register above @dataclass(frozen=True, slots=True)")
    other = _methods.get(name)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise BadInput(
            f"{where}: the name {name!r} is taken by {other.__module__}.{other.__qualname__}; choose another"
        )
    _methods[name] = cls
    return cls


def get(name: str) -> type[Method]:
    """Return the method class of a name, or suggest the nearest names."""
    known = methods()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(other) for other in near)}?" if near else ""
    raise BadInput(f"no method {name!r}.{hint} `packbench list methods` shows all {len(known)}")


def methods() -> dict[str, type[Method]]:
    """Return every registered method by name, the built-in ones and those of installed packages loaded."""
    global _loaded
    if not _loaded:
        _loaded = True
        package = importlib.import_module("packbench.methods")
        for module in pkgutil.walk_packages(package.__path__, "packbench.methods."):
            importlib.import_module(module.name)
        for entry in importlib.metadata.entry_points(group=GROUP):
            try:
                entry.load()
            except Exception as error:
                raise BadInput(
                    f"the plug-in {entry.name} = {entry.value} does not load: {type(error).__name__}: {error}. "
                    "Repair or uninstall the package that declares it"
                ) from error
    return dict(sorted(_methods.items()))


def solvable() -> list[str]:
    """Return the names of the methods that can be asked for by name; others, as faiss, have to be spelled out."""
    probe = Budget(512.0, 1_000_000, 64)

    def answers(cls: type[Method]) -> bool:
        try:
            next(iter(cls.for_budget(probe)), None)
        except BudgetTooSmall:
            return True
        except (BadInput, TypeError):
            return False
        return True

    return [name for name, cls in methods().items() if answers(cls)]


def load_plugin(path: str | Path) -> list[type[Method]]:
    """Import a file of methods and return those that it registered."""
    file = Path(path).resolve()
    if not file.is_file():
        raise BadInput(f"plug-in {path}: no such file; expected a Python file that registers a method")
    known = set(methods())
    name = f"packbench_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return [cls for cls in _methods.values() if cls.__module__ == name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadInput(f"plug-in {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BadInput:
        raise
    except Exception as error:
        del sys.modules[name]
        raise BadInput(f"plug-in {path} does not import: {type(error).__name__}: {error}") from error
    found = [cls for key, cls in _methods.items() if key not in known]
    if not found:
        raise BadInput(f"plug-in {path} registers no method: put @packbench.register above its class")
    return found


@functools.cache
def field_types(cls: type[Method]) -> dict[str, tuple[type, ...]]:
    """Return the types that each argument accepts; an empty tuple where anything goes."""
    hints = typing.get_type_hints(cls)
    return {entry.name: _types(hints[entry.name]) for entry in dataclasses.fields(cast(Any, cls))}


def _types(hint: Any) -> tuple[type, ...]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _types(part))
    if origin is typing.Literal:
        return tuple({type(value) for value in typing.get_args(hint)})
    if origin is not None:
        return (origin,) if isinstance(origin, type) else ()
    return (hint,) if isinstance(hint, type) else ()


def version(method: Method | type[Method]) -> str:
    """Return a short hash of the source files that define a method and its parts: an edited codec is a new one."""
    from packbench.method import parts_of

    digest = hashlib.sha256()
    pending: list[Method | type[Method]] = [method]
    while pending:
        part = pending.pop(0)
        cls = part if isinstance(part, type) else type(part)
        if cls is not Chain:
            digest.update(_source(cls).encode())
        if isinstance(part, Method):
            pending += parts_of(part)
    return digest.hexdigest()[:12]


@functools.cache
def _source(cls: type[Method]) -> str:
    """Return the source of a class's module and of the modules of methods/ (or the plug-in) that it draws on."""
    pending, seen, text = [cls.__module__], set[str](), ""
    while pending:
        name = pending.pop()
        if name in seen or name not in sys.modules:
            continue
        seen.add(name)
        module = sys.modules[name]
        try:
            text += inspect.getsource(module)
        except (OSError, TypeError):
            text += name
        used = {getattr(value, "__module__", None) or "" for value in vars(module).values()}
        pending += sorted(
            (home for home in used if home.startswith(("packbench.methods.", "packbench_plugin_"))), reverse=True
        )
    return text
