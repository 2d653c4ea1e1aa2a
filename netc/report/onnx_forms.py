"""Which ONNX operators a layer type is lowered to, read from the source of its `lower` rule.

Running the rule would need an example that suits the type, and would show one branch of it only.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, get_type_hints

from netc.layers.types import Layer


def onnx_operators(cls: type[Layer]) -> tuple[str, ...] | None:
    """Return the names of the operators that any branch of `cls.lower` adds, in source order.

    () where it hands its bottoms on, None where the type has no rule, or no source to be read.
    """
    if cls.lower is Layer.lower:
        return None
    reader = _Reader(cls)
    reader.read(cls.lower)
    return None if reader.formless else tuple(reader.found)


# Methods of the builder that add an operator of their own.
_SHORTHANDS = {"reshape": "Reshape", "cast": "Cast"}


class _Reader:
    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.found: dict[str, None] = {}
        self.seen: set[Any] = set()
        self.formless = False  # it only refuses, or cannot be read

    def read(self, function: Callable[..., Any]) -> None:
        """Collect from a function and from those that it hands its builder to."""
        function = inspect.unwrap(function)
        if function in self.seen or not isinstance(function, FunctionType):
            return
        self.seen.add(function)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, SyntaxError):
            self.formless = True
            return
        if function is getattr(self.cls, "lower", None):
            self.formless = not any(isinstance(node, ast.Return) for node in ast.walk(tree))
        for call in _calls(tree):
            method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if method == "op":
                for name in self._names(call.args[0], tree, function):
                    self.found.setdefault(name)
            elif _is_builder(call.func):
                if method in _SHORTHANDS:
                    self.found.setdefault(_SHORTHANDS[method])
            elif any(isinstance(a, ast.Name) and a.id == "g" for a in call.args):
                self._follow(call.func, tree, function)

    def _follow(self, called: ast.expr, tree: ast.AST, caller: FunctionType) -> None:
        """Read what is called with the builder: a function, or a method of this type or another."""
        known = caller.__globals__
        found: Any = None
        if isinstance(called, ast.Name):
            found = known.get(called.id)
        elif isinstance(called, ast.Attribute) and _is_super(called.value):
            found = self._inherited(called.attr, caller)
        elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            name = called.value.id
            if name == "self":
                found = getattr(self.cls, called.attr, None)
            elif other := next(self._classes_of(name, tree, known), None):
                reader = _Reader(other)
                reader.read(getattr(other, called.attr))
                self.found |= reader.found
            else:
                found = getattr(known.get(name), called.attr, None)
        if callable(found):
            self.read(found)

    def _names(self, node: ast.expr, tree: ast.AST, function: FunctionType) -> Iterator[str]:
        """Yield the names that an operator can have: the one given, or those of a table."""
        parts: list[ast.expr] = []
        match node:
            case ast.Constant(value=str(name)):
                yield name
            case ast.IfExp(test=test, body=body, orelse=orelse):
                decided = self._fact(test)
                parts = [body] * (decided is not False) + [orelse] * (decided is not True)
            case ast.Subscript(value=table):
                parts = [table]
            case ast.Dict(values=parts) | ast.Tuple(elts=parts):
                pass
            case ast.Attribute():
                if isinstance(fact := self._fact(node), str):
                    yield fact
            case ast.Name(id=name):
                parts = list(_assigned(name, tree))
                known = function.__globals__.get(name)
                if not parts and isinstance(known, dict):
                    yield from (value for value in known.values() if isinstance(value, str))
        for part in parts:
            yield from self._names(part, tree, function)

    def _fact(self, node: ast.expr) -> Any:
        """Return what `self.name` is for every layer of the type, None where that is not known."""
        if not (isinstance(node, ast.Attribute) and _is_self(node.value)):
            return None
        fields = {field.name for field in dataclasses.fields(self.cls)}
        value = None if node.attr in fields else getattr(self.cls, node.attr, None)
        return value if isinstance(value, bool | str) else None

    def _classes_of(self, name: str, tree: ast.AST, known: dict[str, Any]) -> Iterator[type]:
        """Yield the classes that a local name is an instance of.

        It is made by calling the class, or is what a property or a method of this type returns.
        """
        for value in _assigned(name, tree):
            called = value.func if isinstance(value, ast.Call) else value
            made: Any = None
            if isinstance(called, ast.Name) and called is not value:
                made = known.get(called.id)
            elif isinstance(called, ast.Attribute) and _is_self(called.value):
                own = getattr(self.cls, called.attr, None)
                rule = own.fget if isinstance(own, property) else own
                if isinstance(rule, FunctionType):
                    made = get_type_hints(rule).get("return")
            if isinstance(made, type):
                yield made

    def _inherited(self, name: str, caller: FunctionType) -> Any:
        """Return what `super().name` is in a method of one of the type's bases."""
        order = self.cls.__mro__
        holder = next((c for c in order if caller in vars(c).values()), order[0])
        later = order[order.index(holder) + 1 :]
        return next((vars(c)[name] for c in later if name in vars(c)), None)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_super(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls of a tree, in source order."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    yield from sorted(calls, key=lambda call: (call.lineno, call.col_offset))


def _is_builder(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and isinstance(called.value, ast.Name)
        and called.value.id == "g"
    )


def _assigned(name: str, tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what a function assigns to a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            yield node.value
