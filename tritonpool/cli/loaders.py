"""From the parts of a split to scaled data and loaders, with chemprop's own functions."""

from __future__ import annotations

import argparse
import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from chemprop.cli.predict import prepare_data_loader
from chemprop.cli.train import (
    build_datasets,
    load_and_use_pretrained_model_scalers,
    normalize_inputs,
)
from chemprop.data import MulticomponentDataset
from chemprop.data import build_dataloader as chemprop_dataloader
from chemprop.models import load_model
from chemprop.nn.transforms import UnscaleTransform
from rdkit import Chem
from torch.utils.data import DataLoader, Dataset

from tritonpool.chemprop.collate import build_dataloader
from tritonpool.cli.checks import on_gpu
from tritonpool.cli.data import molecules_of
from tritonpool.cli.errors import InputError
from tritonpool.cli.features import check_points, mismatch
from tritonpool.cli.options import settings_from
from tritonpool.cli.saved import model_files
from tritonpool.cli.smiles import blaming_smiles

__all__ = ["Prepared", "make_train_loader", "model_paths", "prepare", "unsplit_loader"]

logger = logging.getLogger(__name__)


@dataclass
class Prepared:
    """Datasets, loaders and scalers of one replicate."""

    train: Dataset
    val: Dataset | None
    test: Dataset | None
    train_loader: DataLoader
    val_loader: DataLoader | None
    test_loader: DataLoader | None
    input_transforms: tuple
    output_transform: UnscaleTransform | None

    def digest(self) -> str:
        """A hash of the SMILES and targets of all parts, in their order."""
        found = hashlib.sha256()
        for part in (self.train, self.val, self.test):
            found.update(b"part")
            first, *others = getattr(part, "datasets", [part] if part is not None else [None])
            for point in [] if first is None else first.data:
                found.update(f"{point.name}\n".encode())
                found.update(np.asarray(point.y, dtype=float).tobytes())
            for dataset in others:  # their points are named after the first component
                for point in dataset.data:
                    for mol in molecules_of(point):
                        found.update(f"{Chem.MolToSmiles(mol)}\n".encode())
        return found.hexdigest()


def model_paths(args: argparse.Namespace) -> list[Path]:
    """The models that ``--checkpoint`` or ``--model-frzn`` name, one for each ensemble member."""
    if args.checkpoint is not None:
        return model_files(args.checkpoint)
    if args.model_frzn is not None:
        return [Path(args.model_frzn)] * args.ensemble_size
    return []


def prepare(args: argparse.Namespace, train: list, val: list, test: list) -> Prepared:
    """Make the datasets of one replicate, scale them and make their loaders.

    Raises
    ------
    InputError
        If the training part does not fill one batch although ``--batch-norm`` needs that, or a
        saved model is for data with other numbers of targets, features or descriptors.
    """
    train_set, val_set, test_set = build_datasets(args, train, val, test)
    if args.batch_norm and len(train_set) < args.batch_size:
        raise InputError(
            f"argument --batch-norm: drops an incomplete last batch, so the training part needs "
            f"at least --batch-size ({args.batch_size}) molecules, but has {len(train_set)}"
        )
    input_transforms, output_transform = (None, None, None, None), None
    if paths := model_paths(args):
        if len(paths) > 1:
            logger.warning("scaling the data as the first of the models does: %s", paths[0])
        try:
            load_and_use_pretrained_model_scalers(paths[0], train_set, val_set)
        except ValueError as error:  # scikit-learn's, where the scalers are for other numbers
            found = _misfit(paths[0], train_set) or error
            raise InputError(f"the model does not fit the data: {found}") from error
    else:
        input_transforms = normalize_inputs(train_set, val_set, args)
        if "regression" in args.task_type:
            scaler = train_set.normalize_targets()
            if val_set is not None:
                val_set.normalize_targets(scaler)
            logger.info("train data: mean = %s | std = %s", scaler.mean_, scaler.scale_)
            output_transform = UnscaleTransform.from_standard_scaler(scaler)
    if not (args.no_cache or args.use_cuikmolmaker_featurization):
        logger.info("Caching training and validation datasets...")
        train_set.cache = True
        if val_set is not None:
            val_set.cache = True

    # as in chemprop, but never to the point that nothing is left to validate on
    cut = args.batch_norm and val_set is not None and len(val_set) >= args.batch_size
    return Prepared(
        train_set,
        val_set,
        test_set,
        make_train_loader(args, train_set),
        _loader(args, val_set, shuffle=False, drop_last=cut),
        _loader(args, test_set, shuffle=False, drop_last=False),
        input_transforms,
        output_transform,
    )


def _misfit(path: Path, dataset: Dataset) -> str | None:
    """What a saved model takes or predicts, where the data have another number of it."""
    model = load_model(path, isinstance(dataset, MulticomponentDataset))
    bmg, V_d, X_d, targets, *_ = next(iter(chemprop_dataloader(dataset, 2, shuffle=False)))
    predicts, given = model.predictor.n_tasks, targets.shape[1]
    if predicts != given:
        return f"it predicts {predicts} targets, but there are {given}"
    return mismatch(model, bmg, V_d, X_d)


def make_train_loader(args: argparse.Namespace, dataset: Dataset) -> DataLoader:
    """The loader that a model trains on."""
    return _loader(
        args,
        dataset,
        class_balance=args.class_balance,
        seed=args.data_seed,
        drop_last=args.batch_norm,
    )


def _loader(
    args: argparse.Namespace, dataset: Dataset | None, **kwargs: object
) -> DataLoader | None:
    if dataset is None:
        return None
    build = chemprop_dataloader
    if pools(args):
        build = partial(build_dataloader, settings=settings_from(args))
    return build(dataset, args.batch_size, args.num_workers, pin_memory=on_gpu(args), **kwargs)


def pools(args: argparse.Namespace) -> bool:
    """Whether the model may have DiffPool levels, so that its batches should carry a plan."""
    return args.diffpool_levels != 0


def unsplit_loader(
    args: argparse.Namespace, several: bool, calibration: bool = False
) -> DataLoader:
    """The molecules and reactions of ``--test-path``, or of ``--cal-path``, in their order, without
    targets.

    Raises
    ------
    InputError
        If a SMILES cannot be read, or a molecule has other numbers of atoms or bonds than its rows
        in the files of features and descriptors.
    """
    wanted = {
        "no_header_row": args.no_header_row,
        "smiles_cols": args.smiles_columns,
        "rxn_cols": args.reaction_columns,
        "target_cols": [],
        "ignore_cols": None,
        "splits_col": None,
        "weight_col": None,
        "bounded": False,
    }
    with blaming_smiles([args.cal_path if calibration else args.test_path], args):
        loader = prepare_data_loader(args, several, False, calibration, wanted)
    parts = (each.data for each in getattr(loader.dataset, "datasets", [loader.dataset]))
    check_points(parts, "cal_" if calibration else "")
    return loader
