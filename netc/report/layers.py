"""The catalogue of layer types: what their dataclasses say of themselves, as text or Markdown."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, cast

from netc.layers import registry
from netc.layers.types import Layer, exactly
from netc.report.machine import to_json
from netc.report.onnx_forms import onnx_operators
from netc.report.table import table
from netc.schema import CUSTOM
from netc.schema.annotations import Wanted, wanted_fields
from netc.schema.convert import SHARED
from netc.schema.defaults import setting_defaults

# Of the shared fields, those that are settings and not the layer's wiring.
_SHARED_SETTINGS = ("transform_param", "loss_param")
_LABEL = re.compile(r"(?:^|(?<=[.)] )|(?<=\n))(Shapes|Source|Raises|ONNX): ")
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a type: its name in the text, what it takes, what holds without it."""

    name: str
    takes: str
    default: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One layer type.

    `shapes`, `source` and `formula` are from its docstring; `formula` is the first sentences,
    `notes` the rest. `onnx` names the operators, "" where there is no ONNX form; `no_onnx` says why
    not. `backends` have kernels for it.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    params: tuple[str, ...]
    formula: str
    notes: tuple[str, ...]
    shapes: str
    source: str
    bottoms: str
    tops: str
    settings: tuple[Setting, ...]
    facts: tuple[str, ...]
    onnx: str
    no_onnx: str
    backends: tuple[str, ...]


def catalogue(
    kernels: Mapping[str, Collection[type[Layer]]], *, own: bool = False
) -> tuple[Entry, ...]:
    """Return every layer type, by name; those of third parties too unless `own`.

    `kernels` are the classes that each backend has kernels for, besides the reference, which runs
    them all.
    """
    kinds = {kind.name: kind for kind in registry.layer_types().values()}
    return tuple(
        _entry(kinds[name], kernels)
        for name in sorted(kinds, key=str.lower)
        if not own or kinds[name].cls.__module__.startswith("netc.layers.")
    )


def describe(name: str, kernels: Mapping[str, Collection[type[Layer]]]) -> Entry:
    """Return the entry of one type, by any of its names. Raises NetcError with the nearest one."""
    return _entry(registry.find(name), kernels)


def _entry(kind: registry.LayerType, kernels: Mapping[str, Collection[type[Layer]]]) -> Entry:
    cls = kind.cls
    told = _Docstring(inspect.getdoc(cls) or "")
    shapes = told.labelled.get("Shapes", "")
    if not shapes and cls.in_place:
        shapes = "bottom (any) -> top (the same)."
    return Entry(
        name=kind.name,
        aliases=kind.aliases,
        family=_title(inspect.getdoc(sys.modules[cls.__module__]) or ""),
        params=kind.params,
        formula=told.formula,
        notes=told.notes,
        shapes=shapes,
        source=told.labelled.get("Source", ""),
        bottoms=str(cls.bottoms),
        tops="one for each bottom" if cls.tops_match_bottoms else str(cls.tops),
        settings=tuple(_settings(kind)),
        facts=tuple(_facts(cls)),
        onnx=_onnx(cls),
        no_onnx=told.labelled.get("ONNX", "").removeprefix("none, ").rstrip(".") or _no_onnx(cls),
        backends=("reference", *(name for name, has in kernels.items() if cls in has)),
    )


class _Docstring:
    """A docstring in its parts."""

    def __init__(self, text: str) -> None:
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        self.labelled: dict[str, str] = {}
        plain = []
        for paragraph in paragraphs:
            before, *labelled = _LABEL.split(paragraph)
            if before.strip():
                plain.append(_joined(before))
            for label, content in zip(labelled[::2], labelled[1::2], strict=True):
                known = self.labelled.get(label, "")
                self.labelled[label] = f"{known} {_joined(content)}".strip()
        self.formula = plain[0] if plain else ""
        self.notes = tuple(plain[1:])
        if raises := self.labelled.pop("Raises", ""):
            self.notes += (f"Raises: {raises}",)


def _joined(text: str) -> str:
    return " ".join(text.split())


def _title(text: str) -> str:
    """Return what a module calls its family: its first line, without what is behind a colon."""
    return re.split(r"[:.](?:\s|$)", text, maxsplit=1)[0]


# -- settings --------------------------------------------------------------------------------------


def _settings(kind: registry.LayerType) -> Iterator[Setting]:
    """Yield the settings of a type, named as in the text: "pooling_param.pool"."""
    messages = {name: setting_defaults(name) for name in kind.params if name != CUSTOM}
    layer = setting_defaults()
    cls = cast(type, kind.cls)
    for wanted in wanted_fields(cls):
        holder = next((name for name, fields in messages.items() if wanted.name in fields), "")
        if holder:
            default = _default(messages[holder][wanted.name], wanted)
            yield Setting(f"{holder}.{wanted.name}", _takes(wanted), default)
        elif CUSTOM in kind.params and wanted.name not in SHARED:
            yield Setting(f"{CUSTOM}: {wanted.name}", _takes(wanted), _own_default(cls, wanted))
        elif wanted.name in _SHARED_SETTINGS or wanted.name not in SHARED:
            yield Setting(wanted.name, _takes(wanted), _default(layer[wanted.name], wanted))


def _takes(wanted: Wanted) -> str:
    if issubclass(wanted.type, Enum):
        what = "one of " + ", ".join(wanted.type.__members__)
    elif dataclasses.is_dataclass(wanted.type):
        what = wanted.type.__name__
    else:
        what = {int: "integer", float: "number", bool: "true or false", str: "string"}[wanted.type]
    return f"list: {what}" if wanted.many else what


def _default(known: str | None, wanted: Wanted) -> str:
    if wanted.many:
        return "empty"
    if dataclasses.is_dataclass(wanted.type):
        return ""
    if known is None or (wanted.optional and known != "needed"):
        return "not set"
    return known


def _own_default(cls: type, wanted: Wanted) -> str:
    (field,) = (f for f in dataclasses.fields(cls) if f.name == wanted.attribute)
    if wanted.needed:
        return "needed"
    if dataclasses.is_dataclass(wanted.type):
        return ""
    value = field.default
    if value is dataclasses.MISSING:
        value = cast(Any, field.default_factory)()
    if isinstance(value, Enum):
        return value.name
    if value is None or value == "":
        return "not set"
    if value == ():
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else f"{value}"


# -- facts -----------------------------------------------------------------------------------------


def _facts(cls: type[Layer]) -> Iterator[str]:
    if cls.loss:
        yield "a loss: its first top is minimised, with weight 1 unless loss_weight says otherwise"
    if cls.reads_data:
        yield "reads data"
    if cls.fed:
        yield "its tops are set by the caller"
    if cls.in_place:
        yield "may work in place"
    if cls.refuses_in_place:
        yield "refuses a top with the name of its bottom"
    if cls.view:
        yield "moves no memory"
    if _is_small_net(cls):
        yield "a small net of other types"
    elif not cls.reads_data and not cls.fed and cls.backward is Layer.backward:
        yield "no gradient passes"


def _is_small_net(cls: type[Layer]) -> bool:
    # With rules of its own besides, it is one for some settings only.
    return cls.expand is not Layer.expand and cls.forward is Layer.forward


def _onnx(cls: type[Layer]) -> str:
    if _is_small_net(cls):
        return "as the types it is made of"
    operators = onnx_operators(cls)
    if operators is None:
        return ""
    if not operators:
        return "none needed" if cls.tops == exactly(0) else "none needed: the bottom is handed on"
    return ", ".join(operators)


def _no_onnx(cls: type[Layer]) -> str:
    """Return why types of a kind have no ONNX form, "" where each has to say it by itself."""
    if cls.reads_data or cls.fed:
        return "its tops are inputs of the model"
    return "it writes a file" if cls.writes_data else ""


# -- text ------------------------------------------------------------------------------------------


def render_list(entries: Sequence[Entry], form: str = "text") -> str:
    """Return a table of all types as "text" or "markdown", or everything as "json"."""
    if form == "json":
        return to_json([asdict(entry) for entry in entries])
    markdown = form == "markdown"
    anchors = _anchors(entries)
    header = ("type", "bottoms", "tops", "parameters", "ONNX", "backends")
    rows = [
        (
            f"[{entry.name}](#{anchors[entry.name]})" if markdown else entry.name,
            entry.bottoms,
            entry.tops,
            " ".join(entry.params) or "-",
            "yes" if entry.onnx else "-",
            " ".join(entry.backends),
        )
        for entry in entries
    ]
    total = (f"{len(entries)} types", "", "", "", "", "")
    return "\n".join(table(header, rows, total, markdown=markdown))


def render_entry(entry: Entry, form: str = "text") -> str:
    """Return one type as "text", "markdown" or "json"."""
    if form == "json":
        return to_json(asdict(entry))
    markdown = form == "markdown"
    lines = [f"### {entry.name}" if markdown else entry.name, ""]
    for paragraph in (entry.formula, *entry.notes):
        lines += [*_wrapped(paragraph, markdown), ""]
    for label, text in _labelled(entry):
        shown = f"- **{label}**: {text}" if markdown else f"{label + ':':<10} {text}"
        lines += _wrapped(shown, markdown, indent="" if markdown else " " * 11)
    if entry.settings:
        rows = [(s.name, s.takes, s.default) for s in entry.settings]
        if markdown:
            rows = [(f"`{name}`", takes, default) for name, takes, default in rows]
        lines += ["", *table(("setting", "takes", "default"), rows, markdown=markdown)]
    return "\n".join(lines)


def _labelled(entry: Entry) -> Iterator[tuple[str, str]]:
    if entry.aliases:
        yield "also", ", ".join(entry.aliases)
    yield "bottoms", entry.bottoms
    yield "tops", entry.tops
    if entry.shapes:
        yield "shapes", entry.shapes
    if entry.facts:
        yield "facts", "; ".join(entry.facts)
    yield "ONNX", entry.onnx or f"none, {entry.no_onnx}"
    yield "backends", ", ".join(entry.backends)
    if entry.source:
        yield "source", entry.source


def _wrapped(text: str, markdown: bool, indent: str = "") -> list[str]:
    if markdown:
        return [text]  # a line of Markdown is as long as its paragraph
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _by_family(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the entries by their family, in the order of the document."""
    families: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.family):
        families.setdefault(entry.family, []).append(entry)
    return families


def _anchors(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the anchors of the types' sections: of names that differ in case only, numbered."""
    seen: Counter[str] = Counter()
    anchors = {}
    for entry in itertools.chain.from_iterable(_by_family(entries).values()):
        anchor = entry.name.lower()
        anchors[entry.name] = f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
        seen[anchor] += 1
    return anchors


def document(entries: Sequence[Entry]) -> str:
    """Return the whole catalogue as Markdown: a table, and a section for each type by family."""
    lines = [
        "# Layer types",
        "",
        "Made from the dataclasses of `netc/layers` by `tools/generate_layer_docs.py`;",
        "`netc layers TYPE` prints the same. Settings are named as in the text:",
        "`pooling_param.pool` is `pooling_param { pool: AVE }`. Shapes read (N, C, H, W).",
        "A setting that a type does not read is an error.",
        "",
        render_list(entries, "markdown"),
        "",
    ]
    for family, members in _by_family(entries).items():
        lines += [f"## {family}", ""]
        for entry in members:
            lines += [render_entry(entry, "markdown"), ""]
    return "\n".join([*lines, *_shared_messages(entries)])


def _shared_messages(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the sections of the messages that types take as one setting."""
    parts: dict[str, type] = {}
    for entry in entries:
        _add_parts(cast(type, registry.find(entry.name).cls), parts)
    yield "## Messages within settings"
    for name in sorted(parts):
        rows = [
            (f"`{wanted.name}`", _takes(wanted), _own_default(parts[name], wanted))
            for wanted in wanted_fields(parts[name])
        ]
        yield ""
        yield f"### {name}"
        yield ""
        yield _joined((inspect.getdoc(parts[name]) or "").partition("\n\n")[0])
        yield ""
        yield from table(("setting", "takes", "default"), rows, markdown=True)
    yield ""


def _add_parts(cls: type, parts: dict[str, type]) -> None:
    for wanted in wanted_fields(cls):
        if dataclasses.is_dataclass(wanted.type) and wanted.type.__name__ not in parts:
            parts[wanted.type.__name__] = wanted.type
            _add_parts(wanted.type, parts)
