"""The functions of chemprop that ``tritonpool train`` builds on are still what they were."""

import inspect

import numpy as np
import pytest
from chemprop.cli import common, fingerprint, predict, train
from chemprop.cli.utils import Subcommand, parse_activation
from chemprop.data import build_dataloader, samplers
from chemprop.models import MPNN, save_model

SIGNATURES = {
    common.process_common_args: "args",
    common.validate_common_args: "args",
    common.find_models: "model_paths",
    parse_activation: "cls arguments",
    train.add_train_args: "parser",
    train.process_train_args: "args",
    train.validate_train_args: "args",
    train.normalize_inputs: "train_dset val_dset args",
    train.load_and_use_pretrained_model_scalers: "model_path train_dset val_dset",
    train.save_config: "parser args config_path",
    train.save_smiles_splits: "args output_dir train_dset val_dset test_dset",
    train.build_splits: "args format_kwargs featurization_kwargs",
    train.build_datasets: "args train_data val_data test_data",
    train.build_model: "args train_dset output_transform input_transforms",
    train.evaluate_and_save_predictions: "preds test_loader metrics model_output_dir args",
    # ours stands in for these two, so a new parameter means there is something to follow
    train.train_model: (
        "args train_loader val_loader test_loader output_dir output_transform input_transforms"
    ),
    train.main: "args",
    predict.prepare_data_loader: ("args multicomponent mol_atom_bond is_calibration format_kwargs"),
    predict.check_featurizer_matches_model: "data_loader model",
    build_dataloader: (
        "dataset batch_size num_workers class_balance seed shuffle drop_last kwargs"
    ),
    save_model: "path model output_columns",
    MPNN.load_from_file: "model_path map_location strict submodules",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_parameters(function):
    assert " ".join(inspect.signature(function).parameters) == SIGNATURES[function]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (train.TrainSubcommand, "train"),
        (predict.PredictSubcommand, "predict"),
        (fingerprint.FingerprintSubcommand, "fingerprint"),
    ],
)
def test_sub_commands(command, name):
    assert issubclass(command, Subcommand)
    assert command.COMMAND == name
    assert list(inspect.signature(command.add_args).parameters) == ["parser"]
    assert list(inspect.signature(command.func).parameters) == ["args"]
    assert "parser" in vars(train.TrainSubcommand)


def test_state_of_the_samplers():
    seeded = vars(samplers.SeededSampler(4, 0))
    assert set(seeded) == {"idxs", "rg"}
    balanced = vars(samplers.ClassBalanceSampler(np.eye(4, 1), 0, True))
    assert set(balanced) == {"shuffle", "rg", "pos_idxs", "neg_idxs", "length"}


def test_foundation_models():
    assert list(train.FoundationModels.keys()) == ["CHEMELEON"]
