"""Weights, solver states and single blobs: files to NumPy arrays and back, and into a net.

    read_weights(path), write_weights(path, weights)       .caffemodel, .caffemodel.h5
    match(weights, layers), preview(weights, layers)       which blob goes to which param
    read_state(path), write_state(path, state)             .solverstate, .solverstate.h5
    write_snapshot(...)                                    both as a pair
    read_blob(path), write_blob(path, values)              mean images

Files are told by their content when read and by their name when written, and are written
atomically (`atomic_write`). What cannot be read or written is a NetcError.
"""

from netc.weights.atomic import Staged, atomic_write, check_writable, remove_temporaries
from netc.weights.blobfile import read_blob, write_blob
from netc.weights.caffemodel import read_weights, split_list, write_weights
from netc.weights.match import Fate, LayerParams, Match, Row, match, preview
from netc.weights.state import Cursor, SolverState, read_state, write_snapshot, write_state
from netc.weights.types import SavedBlob, SavedLayer, Weights

__all__ = [
    "Cursor",
    "Fate",
    "LayerParams",
    "Match",
    "Row",
    "SavedBlob",
    "SavedLayer",
    "SolverState",
    "Staged",
    "Weights",
    "atomic_write",
    "check_writable",
    "match",
    "preview",
    "read_blob",
    "read_state",
    "read_weights",
    "remove_temporaries",
    "split_list",
    "write_blob",
    "write_snapshot",
    "write_state",
    "write_weights",
]
