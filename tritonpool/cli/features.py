"""Checks of the files with features and descriptors, which chemprop pairs with rows by number."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tritonpool.cli.errors import InputError
from tritonpool.cli.options import flag
from tritonpool.cli.tables import count_rows

__all__ = ["OF_ATOMS", "check_atoms", "check_feature_files"]

OF_ATOMS = ("atom_features_path", "atom_descriptors_path", "bond_features_path")
# what chemprop's data points hold of the files: the attribute, what it has rows for, the option
ROWS = (
    ("V_f", "atoms", "--atom-features-path"),
    ("V_d", "atoms", "--atom-descriptors-path"),
    ("E_f", "bonds", "--bond-features-path"),
)


def check_feature_files(table: Path, args: argparse.Namespace) -> None:
    """Check that the files which options name hold something for each row of a table.

    Raises
    ------
    InputError
        If one is not there, is no .npz file, or has more or fewer rows.
    """
    atoms = [(flag(name), path) for name in OF_ATOMS for path in _paths(getattr(args, name))]
    if args.descriptors_path is None and not atoms:
        return
    rows = count_rows([table], args)
    if args.descriptors_path is not None:
        with _open(args.descriptors_path, "--descriptors-path") as arrays:
            if "arr_0" not in arrays:
                raise InputError(
                    f"argument --descriptors-path: {str(args.descriptors_path)!r} has no array "
                    f"'arr_0', with a row for each molecule"
                )
            _compare("--descriptors-path", args.descriptors_path, len(arrays["arr_0"]), rows)
    for option, path in atoms:
        with _open(path, option) as arrays:
            _compare(option, path, len(arrays.files), rows)


def check_atoms(components: Iterable[list]) -> None:
    """Check that the data points of each component have a row for each of their atoms or bonds.

    Raises
    ------
    InputError
        If one has more or fewer.
    """
    for points in components:
        for point in points:
            for name, what, option in ROWS:
                values = getattr(point, name, None)
                if values is None:
                    continue
                count = point.mol.GetNumAtoms() if what == "atoms" else point.mol.GetNumBonds()
                if len(values) != count:
                    raise InputError(
                        f"argument {option}: there are {len(values)} rows for {point.name!r}, "
                        f"which has {count} {what}"
                    )


def _paths(given: dict | list | None) -> list[Path]:
    """Those of each column: as chemprop has sorted them, or as they were given, with the numbers of
    their columns between them if there are several."""
    if isinstance(given, dict):
        return [Path(path) for path in given.values()]
    return [Path(word) for word in given or [] if not str(word).isdigit()]


def _open(path: Path, option: str) -> np.lib.npyio.NpzFile:
    try:
        found = np.load(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"argument {option}: cannot read {str(path)!r}: {reason}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        found = None
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise InputError(f"argument {option}: {str(path)!r} is no .npz file of numpy.savez")
    return found


def _compare(option: str, path: Path, found: int, rows: int) -> None:
    if found != rows:
        raise InputError(
            f"argument {option}: {str(path)!r} is for {found} molecules, but the data has {rows} "
            f"rows"
        )
