"""List the layer types, or describe one: formula, settings, shapes, ONNX form, backends.

example: netc layers
         netc layers Pooling
         netc layers -format json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from netc.cli import options

if TYPE_CHECKING:
    from netc.layers.types import Layer


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    parser.files("type", "?", help="a layer type; all of them are listed without one")
    options.format_option(parser, "text", "json", "markdown")


def run(args: argparse.Namespace) -> int:
    """Print the list, or one type."""
    from netc.layers import registry
    from netc.report.layers import catalogue, describe, render_entry, render_list

    if args.type:
        print(render_entry(describe(args.type, kernels()), args.format))
    else:
        print(render_list(catalogue(kernels()), args.format))
    for package, why in registry.unusable().items():
        print(f"note: the package {package} cannot be imported: {why}", file=sys.stderr)
    return 0


def kernels() -> Mapping[str, Collection[type[Layer]]]:
    """Return the classes that each backend has kernels for, whether or not it works here."""
    from netc.backends.cpu import FAMILIES

    return {"cpu": FAMILIES}
