from __future__ import annotations

import pytest

from netc.layers import registry
from netc.layers.types import Layer


def test_an_alias_is_the_same_type() -> None:
    types = registry.layer_types()
    kind = registry.find("DepthwiseConvolution")
    assert kind.name == "ConvolutionDepthwise"
    assert kind == types["ConvolutionDepthwise"]
    assert kind.cls.type == "ConvolutionDepthwise"
    assert all(types[alias] == kind for kind in types.values() for alias in kind.aliases)


def test_a_name_is_given_once() -> None:
    registry.layer_types()
    for names in (("ReLU", ()), ("Fresh", ("ReLU",))):
        with pytest.raises(RuntimeError, match="'ReLU' is defined by"):
            registry.layer(names[0], aliases=names[1])(Layer)
    assert "Fresh" not in registry.layer_types()
    assert Layer.type == ""
