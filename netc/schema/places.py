"""Where in the text the fields of a message stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from netc.errors import Span


@dataclass(slots=True)
class Places:
    """The place of one value and, for a message, of every field that the text sets in it.

    A field has a list of places, one per value; a field that is not repeated has one.
    """

    span: Span
    fields: dict[str, list[Places]] = field(default_factory=dict)

    def find(self, *path: str | int) -> Places:
        """Return the places at the end of a path, say ("layer", 3, "lrn_param", "alpha").

        A repeated field without an index means its first value. Where the text does not have the
        path, the answer is for the longest part of it that it has.
        """
        here = self
        steps = list(path)
        while steps:
            name = steps.pop(0)
            index = steps.pop(0) if steps and isinstance(steps[0], int) else 0
            values = here.fields.get(str(name), ())
            if not -len(values) <= int(index) < len(values):
                break
            here = values[int(index)]
        return here

    def add(self, name: str, place: Places) -> None:
        """Note one more value of a field."""
        self.fields.setdefault(name, []).append(place)

    def move(self, name: str, to: Places, new_name: str) -> None:
        """Hand the values of a field over to another message, behind those that it has."""
        if moved := self.fields.pop(name, None):
            to.fields.setdefault(new_name, []).extend(moved)

    def child(self, name: str) -> Places:
        """Return the places of a message field; where the text has none, they begin empty here."""
        if name not in self.fields:
            self.fields[name] = [Places(self.span)]
        return self.fields[name][0]
