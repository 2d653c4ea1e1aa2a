"""Caffe's HDF5 files: weights (`.caffemodel.h5`) and solver states (`.solverstate.h5`).

The layout is Caffe's: a group `data` with a group for each layer, in it a dataset for each blob,
named by its index; `diff` alike. A param that layers share is stored with its owner only.

HDF5 has no place for a layer name with a slash or for two layers of one name, and Caffe cannot save
such nets at all. Here those groups get a name that HDF5 can hold, and an attribute `netc_name` with
the true one. Nested groups, as other tools write for names with a slash, are read as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from netc.errors import NetcError, Problem, Problems, Span, fail
from netc.weights.types import FloatArray, SavedBlob, SavedLayer, Weights, frozen

if TYPE_CHECKING:
    import h5py

NAME = "netc_name"
"""The attribute with a layer's true name, where HDF5 cannot hold it."""

EXTRAS = "netc"
"""The dataset of a solver state that Caffe does not know."""

# Readable by HDF5 1.8, which is what Caffe builds have.
_FORMAT = ("earliest", "v108")


# -- reading ---------------------------------------------------------------------------------------


def read_net(path: str, *, diffs: bool = False) -> Weights:
    """Read weights. Raises NetcError when the file is damaged or is not Caffe's layout."""
    problems = Problems()
    with _opened(path, "weights") as file:
        data = _group(file, "data", path, "weights")
        gradients = file.get("diff") if diffs else None
        layers = [
            _read_layer(name, group, _beside(gradients, data, group), path, problems)
            for name, group in _layer_groups(data, path)
        ]
        name = _text_attribute(file, NAME)
    problems.raise_any()
    return Weights(tuple(layers), name, path, "HDF5")


class StateParts(NamedTuple):
    """A solver state as HDF5 has it; `extras` are netc's own fields as protobuf stores them."""

    iter: int
    current_step: int
    learned_net: str
    history: tuple[FloatArray, ...]
    extras: bytes = b""


def read_state(path: str) -> StateParts:
    """Read a solver state. Raises NetcError when the file is damaged or is not Caffe's layout."""
    what = "a solver state"
    with _opened(path, what) as file:
        numbers = [_read_integer(file, key, path, what) for key in ("iter", "current_step")]
        learned_net = ""
        if "learned_net" in file:
            raw = _dataset(file, "learned_net", path, what)[()]
            learned_net = os.fsdecode(raw) if isinstance(raw, bytes) else ""
        problems = Problems()
        history = _indexed(_group(file, "history", path, what), "history", path, problems)
        extras = b""
        if EXTRAS in file:
            extras = np.asarray(_dataset(file, EXTRAS, path, what)[()]).tobytes()
    for gap in (index for index, values in enumerate(history) if values is None):
        problems.add(Problem(f"history: blob {gap} is missing", Span(path)))
    problems.raise_any()
    blobs = tuple(values for values in history if values is not None)
    return StateParts(numbers[0], numbers[1], learned_net, blobs, extras)


def _read_integer(file: h5py.File, key: str, path: str, what: str) -> int:
    values = np.asarray(_dataset(file, key, path, what)[()]).reshape(-1)
    if values.size != 1 or values.dtype.kind not in "iu":
        raise fail(
            f"'{key}' is not a number",
            span=Span(path),
            expected="one integer",
            got=f"{values.size} values of type {values.dtype}",
        )
    return int(values[0])


@contextmanager
def _opened(path: str, what: str) -> Iterator[h5py.File]:
    """Open a file for reading; whatever the library meets in a damaged one becomes a NetcError."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise fail(
            f"the HDF5 file is damaged or cut off, {what} cannot be read from it",
            span=Span(path),
            got=str(error).strip("'\""),
            hint="copy or download the file again",
        ) from error


def _group(parent: h5py.Group, name: str, path: str, what: str) -> h5py.Group:
    import h5py

    found = parent.get(name)
    if not isinstance(found, h5py.Group):
        raise fail(
            f"an HDF5 file, but not {what} in Caffe's layout",
            span=Span(path),
            expected=f"a group '{name}'",
            got=_content(parent),
        )
    return found


def _dataset(parent: h5py.Group, name: str, path: str, what: str) -> h5py.Dataset:
    import h5py

    found = parent.get(name)
    if not isinstance(found, h5py.Dataset):
        raise fail(
            f"an HDF5 file, but not {what} in Caffe's layout",
            span=Span(path),
            expected=f"a dataset '{name}'",
            got=_content(parent),
        )
    return found


_KNOWN = (
    ({"iter", "history"}, "a solver state (for -snapshot)"),
    ({"model_weights"}, "a Keras model"),
    ({"data", "label"}, "data for an HDF5Data layer"),
    ({"data"}, "weights (for -weights), or data"),
)


def _content(group: h5py.Group) -> str:
    """Return what is in an HDF5 file of another layout: in words if it is known, else its names."""
    for names, words in _KNOWN:
        if names <= set(group):
            return words
    listed = [f"'{name}'" for name in group]
    shown = ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")
    return shown or "nothing in it"


def _layer_groups(
    group: h5py.Group, path: str, prefix: str = ""
) -> Iterator[tuple[str, h5py.Group]]:
    """Yield (layer name, group). A group that holds only groups is the first part of names."""
    import h5py

    for link, member in group.items():
        if not isinstance(member, h5py.Group):
            if not prefix:
                raise fail(
                    "an HDF5 file, but not weights in Caffe's layout",
                    span=Span(path),
                    expected="a group for each layer in 'data'",
                    got=f"a dataset '{link}'",
                )
            continue
        # An empty name is one too.
        name = _text_attribute(member, NAME) if NAME in member.attrs else prefix + link
        inner = [isinstance(thing, h5py.Group) for thing in member.values()]
        if not inner or not all(inner):
            yield name, member
        if any(inner):
            yield from _layer_groups(member, path, name + "/")


def _beside(
    gradients: h5py.Group | None, data: h5py.Group, group: h5py.Group
) -> Mapping[str, h5py.Dataset]:
    """Return the group of `diff` that corresponds to one of `data`."""
    if gradients is None:
        return {}
    found = gradients.get(group.name.removeprefix(data.name).lstrip("/"))
    return {} if found is None else found


def _read_layer(
    name: str,
    group: h5py.Group,
    gradients: Mapping[str, h5py.Dataset],
    path: str,
    problems: Problems,
) -> SavedLayer:
    arrays = _indexed(group, f"layer '{name}'", path, problems)
    blobs = []
    for index, values in enumerate(arrays):
        stored = gradients.get(str(index))
        diff = None if stored is None else frozen(stored[()])
        blobs.append(None if values is None else SavedBlob(values, diff=diff))
    return SavedLayer(name, tuple(blobs))


def _indexed(
    group: h5py.Group, owner: str, path: str, problems: Problems
) -> list[FloatArray | None]:
    """Return the datasets "0", "1", ... of a group; None for those that are not there."""
    import h5py

    found: dict[int, FloatArray] = {}
    for link, member in group.items():
        if isinstance(member, h5py.Group):
            continue
        if not link.isdecimal() or str(int(link)) != link:
            problems.add(
                Problem(
                    f"{owner}: a dataset is not named by the index of a blob",
                    Span(path),
                    expected="'0', '1', ... (Caffe's layout)",
                    got=f"'{link}'",
                )
            )
        elif member.dtype.kind not in "fiu":
            problems.add(
                Problem(f"{owner}: blob {link} is not numeric", Span(path), got=str(member.dtype))
            )
        elif member.shape is None:
            problems.add(Problem(f"{owner}: blob {link} is empty", Span(path)))
        else:
            found[int(link)] = _read_array(member)
    # Indices beyond any layer's params: a list up to them would only fill the memory.
    if found and max(found) > 4096 + len(found):
        problems.add(Problem(f"{owner}: there is no blob {max(found)}", Span(path)))
        return []
    return [found.get(index) for index in range(max(found, default=-1) + 1)]


def _read_array(dataset: h5py.Dataset) -> FloatArray:
    """Read straight into the array that is kept, converting on the way as HDF5 does."""
    values = np.empty(dataset.shape, np.float32)
    if dataset.dtype.kind == "f" and values.size and dataset.shape:
        dataset.read_direct(values)
        return frozen(values)
    return frozen(dataset[()])


def _text_attribute(thing: h5py.Group, name: str) -> str:
    value = thing.attrs.get(name, "")
    return value if isinstance(value, str) else ""


# -- writing ---------------------------------------------------------------------------------------


def write_net(file: BinaryIO, weights: Weights, *, diffs: bool = False) -> None:
    """Write weights to an open binary file; with `diffs` the gradients too, where there are any."""
    with _created(file) as root:
        if weights.name:
            root.attrs[NAME] = weights.name
        data = root.create_group("data", track_order=True)
        gradients = root.create_group("diff", track_order=True) if diffs else None
        links: set[str] = set()
        for layer in weights.layers:
            if "\0" in layer.name:
                raise fail(
                    "HDF5 cannot hold a layer name with a zero byte",
                    layer=repr(layer.name),
                    hint="rename the layer, or use snapshot_format: BINARYPROTO",
                )
            link = _link(layer.name, links)
            group = data.create_group(link)
            if link != layer.name:
                group.attrs[NAME] = layer.name
            beside = gradients.create_group(link) if gradients is not None else None
            for index, blob in enumerate(layer.blobs):
                if blob is None:
                    continue
                if not blob.shared:
                    _write_array(group, str(index), blob.data)
                if beside is not None and blob.diff is not None:
                    _write_array(beside, str(index), blob.diff)


def write_state(file: BinaryIO, state: StateParts) -> None:
    """Write a solver state to an open binary file."""
    with _created(file) as root:
        for key, value in (("iter", state.iter), ("current_step", state.current_step)):
            root.create_dataset(key, data=np.array([value], "<i4"))
        _write_string(root, "learned_net", state.learned_net)
        group = root.create_group("history")
        for index, values in enumerate(state.history):
            _write_array(group, str(index), values)
        if state.extras:
            root.create_dataset(EXTRAS, data=np.frombuffer(state.extras, np.uint8))


@contextmanager
def _created(file: BinaryIO) -> Iterator[h5py.File]:
    import h5py

    sink = _Sink(file)
    try:
        with h5py.File(sink, "w", libver=_FORMAT) as root:
            yield root
    finally:
        # What the library says after a failed write is only that it failed.
        if sink.error:
            raise sink.error


class _Sink:
    """The file as HDF5 sees it: one that never fails.

    The library does not survive a failing write (it loses the reason and keeps the file open), so
    the first error is kept for later and the rest is dropped.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: NetcError | None = None

    def write(self, data: memoryview) -> int:
        if not self.error:
            try:
                self._file.write(data)
            except NetcError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        if not self.error:
            try:
                self._file.flush()
            except NetcError as error:
                self.error = error

    def truncate(self, size: int) -> int:
        return self._file.truncate(size) if not self.error else size

    def seek(self, position: int, whence: int = 0) -> int:
        if not self.error:
            try:
                return self._file.seek(position, whence)
            except NetcError as error:
                self.error = error
        return position

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, into: memoryview) -> int:
        if self.error:
            return len(into)
        return self._file.readinto(into)  # type: ignore[attr-defined, no-any-return]


def _link(name: str, taken: set[str]) -> str:
    """Return a name for a layer's group that HDF5 can hold and no other layer has."""
    plain = name.replace("/", "%2F")
    if plain in ("", ".", ".."):
        plain = "%" + plain
    link, n_same = plain, 1
    while link in taken:
        n_same += 1
        link = f"{plain}%{n_same}"
    taken.add(link)
    return link


def _write_array(group: h5py.Group, name: str, values: FloatArray) -> None:
    group.create_dataset(name, data=np.ascontiguousarray(values, "<f4").reshape(values.shape))


def _write_string(group: h5py.Group, name: str, text: str) -> None:
    """Write a string as Caffe's reader wants it: of fixed length, with a zero byte at its end."""
    import h5py

    raw = os.fsencode(text) + b"\0"
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(raw))
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(group.id, name.encode(), kind, space)
    dataset.write(space, space, np.array(raw, f"S{len(raw)}"), mtype=kind)
