"""Databases to read in the tests, and data layers opened as a net opens them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netc.data import Feed, open_feed, probe, write_datums
from netc.errors import Span
from netc.layers.data import Reader
from netc.layers.types import Phase
from netc.schema import netc_pb2
from tests.data.samples import MakeDatabase, OpenLayer


@pytest.fixture
def make_database(tmp_path: Path) -> MakeDatabase:
    """Return a function that writes Datum messages to an LMDB and returns its path."""

    def make(datums: Iterable[netc_pb2.Datum | bytes], name: str = "db") -> str:
        write_datums(tmp_path / name, datums)
        return str(tmp_path / name)

    return make


@pytest.fixture
def open_layer() -> Iterator[OpenLayer]:
    """Return a function that opens a layer as a net does: probe, infer, open. Closes them all."""
    with ExitStack() as stack:

        def open_one(
            layer: Reader, phase: Phase = Phase.TEST, seed: int = 1, span: Span | None = None
        ) -> Feed:
            signature = layer.infer(*probe(layer, span).types)
            shapes = [blob.shape for blob in signature.tops]
            feed = open_feed(layer, "layer", shapes, phase=phase, seed=seed, span=span)
            return stack.enter_context(feed)

        yield open_one
