"""From files to batches: databases, image lists and HDF5 files, transformed and read ahead.

    probe       the shape of one item, for building a graph
    open_feed   a `Feed`: fills the tops of a data layer, and can go on from where it stood
    open_sink   a `Sink`: takes the bottoms of a layer that writes a file
    use_threads how many threads decode and transform

Whatever is random depends on (seed, layer name, item) alone, so that a feed which goes on from a
stored `Cursor` gives exactly what it would have given without the interruption.
"""

from netc.data.feed import Cursor, Feed, open_feed, probe
from netc.data.lmdb_writer import write_datums, write_records
from netc.data.row_writer import Sink, open_sink
from netc.data.source import DataAbsent, Item
from netc.data.workers import use_threads

__all__ = [
    "Cursor",
    "DataAbsent",
    "Feed",
    "Item",
    "Sink",
    "open_feed",
    "open_sink",
    "probe",
    "use_threads",
    "write_datums",
    "write_records",
]
