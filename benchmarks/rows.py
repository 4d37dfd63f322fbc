"""What one tracked case measured, the files that hold it, and when it counts as slower."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = ["TOLERANCE", "Row", "judge", "read_rows", "read_run", "write_rows"]

TOLERANCE = 0.15


@dataclass
class Row:
    """One case of one run."""

    date: str
    commit: str
    chip: str
    threads: int
    driver: str
    torch: str
    triton: str
    case: str
    ratio: float  # our time over that of the yardstick
    spread: float  # of the ratio, over repeats
    milliseconds: float  # our median

    def __post_init__(self):
        for field in fields(self):
            kind = {"int": int, "float": float, "str": str}[str(field.type)]
            value = getattr(self, field.name)
            setattr(self, field.name, kind("" if value is None else value))


def judge(row: Row, base: Row, name: str = "baseline") -> tuple[str, bool]:
    """A line that compares ``row`` with ``base``, and whether it is slower: by more than 15 % and
    half of the larger spread, which is what stands behind the +-."""
    allowed = base.ratio * (1 + TOLERANCE) + max(row.spread, base.spread) / 2
    slower = row.ratio > allowed
    text = f"{row.case:40} {row.ratio:7.3f} +- {row.spread / 2:.3f}   {name} {base.ratio:.3f}"
    return f"{text}, at most {allowed:.3f}   {'SLOWER' if slower else 'ok'}", slower


def read_run(path: Path) -> list[Row]:
    """The rows of a pytest-benchmark JSON file."""
    run = json.loads(path.read_text())
    info = run["machine_info"]
    return [
        Row(
            date=run["datetime"][:19],
            case=bench["extra_info"]["case"],
            ratio=round(bench["extra_info"]["ratio"], 4),
            spread=round(bench["extra_info"]["spread"], 4),
            milliseconds=round(1e3 * bench["stats"]["median"], 3),
            **{k: info[k] for k in ("commit", "chip", "threads", "driver", "torch", "triton")},
        )
        for bench in run["benchmarks"]
        if "ratio" in bench["extra_info"]
    ]


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def write_rows(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
