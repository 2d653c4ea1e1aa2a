"""The protobuf wire format, as far as files that are mostly arrays need it.

protobuf's own parser copies every array twice (into its arena, then into a Python object) and says
nothing of where a file breaks off. Here the structure is walked field by field and each array is
read from the file straight into the NumPy array that holds it, so that loading takes as long as
reading does, no file is too large, and an error knows the place. What the walk accepts is what
protobuf accepts: unknown fields, groups, packed and unpacked numbers in any mix.

Reading goes through `WireReader`; writing makes lists of chunks (`field`, `varint_field`,
`array_chunks`), whose arrays are never copied.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5
"""The wire types: how a value is stored, the low three bits of its tag."""

_MOST_NUMBER = (1 << 29) - 1  # the largest field number protobuf knows
_MOST_DEPTH = 100  # nesting that protobuf itself refuses to follow

Chunk = bytes | memoryview
# Of whichever numbers the file has: float32, float64, bytes.
AnyArray = npt.NDArray[Any]
AnyDtype = np.dtype[Any]
FloatArray = npt.NDArray[np.float32]


class WireError(Exception):
    """The bytes are not a protobuf message. `position` counts bytes from the start of the file."""

    def __init__(self, what: str, position: int) -> None:
        super().__init__(what)
        self.what = what
        self.position = position


class Truncated(WireError):
    """The file ends before the value that it announces; `missing` more bytes were needed."""

    def __init__(self, position: int, missing: int) -> None:
        super().__init__(f"the file ends at byte {position}, in the middle of a value", position)
        self.missing = missing


class WireReader:
    """Walks the fields of messages in a binary file, one that can be skipped through.

    Ends are absolute positions. A message may announce an end beyond the file: what is still there
    is read, so that the error names the last thing seen, and `Truncated` is raised at the cut.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = self._file.seek(0, io.SEEK_END)
        self.position = self._file.seek(0)

    def fields(self, end: int) -> Iterator[tuple[int, int]]:
        """Yield (field number, wire type) up to `end`; the caller consumes each value.

        Raises WireError for a tag that no message can hold.
        """
        while self.position < end:
            start = self.position
            key = self.varint(end)
            number, wire_type = key >> 3, key & 7
            if not 0 < number <= _MOST_NUMBER or wire_type in (END_GROUP, 6, 7):
                raise WireError("a field has an impossible tag", start)
            yield number, wire_type

    def varint(self, end: int) -> int:
        """Read an unsigned integer of up to 64 bits."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._take(1, end)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF
        raise WireError("an integer is longer than 64 bits", self.position)

    def integer(self, end: int, bits: int = 64) -> int:
        """Read a signed integer stored as a varint, cut to its low `bits` bits as protobuf does."""
        value = self.varint(end) & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value

    def integers(self, wire_type: int, end: int) -> list[int]:
        """Read one value of a repeated int64 field, or a packed run of them."""
        if wire_type == VARINT:
            return [self.integer(end)]
        stop = self.message(end)
        values = []
        while self.position < stop:
            values.append(self.integer(stop))
        return values

    def message(self, end: int) -> int:
        """Read the length of a message or a string and return the position where it ends."""
        stop = self.varint(end) + self.position
        if stop > end and end != self.size:
            raise WireError("a field is longer than the message that holds it", self.position)
        return stop

    def string(self, end: int) -> bytes:
        """Read a string or a bytes value."""
        stop = self.message(end)
        return self._take(stop - self.position, end)

    def skip(self, wire_type: int, end: int) -> None:
        """Pass over the value of an unknown field."""
        depth = 0
        while True:
            if wire_type == VARINT:
                self.varint(end)
            elif wire_type in (FIXED32, FIXED64):
                self._jump(4 if wire_type == FIXED32 else 8, end)
            elif wire_type == LENGTH:
                self._jump(self.message(end) - self.position, end)
            elif wire_type == START_GROUP:
                depth += 1
            elif wire_type == END_GROUP and depth:
                depth -= 1
            else:
                raise WireError("a field has an impossible tag", self.position)
            if depth > _MOST_DEPTH:
                raise WireError("groups are nested too deeply", self.position)
            if not depth:
                return
            # Inside a group the fields follow one another until its end tag.
            key = self.varint(end)
            if not key >> 3:
                raise WireError("a field has an impossible tag", self.position)
            wire_type = key & 7

    def copy(self, number: int, wire_type: int, end: int) -> bytes:
        """Return a field as it is stored, tag included, and pass over it."""
        start = self.position
        self.skip(wire_type, end)
        stop = self.position
        self._seek(start)
        return encode_varint(number << 3 | wire_type) + self._take(stop - start, end)

    def packed(self, dtype: AnyDtype, end: int) -> AnyArray:
        """Read a packed run of fixed-size numbers into an array of its own."""
        start = self.position
        n_bytes = self.message(end) - self.position
        if n_bytes % dtype.itemsize:
            raise WireError(
                f"{n_bytes} bytes of numbers do not divide into {dtype.itemsize} bytes each", start
            )
        self._need(n_bytes, end)
        values = np.empty(n_bytes // dtype.itemsize, dtype)
        into = values.view(np.uint8)
        while len(into):
            n_read = self._file.readinto(into)  # type: ignore[attr-defined]
            if not n_read:  # somebody shortened the file meanwhile
                raise Truncated(self.position, len(into))
            self.position += n_read
            into = into[n_read:]
        return values

    def unpacked(self, number: int, dtype: AnyDtype, end: int) -> AnyArray:
        """Read a fixed-size number and all those that directly follow under the same tag.

        `number` is below 16, so that a tag is one byte. Works on blocks: old writers stored every
        weight with a tag of its own, and there are millions of them.
        """
        step = 1 + dtype.itemsize
        tag = number << 3 | (FIXED32 if dtype.itemsize == 4 else FIXED64)
        runs = [np.frombuffer(self._take(dtype.itemsize, end), dtype)]
        block = 64  # grows, so that a short run costs a short read
        while count := min(block, (min(end, self.size) - self.position) // step):
            raw = np.frombuffer(self._take(count * step, end), np.uint8).reshape(count, step)
            same = raw[:, 0] == tag
            n_same = count if same.all() else int(same.argmin())
            runs.append(np.ascontiguousarray(raw[:n_same, 1:]).view(dtype)[:, 0])
            if n_same < count:
                self._seek(self.position - (count - n_same) * step)
                break
            block = min(block * 4, 1 << 20)
        return np.concatenate(runs)

    def _need(self, n_bytes: int, end: int) -> None:
        """Check that a value fits, before memory is allocated: a length can be garbage."""
        if self.position + n_bytes > self.size:
            raise Truncated(self.size, self.position + n_bytes - self.size)
        if self.position + n_bytes > end:
            raise WireError("a value is longer than the message that holds it", self.position)

    def _take(self, n_bytes: int, end: int) -> bytes:
        self._need(n_bytes, end)
        raw = self._file.read(n_bytes)
        self.position += len(raw)
        if len(raw) < n_bytes:
            raise Truncated(self.position, n_bytes - len(raw))
        return raw

    def _jump(self, n_bytes: int, end: int) -> None:
        self._need(n_bytes, end)
        self._seek(self.position + n_bytes)

    def _seek(self, position: int) -> None:
        self.position = self._file.seek(position)


def encode_varint(value: int) -> bytes:
    """Return an integer as a varint; a negative one as its 64-bit two's complement."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def n_bytes(chunks: Sequence[Chunk]) -> int:
    """Return the total length of chunks."""
    return sum(chunk.nbytes if isinstance(chunk, memoryview) else len(chunk) for chunk in chunks)


def field(number: int, content: Sequence[Chunk]) -> list[Chunk]:
    """Return a message, string or packed field."""
    return [encode_varint(number << 3 | LENGTH) + encode_varint(n_bytes(content)), *content]


def varint_field(number: int, value: int) -> bytes:
    """Return an integer field."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)


def array_chunks(values: FloatArray) -> list[Chunk]:
    """Return an array as the content of a packed float field, without copying where it can be."""
    flat = np.ascontiguousarray(values, "<f4").reshape(-1)
    return [flat.view(np.uint8).data] if flat.size else []
