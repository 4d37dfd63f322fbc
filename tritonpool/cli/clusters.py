"""``tritonpool clusters``: which atoms a trained model puts together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from chemprop.cli.common import add_common_args, process_common_args, validate_common_args
from chemprop.cli.predict import check_featurizer_matches_model
from chemprop.models import MPNN, MulticomponentMPNN
from chemprop.models.utils import load_model
from rdkit import Chem
from torch.utils.data import DataLoader

from tritonpool.chemprop.message_passing import DiffPoolMixin
from tritonpool.cli.checks import WRITTEN, check_writable, earlier_training, on_gpu, output_folder
from tritonpool.cli.errors import InputError, UsageError
from tritonpool.cli.features import check_feature_files, check_fit
from tritonpool.cli.limits import check_numbers
from tritonpool.cli.loaders import unsplit_loader
from tritonpool.cli.ranges import whole_number
from tritonpool.cli.recorded import warn_of_differences
from tritonpool.cli.saved import trained_models
from tritonpool.cli.tables import check_files, smiles_by_column
from tritonpool.clusters import Measures, atom_kinds, draw_clusters, mean_measures, measure
from tritonpool.clusters.pictures import page

__all__ = ["add_args", "run"]

ATOMS, MOLECULES, PAGE = "atoms.csv", "molecules.csv", "clusters.html"


@dataclass
class Pooled:
    """The clusters of one molecule at one level."""

    row: int
    column: str
    smiles: str
    mol: Chem.Mol
    level: int
    shares: np.ndarray  # n x c

    @cached_property
    def measures(self) -> Measures:
        """What its clusters are like."""
        bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in self.mol.GetBonds()]
        return measure(self.shares, bonds, atom_kinds(self.mol))


def add_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add chemprop's options on data and features, and ours."""
    parser = add_common_args(parser)
    parser.add_argument(
        "-i",
        "--test-path",
        required=True,
        type=Path,
        help="CSV file with SMILES",
    )
    parser.add_argument(
        "--model-paths",
        "--model-path",
        required=True,
        type=Path,
        nargs="+",
        help="model files (.pt or .ckpt), or folders that are searched for .pt files",
    )
    parser.add_argument(
        "-o",
        "--output-dir",
        type=Path,
        default=Path("clusters"),
        help="folder for tables and pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures",
        type=whole_number(0),
        default=50,
        help="draw the molecules of this many rows, the first of the file (default: %(default)s)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the clusters of every molecule, and print what they are like.

    Raises
    ------
    UsageError
        If an option asks for what there is not.
    InputError
        If a file cannot be used, or a model has no clusters.
    """
    check_numbers(args)
    validate_common_args(process_common_args(args))
    if args.reaction_columns:
        raise UsageError("argument --reaction-columns: clusters can be shown for molecules only")
    check_files([args.test_path], args)
    check_feature_files(args.test_path, args)
    texts = smiles_by_column(args.test_path, args)
    paths = _models(args)
    warn_of_differences(paths, args, ("molecule_featurizers",))
    own = (file for name in WRITTEN for file in args.output_dir.glob(name))  # a model's folder
    if (model := next(own, None) or earlier_training(args.output_dir)) is not None:
        raise UsageError(
            f"argument --output-dir: {str(args.output_dir)!r} holds a training "
            f"({model.relative_to(args.output_dir)}); name another folder"
        )
    check_writable(args.output_dir)
    loader = unsplit_loader(args, len(texts) > 1)
    for number, path in enumerate(paths):
        out = args.output_dir if len(paths) == 1 else args.output_dir / f"model_{number}"
        found = _found(args, path, loader, texts)
        if number == 0:
            _remove_earlier(args.output_dir)
        with output_folder(out):
            _write(found, out, args.pictures, path)
        print(f"{path}\n\n{_table(found)}\n")
    print(f"Tables and pictures are in {args.output_dir}.")


def _models(args: argparse.Namespace) -> list[Path]:
    models = trained_models(args)
    for path, saved in models:
        if not saved.pools:
            raise InputError(f"{str(path)!r} has no DiffPool levels, so it has no clusters")
    return [path for path, _ in models]


def _found(
    args: argparse.Namespace, path: Path, loader: DataLoader, texts: dict[str, list[str]]
) -> list[Pooled]:
    """The clusters of the model in a file; if there are none, name the features to blame."""
    model = load_model(path, len(texts) > 1).eval()
    try:
        return list(_pooled(args, model, loader, texts))
    except (RuntimeError, TypeError, ValueError, argparse.ArgumentError):
        check_fit(model.cpu(), path, loader)
        raise


def _pooled(
    args: argparse.Namespace,
    model: MPNN | MulticomponentMPNN,
    loader: DataLoader,
    texts: dict[str, list[str]],
) -> Iterator[Pooled]:
    """The clusters of a model, level by level of every molecule."""
    several = len(texts) > 1
    loader = check_featurizer_matches_model(loader, model)
    datasets = loader.dataset.datasets if several else [loader.dataset]
    blocks = model.message_passing.blocks if several else [model.message_passing]
    device = torch.device("cuda" if on_gpu(args) else "cpu")
    model.to(device)
    for number, (column, data, block) in enumerate(zip(texts, datasets, blocks, strict=True)):
        if not isinstance(block, DiffPoolMixin):  # another component of the model has levels
            continue
        row = 0
        for batch in loader:
            bmg, V_d = batch[0], batch[1]
            if several:
                bmg, V_d = bmg[number], V_d[number]
            bmg.to(device)
            V_d = None if V_d is None else V_d.to(device)
            with torch.no_grad():
                levels = block.assignments(bmg, V_d)
            for molecules in zip(*levels, strict=True):
                known = row, column, texts[column][row], data.data[row].mol
                for level, S in enumerate(molecules, 1):
                    yield Pooled(*known, level, S.float().cpu().numpy())
                row += 1


def _remove_earlier(folder: Path) -> None:
    """Remove the files of an earlier call, which may have been about more models."""
    for each in (folder, *folder.glob("model_*")):
        for name in (ATOMS, MOLECULES, PAGE):
            (each / name).unlink(missing_ok=True)
        if each != folder and each.is_dir() and not list(each.iterdir()):
            each.rmdir()


def _write(found: list[Pooled], out: Path, pictures: int, model: Path) -> None:
    atoms, molecules, drawn = [], [], []
    for each in found:
        where = {"row": each.row, "column": each.column, "level": each.level}
        for atom, shares in zip(each.mol.GetAtoms(), each.shares, strict=True):
            best = int(shares.argmax())
            own = {"cluster": best, "share": shares[best]}
            atoms.append({**where, "atom": atom.GetIdx(), "symbol": atom.GetSymbol(), **own})
        molecules.append({**where, "smiles": each.smiles, **asdict(each.measures)})
        if each.row < pictures:
            caption = f"row {each.row}, level {each.level}: {each.smiles}"
            drawn.append((caption, draw_clusters(each.mol, each.shares)))
    pd.DataFrame(atoms).to_csv(out / ATOMS, index=False, float_format="%.6g")
    pd.DataFrame(molecules).to_csv(out / MOLECULES, index=False, float_format="%.6g")
    if drawn:
        (out / PAGE).write_text(page(f"Clusters of {model}", drawn), encoding="utf-8")


def _table(found: list[Pooled]) -> str:
    """The means over the molecules, a line for each column and level."""
    groups: dict[tuple[str, int], list[Measures]] = {}
    for each in found:
        groups.setdefault((each.column, each.level), []).append(each.measures)
    names = list(Measures.__dataclass_fields__)
    lines = [f"| column | level | {' | '.join(name.replace('_', ' ') for name in names)} |"]
    lines.append("|" + " --- |" * (len(names) + 2))
    for (column, level), measures in groups.items():
        cells = (f"{value:.2f}" for value in asdict(mean_measures(measures)).values())
        lines.append(f"| {column} | {level} | {' | '.join(cells)} |")
    return "\n".join(lines)
