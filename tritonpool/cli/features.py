"""Checks of the files with features and descriptors, which chemprop pairs with rows by number."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from chemprop.cli.predict import check_featurizer_matches_model
from chemprop.data import BatchMolGraph, MoleculeDatapoint, ReactionDatapoint
from chemprop.models import MPNN, MulticomponentMPNN
from rdkit.Chem import Descriptors
from torch import Tensor
from torch.utils.data import DataLoader

from tritonpool.cli.errors import InputError
from tritonpool.cli.options import flag
from tritonpool.cli.tables import count_rows

__all__ = [
    "OF_ATOMS",
    "OF_MOLECULES",
    "check_feature_files",
    "check_fit",
    "check_points",
    "mismatch",
]

OF_ATOMS = ("atom_features_path", "atom_descriptors_path", "bond_features_path")
OF_MOLECULES = ("descriptors_path", "descriptors_columns", "molecule_featurizers")
# what chemprop's data points hold of the files: the attribute, what it has rows for, the option
ROWS = (
    ("V_f", "atoms", "atom_features_path"),
    ("V_d", "atoms", "atom_descriptors_path"),
    ("E_f", "bonds", "bond_features_path"),
)


def check_feature_files(table: Path, args: argparse.Namespace, prefix: str = "") -> None:
    """Check that the files which options, whose names begin with ``prefix``, name hold something
    for each row of a table.

    Raises
    ------
    InputError
        If one is not there, is no .npz file, or has more or fewer rows.
    """
    names = [prefix + name for name in OF_ATOMS]
    atoms = [(flag(name), path) for name in names for path in _paths(getattr(args, name))]
    whole = prefix + "descriptors_path"
    option, descriptors = flag(whole), getattr(args, whole)
    if descriptors is None and not atoms:
        return
    rows = count_rows([table], args)
    if descriptors is not None:
        with _open(descriptors, option) as arrays:
            if "arr_0" not in arrays:
                raise InputError(
                    f"argument {option}: {str(descriptors)!r} has no array 'arr_0', with a row for "
                    f"each molecule"
                )
            _compare(option, descriptors, len(arrays["arr_0"]), rows)
    for option, path in atoms:
        with _open(path, option) as arrays:
            _compare(option, path, len(arrays.files), rows)


def check_points(components: Iterable[list], prefix: str = "") -> None:
    """Check that the data points of each component have a row for each of their atoms or bonds, and
    descriptors that are finite; the names of the options that gave these begin with ``prefix``.

    Raises
    ------
    InputError
        If one has more or fewer rows, or a descriptor is infinite.
    """
    for points in components:
        for point in points:
            _check_rows(point, prefix)
            if point.x_d is not None and (wrong := _not_finite(point.x_d)).any():
                raise InputError(
                    f"{_descriptor(wrong)} of {point.name!r} is infinite, or too large for "
                    f"float32; leave it out, or take scaled ones (those of RDKit: "
                    f"--molecule-featurizers v1_rdkit_2d_normalized)"
                )


def _check_rows(point: MoleculeDatapoint | ReactionDatapoint, prefix: str) -> None:
    for name, what, option in ROWS:
        values = getattr(point, name, None)
        if values is None:
            continue
        count = point.mol.GetNumAtoms() if what == "atoms" else point.mol.GetNumBonds()
        if len(values) != count:
            raise InputError(
                f"argument {flag(prefix + option)}: there are {len(values)} rows for "
                f"{point.name!r}, which has {count} {what}"
            )


def _not_finite(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return ~np.isfinite(values.astype(np.float32))


def _descriptor(wrong: np.ndarray) -> str:
    """The first descriptor of a molecule that is wrong, by its name if they are RDKit's."""
    first = int(wrong.argmax())
    if len(wrong) == len(Descriptors.descList):
        return f"the descriptor {Descriptors.descList[first][0]!r}"
    return f"descriptor {first} (the first is 0)"


def mismatch(
    model: MPNN | MulticomponentMPNN,
    bmg: BatchMolGraph | Sequence[BatchMolGraph],
    V_d: Tensor | None | Sequence[Tensor | None],
    X_d: Tensor | None,
    prefix: str = "",
) -> str | None:
    """What a model takes of atoms, bonds and molecules, where a batch has another number of it:
    ``"it takes 5 descriptors of molecules, but 3 are given; see --descriptors-path, ..."``.

    Parameters
    ----------
    model
        The model.
    bmg, V_d
        Graphs and descriptors of atoms, as a batch has them: lists for several columns.
    X_d
        Descriptors of molecules.
    prefix
        What the names of the options that gave files begin with.
    """

    def width(rows: Tensor | None) -> int:
        return 0 if rows is None else rows.shape[1]

    if isinstance(model, MulticomponentMPNN):
        columns = zip(model.message_passing.blocks, bmg, V_d, strict=True)
    else:
        columns = [(model.message_passing, bmg, V_d)]
    modes = ("multi_hot_atom_featurizer_mode", "rxn_mode")
    pairs = []
    for block, bmg, V_d in columns:
        for name, what, found, options in (
            ("d_v", "features of atoms", width(bmg.V), ("atom_features_path", *modes)),
            ("d_e", "features of bonds", width(bmg.E), ("bond_features_path", "rxn_mode")),
            ("d_vd", "descriptors of atoms", width(V_d), ("atom_descriptors_path",)),
        ):
            takes = block.hparams.get(name, found)  # a layer of one's own may not say
            pairs.append((what, takes or 0, found, options))
    wanted = model.predictor.input_dim - model.message_passing.output_dim
    pairs.append(("descriptors of molecules", wanted, width(X_d), OF_MOLECULES))
    for what, takes, given, options in pairs:
        if takes != given:
            names = (prefix + name if name.endswith("path") else name for name in options)
            see = ", ".join(map(flag, names))
            return f"it takes {takes} {what}, but {given} are given; see {see}"
    return None


def check_fit(
    model: MPNN | MulticomponentMPNN, path: Path, loader: DataLoader, prefix: str = ""
) -> None:
    """Check that data have the features and descriptors that a model takes.

    Parameters
    ----------
    model, path
        The model, and the file that it is from.
    loader
        The data.
    prefix
        What the names of the options that gave files begin with.

    Raises
    ------
    InputError
        If there are more or fewer.
    """
    try:  # chemprop knows some cases that it can mend
        loader = check_featurizer_matches_model(loader, model)
    except argparse.ArgumentError:
        pass
    bmg, V_d, X_d, *_ = next(iter(loader))
    found = mismatch(model, bmg, V_d, X_d, prefix)
    if found is not None:
        option = "--cal-path" if prefix else "--test-path"
        raise InputError(
            f"argument {option}: the model in {str(path)!r} does not fit the data: {found}"
        ) from None


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
