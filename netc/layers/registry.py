"""The registry of layer types: name in the text -> dataclass.

And the messages its fields come from.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TypeVar

from netc.errors import fail, nearest
from netc.layers.types import Layer

ENTRY_POINTS = "netc.layers"

LayerClass = TypeVar("LayerClass", bound=Layer)


@dataclasses.dataclass(frozen=True, slots=True)
class LayerType:
    """One registered type: its class and the parameter messages that its fields are read from.

    `aliases` are names that forks give it besides `name`; the registry has an entry for each.
    """

    name: str
    cls: type[Layer]
    params: tuple[str, ...]
    aliases: tuple[str, ...] = ()


_types: dict[str, LayerType] = {}
_unusable: dict[str, str] = {}


def layer(
    name: str, *params: str, aliases: tuple[str, ...] = ()
) -> Callable[[type[LayerClass]], type[LayerClass]]:
    """Register a layer class under its name in the text, and under other forks' names for it.

    `params` name the fields of LayerParameter ("convolution_param") whose own fields fill the
    dataclass. A dataclass field named like a LayerParameter field (`phase`, `top`,
    `transform_param`) is filled from there. A second class of the same name is a bug and raises.
    """

    def register(cls: type[LayerClass]) -> type[LayerClass]:
        keys = (name, *aliases)
        for key in keys:
            if key in _types:
                raise RuntimeError(
                    f"layer type {key!r} is defined by {_types[key].cls} and by {cls}"
                )
        cls.type = name
        _types.update(dict.fromkeys(keys, LayerType(name, cls, params, aliases)))
        return cls

    return register


@functools.cache
def _load() -> Mapping[str, LayerType]:
    import netc.layers as families

    for module in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"netc.layers.{module.name}")
    for point in metadata.entry_points(group=ENTRY_POINTS):
        before = dict(_types)
        try:
            point.load()
        except Exception as error:
            # Whatever a package does wrong as it is imported, netc's own types still work.
            _types.clear()
            _types.update(before)
            package = point.dist.name if point.dist else point.value
            _unusable[package] = f"{type(error).__name__}: {error}"
    return _types


def unusable() -> Mapping[str, str]:
    """Return the packages whose layer types cannot be had, and why, by the package's name."""
    _load()
    return _unusable


def layer_types() -> Mapping[str, LayerType]:
    """Return every known type by name, third parties' included."""
    return _load()


def find(name: str) -> LayerType:
    """Return the type of that name; an unknown one is an error with the nearest known name."""
    types = _load()
    if name not in types:
        hints = [
            f"the package {package} may have it, but cannot be imported: {why}"
            for package, why in _unusable.items()
        ]
        hints.append(nearest(name, types))
        hints.append(f"a type of your own is added through the entry-point group '{ENTRY_POINTS}'")
        raise fail(
            f"unknown layer type '{name}'",
            expected=f"one of the {len(types)} known types",
            got=f"'{name}'",
            hint="\n".join(filter(None, hints)),
        )
    return types[name]
