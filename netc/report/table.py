"""Tables as text and as Markdown, and numbers as they stand in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Line = Sequence[str]


def table(
    header: Line,
    rows: Sequence[Line],
    total: Line = (),
    *,
    right: Collection[int] = (),
    markdown: bool = False,
) -> list[str]:
    """Return the lines of a table; `total` is a last row that stands apart.

    `right` are the columns that are aligned to the right.
    """
    return (_markdown if markdown else _text)(header, rows, total, right)


def size(count: int) -> str:
    """Return a number of bytes with a unit, powers of 1024."""
    if count < 1024:
        return f"{count} B"
    amount, units = count / 1024, ["KiB", "MiB", "GiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.1f} {units[0]}"


def _text(header: Line, rows: Sequence[Line], total: Line, right: Collection[int]) -> list[str]:
    everything = [header, *rows, *([total] if total else [])]
    widths = [max(len(row[i]) for row in everything) for i in range(len(header))]
    rule = "  ".join("-" * width for width in widths)

    def line(row: Line) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(cells)
        ).rstrip()

    return [line(header), rule, *map(line, rows), *([rule, line(total)] if total else [])]


def _markdown(header: Line, rows: Sequence[Line], total: Line, right: Collection[int]) -> list[str]:
    def line(row: Line) -> str:
        # A bar would end the cell.
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    rule = "|" + "|".join(" ---: " if i in right else " --- " for i in range(len(header))) + "|"
    strong = [f"**{cell}**" if cell else "" for cell in total]
    return [line(header), rule, *map(line, rows), *([line(strong)] if total else [])]
