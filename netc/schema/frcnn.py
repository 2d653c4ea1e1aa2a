"""The settings of makefile's frcnn: a file that a net names becomes `frcnn_param` of its layers.

The file is JSON: one object whose values are strings, of numbers with commas where there are many.
"""

from __future__ import annotations

import json
from typing import Any

from netc.errors import NetcError, Problem, Span, fail
from netc.schema import netc_pb2
from netc.schema.paths import resolve
from netc.schema.places import Places

#: The types that read these settings; the first names the file.
TYPES = ("FrcnnRoiData", "FrcnnProposal", "FrcnnAnchorTarget", "FrcnnProposalTarget")

# Ways to change images and boxes that netc does not have: all are off at this value, or below 0.
_ABSENT = (
    "data_jitter",
    "use_haze_free",
    "use_retinex",
    "use_hist_equalize",
    "test_soft_nms",
    "test_rpn_score_thresh",
)
_OFF = {"data_jitter": -1.0}


def spread_settings(net: netc_pb2.NetParameter, places: Places) -> list[str]:
    """Replace the names of such files in a net by what they say; return what was changed."""
    layers = list(zip(net.layer, places.fields.get("layer", ()), strict=False))
    named = [
        (layer, place)
        for layer, place in layers
        if layer.type == TYPES[0] and layer.window_data_param.HasField("config")
    ]
    if not named:
        return []
    files = {layer.window_data_param.config for layer, _ in named}
    span = named[-1][1].find("window_data_param", "config").span
    if len(files) > 1:
        raise fail(
            "the layers of a net have the settings of two files",
            span=span,
            expected="one config",
            got=" and ".join(sorted(files)),
        )
    (file,) = files
    settings = _read(file, span)
    for layer, place in named:
        layer.window_data_param.ClearField("config")
        place.child("window_data_param").fields.pop("config", None)
    taught = []
    for layer, place in layers:
        if layer.type in TYPES and not layer.HasField("frcnn_param"):
            layer.frcnn_param.CopyFrom(settings)
            place.add("frcnn_param", Places(span))
            taught.append(f"'{layer.name}'")
    return [f"the settings of {file} moved to frcnn_param of {', '.join(taught)}"]


def _read(path: str, named_in: Span) -> netc_pb2.FrcnnParameter:
    """Return what a file says. Raises NetcError for settings that netc lacks, and wrong ones."""
    file = resolve(path, named_in)
    span = Span(str(file))
    try:
        # Its lists of anchors run over several lines.
        content = json.loads(file.read_text(), strict=False)
    except (OSError, ValueError) as error:
        raise fail("the file of settings cannot be read", span=span, got=str(error)) from error
    if not isinstance(content, dict):
        raise fail("the file of settings is no object", span=span, expected='{"scales": "600"}')
    found = netc_pb2.FrcnnParameter()
    fields: Any = found.DESCRIPTOR.fields_by_name
    problems = []
    for name, value in content.items():
        try:
            if name in _ABSENT and float(value) > _OFF.get(name, 0.0):
                problems.append(
                    Problem(
                        f"netc does not have '{name}'",
                        span,
                        expected=f"{name}: {_OFF.get(name, 0.0):g}",
                        got=str(value),
                    )
                )
            elif name in fields:
                _set(found, fields[name], str(value))
        except ValueError:
            problems.append(
                Problem(f"'{name}' is no number", span, expected="numbers", got=str(value))
            )
    if problems:
        raise NetcError(*problems)
    return found


def _set(message: netc_pb2.FrcnnParameter, field: Any, value: str) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(float(part) for part in value.split(","))
    elif field.cpp_type == field.CPPTYPE_FLOAT:
        setattr(message, field.name, float(value))
    else:
        kind = bool if field.cpp_type == field.CPPTYPE_BOOL else int
        setattr(message, field.name, kind(int(value)))
