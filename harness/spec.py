"""Read and write spec strings such as ``pca(dim=128) | int8()``: Python syntax, parsed with `ast`, never evaluated."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any, cast

from packbench import registry
from packbench.errors import BadInput
from packbench.method import Chain, Method, Transform

MAX_LENGTH = 2000  # a spec is a configuration; whoever needs more is hiding data in it
Value = Any


def parse(text: str) -> Method:
    """Build the method that a spec describes; ``parse(str(method)) == method``.

    Raises:
        BadInput: not a spec, an unknown method, an unknown or missing argument, or anything but constants in one.
    """
    found = _build(_tree(text), text)
    if not isinstance(found, Method):
        raise _refuse(text, "a spec names a method, as in pq(m=16)")
    return found


def parse_request(text: str) -> Method | type[Method]:
    """Read what a user asked for: a bare name is the class, to be solved for a budget; anything else is fixed."""
    tree = _tree(text)
    return registry.get(tree.id) if isinstance(tree, ast.Name) else parse(text)


def unparse(method: Method) -> str:
    """Write the spec that builds a method: leading methods by position, other fields by name, defaults left out."""
    if isinstance(method, Chain):
        return " | ".join(str(part) for part in (*method.transforms, method.method) if part is not None)
    arguments: list[str] = []
    leading = True
    for entry in dataclasses.fields(cast(Any, method)):
        value = getattr(method, entry.name)
        leading = leading and isinstance(value, Method)
        if leading:
            arguments.append(str(value))
        elif entry.default is dataclasses.MISSING or value != entry.default:
            arguments.append(f"{entry.name}={str(value) if isinstance(value, Method) else repr(value)}")
    return f"{method.name}({', '.join(arguments)})"


def _tree(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise BadInput(f"spec of {len(text)} characters: the longest allowed is {MAX_LENGTH}")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refuse(text, "it does not read as name(argument=value)") from None


def _refuse(text: str, why: str) -> BadInput:
    shown = text if len(text) <= 120 else text[:117] + "..."
    return BadInput(
        f"spec {shown!r}: {why}. Write a method with constant arguments, such as int8(), pq(m=16), "
        "pca(dim=128) | int4() or rescore(sign(), int8(), factor=10)"
    )


def _build(node: ast.expr, text: str) -> Value:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple(elts=parts):
            return tuple(_build(part, text) for part in parts)
        case ast.Name(id=name):
            return _make(registry.get(name), [], {}, text)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            first, second = _build(left, text), _build(right, text)
            if not isinstance(first, Transform | Chain) or not isinstance(second, Method):
                raise _refuse(text, "'|' joins a transform and what follows it")
            try:
                return first | second
            except TypeError as error:
                raise _refuse(text, str(error)) from None
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            if any(keyword.arg is None for keyword in keywords) or any(isinstance(arg, ast.Starred) for arg in args):
                raise _refuse(text, "arguments are written out, without * or **")
            named = {cast(str, keyword.arg): _build(keyword.value, text) for keyword in keywords}
            return _make(registry.get(name), [_build(arg, text) for arg in args], named, text)
    raise _refuse(text, f"{ast.unparse(node)[:60]!r} is code, and a spec is never run")


def _make(cls: type[Method], positional: list[Value], named: dict[str, Value], text: str) -> Method:
    fields = dataclasses.fields(cast(Any, cls))
    names = [entry.name for entry in fields]
    if len(positional) > len(names):
        raise _refuse(text, f"{cls.name} takes {len(names)} arguments, not {len(positional)}")
    values = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            known = ", ".join(names) or "none"
            raise _refuse(text, f"{cls.name} has no argument {name!r} (it has: {known})")
        if name in values:
            raise _refuse(text, f"{cls.name} is given {name!r} twice")
        values[name] = value
    missing = [
        entry.name
        for entry in fields
        if entry.name not in values
        and entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise _refuse(text, f"{cls.name} needs {', '.join(missing)} (as in {cls.name}({missing[0]}=...))")
    hints = registry.field_types(cls)
    for name, value in values.items():
        values[name] = _checked(value, hints[name], f"{cls.name}({name}=...)", text)
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise _refuse(text, str(error)) from None


def _checked(value: Value, kinds: tuple[type, ...], where: str, text: str) -> Value:
    if isinstance(value, bool) and bool not in kinds and kinds:
        raise _refuse(text, f"{where} expects {_named(kinds)}, got {value!r}")
    if isinstance(value, int) and float in kinds and int not in kinds:
        return float(value)
    if kinds and not isinstance(value, kinds):
        raise _refuse(text, f"{where} expects {_named(kinds)}, got {value!r}" if not isinstance(value, Method)
                      else f"{where} expects {_named(kinds)}, got the method {value}")  # fmt: skip
    return value


def _named(kinds: tuple[type, ...]) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None",
             tuple: "a tuple"}  # fmt: skip
    return " or ".join(words.get(kind, f"a {kind.__name__.lower()}") for kind in kinds)
