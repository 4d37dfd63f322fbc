"""Tables in markdown whose columns line up as plain text, too."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown_table"]


def markdown_table(cells: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """A table of ``cells``, rows of equal length of which the first is the head; its columns are
    aligned to the left, or to the right if ``right``."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    rule = ["-" * (width - 1) + ":" if right else "-" * width for width in widths]
    align = str.rjust if right else str.ljust
    lines = (
        " | ".join(align(c, w) for c, w in zip(row, widths, strict=True))
        for row in [cells[0], rule, *cells[1:]]
    )
    return "".join(f"| {line} |\n" for line in lines)
