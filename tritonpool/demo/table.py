"""The demo data as a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tritonpool.demo.oligomers import Oligomer

COLUMNS: tuple[str, ...] = ("smiles", "gap", "sequence", "chain", "units", "atoms")


def check_target(path: Path) -> None:
    """Check that a file can be written, before the work for it starts.

    Parameters
    ----------
    path
        File to be written; an existing file is replaced.

    Raises
    ------
    OSError
        If its folder cannot be made or is not writable, or if ``path`` is a folder or a device.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, not a file")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{str(path)!r} is a device or a pipe, not a file")
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if not existing.is_dir():
        raise NotADirectoryError(
            f"the folder of {str(path)!r} cannot be made, because {str(existing)!r} is not a folder"
        )
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"the folder of {str(path)!r} is not writable")


def write_csv(oligomers: Iterable[Oligomer], path: Path) -> None:
    """Write oligomers to a CSV file, gaps in eV with four decimals; its folder is made.

    The rows go to a temporary file beside ``path``, which takes its name only when all are
    written: nothing half-written is left behind.

    Parameters
    ----------
    oligomers
        Rows of the table.
    path
        File to write; an existing file is replaced.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = path.resolve()  # a link stays, and what it leads to is written
    check_target(path)
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", newline="", encoding="ascii") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in oligomers:
                gap = f"{row.gap:.4f}"
                writer.writerow((row.smiles, gap, row.sequence, row.chain, row.units, row.atoms))
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        with suppress(OSError):  # if somebody else has written there
            for folder in made:
                folder.rmdir()
        raise
