"""The model that the options describe, new or saved, and whether it fits the data."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from chemprop.cli.train import build_model
from chemprop.data import MulticomponentDataset
from chemprop.models import MPNN, MulticomponentMPNN
from chemprop.nn import PredictorRegistry
from torch.utils.data import DataLoader

from tritonpool.backend import use_backend
from tritonpool.chemprop import DiffPoolMPNN, DiffPoolMulticomponentMPNN
from tritonpool.chemprop.convert import to_diffpool
from tritonpool.chemprop.message_passing import DiffPoolMixin
from tritonpool.cli.errors import InputError
from tritonpool.cli.features import mismatch
from tritonpool.cli.loaders import Prepared, model_paths
from tritonpool.cli.options import settings_from
from tritonpool.cli.saved import saved_encoder

__all__ = ["make_model", "try_out"]


def make_model(args: argparse.Namespace, data: Prepared, index: int) -> MPNN:
    """A new model, or the one that ``--checkpoint`` or ``--model-frzn`` names."""
    paths = model_paths(args)
    if not paths:
        model = build_model(args, data.train, data.output_transform, data.input_transforms)
        settings = settings_from(args)
        if settings is None and not _is_own(model):
            return model
        return to_diffpool(model, settings)
    multi = isinstance(data.train, MulticomponentDataset)
    if saved_encoder(paths[index]).pools:
        cls = DiffPoolMulticomponentMPNN if multi else DiffPoolMPNN
    else:
        cls = MulticomponentMPNN if multi else MPNN
    model = cls.load_from_file(paths[index], map_location=torch.device("cpu"))
    _check_task(model, paths[index], args)
    if args.checkpoint is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = args.dropout
    if args.model_frzn is not None or args.freeze_encoder:
        for frozen in (model.message_passing, model.bn):
            frozen.requires_grad_(False)
            frozen.eval()
        for layer in range(args.frzn_ffn_layers):
            model.predictor.ffn[layer].requires_grad_(False)
            model.predictor.ffn[layer + 1].eval()
    return model


def _check_task(model: MPNN, path: Path, args: argparse.Namespace) -> None:
    """Is the model for the kind of targets that the options say? Those of others are not known."""
    of = {cls: name for name, cls in PredictorRegistry.items()}
    task = of.get(type(model.predictor), args.task_type)
    if task != args.task_type:
        raise InputError(
            f"argument --task-type: the model in {str(path)!r} was trained for {task!r}, not for "
            f"{args.task_type!r}"
        )


def try_out(model: MPNN, data: Prepared) -> None:
    """Let a copy of a model predict two molecules and compute its loss.

    Raises
    ------
    InputError
        If it does not fit the data.
    """
    # A copy, because models share the transforms of the data, which act in evaluation only. It
    # stays on the CPU, where a backend that was asked for need not run.
    model, collate = copy.deepcopy(model).eval(), data.train_loader.collate_fn
    try:
        batch = next(iter(DataLoader(data.train, batch_size=2, collate_fn=collate)))
        bmg, V_d, X_d, targets, *rest = batch
        found = mismatch(model, bmg, V_d, X_d)
        if found is not None:
            raise ValueError(found)
        with torch.no_grad(), use_backend("auto"):
            predicted = model.predictor.train_step(model.fingerprint(bmg, V_d, X_d))
            if predicted.shape[1] != targets.shape[1]:
                raise ValueError(
                    f"it predicts {predicted.shape[1]} targets, but there are {targets.shape[1]}"
                )
            mask = targets.isfinite()
            model.criterion(predicted, targets.nan_to_num(0.0), mask, *rest)
    except Exception as error:
        raise InputError(f"the model does not fit the data: {error}") from error


def _is_own(model: MPNN) -> bool:
    """Whether the model has DiffPool levels."""
    return any(isinstance(module, DiffPoolMixin) for module in model.message_passing.modules())
