"""Turn a chemprop model into a DiffPool model."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

from chemprop.models import MPNN, MulticomponentMPNN
from chemprop.nn import (
    Aggregation,
    AtomMessagePassing,
    BondMessagePassing,
    MeanAggregation,
    MessagePassing,
    MulticomponentMessagePassing,
    NormAggregation,
    SumAggregation,
)
from chemprop.nn.hparams import from_hparams
from chemprop.nn.predictors import Predictor

from tritonpool.chemprop.message_passing import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMixin,
)
from tritonpool.chemprop.model import DiffPoolMPNN, DiffPoolMulticomponentMPNN
from tritonpool.chemprop.readout import GraphReadout
from tritonpool.chemprop.settings import DiffPoolSettings

__all__ = ["to_diffpool"]

KEPT = ("batch_norm", "metrics", "warmup_epochs", "init_lr", "max_lr", "final_lr", "X_d_transform")
BLOCKS = {
    BondMessagePassing: DiffPoolBondMessagePassing,
    AtomMessagePassing: DiffPoolAtomMessagePassing,
}
AGGREGATIONS = {MeanAggregation: "mean", SumAggregation: "sum", NormAggregation: "norm"}


def _aggregation_of(agg: Aggregation) -> str:
    name = AGGREGATIONS.get(type(agg))
    if name is None:
        raise ValueError(
            f"aggregation must be mean, sum or norm to pool with DiffPool, but the model has "
            f"{type(agg).__name__}"
        )
    return name


def _convert_block(block: MessagePassing, settings: dict[str, object]) -> MessagePassing:
    if isinstance(block, DiffPoolMixin):
        return block
    cls = BLOCKS.get(type(block))  # what a subclass does otherwise would be lost
    if cls is None:
        raise ValueError(
            "message_passing must be chemprop's BondMessagePassing or AtomMessagePassing, but is "
            f"{type(block).__name__}"
        )
    hparams = copy.deepcopy({k: v for k, v in block.hparams.items() if k != "cls"})
    converted = cls(**hparams, **settings)
    converted.load_state_dict(converted.state_dict() | block.state_dict())
    for name, parameter in block.named_parameters():
        converted.get_parameter(name).requires_grad_(parameter.requires_grad)
    return converted


def _convert_predictor(predictor: Predictor, input_dim: int) -> Predictor:
    if predictor.input_dim == input_dim:
        return copy.deepcopy(predictor)
    return from_hparams(copy.deepcopy(dict(predictor.hparams)) | {"input_dim": input_dim})


def to_diffpool(
    model: MPNN | MulticomponentMPNN, settings: DiffPoolSettings | None = None
) -> DiffPoolMPNN | DiffPoolMulticomponentMPNN:
    """A DiffPool model with the encoder weights and settings of a chemprop model.

    The encoder keeps its weights, and which of them are frozen, so that a pretrained one can be
    given. The predictor and a batch normalisation are made anew with the same settings, because
    their input is wider; where it is not (``readout="last"``) the predictor is a copy. Blocks that
    are DiffPool already keep their own settings. The new model is in training mode, on the device
    and of the dtype of the encoder.

    Parameters
    ----------
    model : MPNN | MulticomponentMPNN
        a model of chemprop, which is left as it is; nothing is shared with it
    settings : DiffPoolSettings | None, default=None
        the settings of the DiffPool levels; ``None`` means the default ones

    Returns
    -------
    DiffPoolMPNN | DiffPoolMulticomponentMPNN
        the new model

    Raises
    ------
    ValueError
        if the model predicts atom or bond targets, or if its message passing or aggregation has no
        DiffPool form, as a subclass has not
    """
    if not isinstance(model, MPNN):
        raise ValueError(
            "model must be chemprop's MPNN or MulticomponentMPNN, but is "
            f"{type(model).__name__}: DiffPool returns one row for each molecule, so it cannot "
            "predict atom or bond targets"
        )
    settings = settings or DiffPoolSettings()
    mp = model.message_passing
    multi = isinstance(mp, MulticomponentMessagePassing)
    blocks = ([mp.blocks[0]] if mp.shared else list(mp.blocks)) if multi else [mp]
    is_own = all(isinstance(block, DiffPoolMixin) for block in blocks)
    if is_own:
        converted, predictor = copy.deepcopy((mp, model.predictor))
        agg = GraphReadout()
    else:
        if settings.aggregation is None:
            settings = replace(settings, aggregation=_aggregation_of(model.agg))
        plain = asdict(settings)
        if isinstance(model.agg, NormAggregation):
            plain["aggregation_norm"] = model.agg.norm
        blocks = [_convert_block(block, plain) for block in blocks]
        converted = blocks[0]
        if multi:
            converted = MulticomponentMessagePassing(blocks, mp.n_components, mp.shared)
        agg = GraphReadout()
        descriptors = model.predictor.input_dim - mp.output_dim
        predictor = _convert_predictor(model.predictor, converted.output_dim + descriptors)
    cls = DiffPoolMulticomponentMPNN if multi else DiffPoolMPNN
    kept = copy.deepcopy({key: model.hparams[key] for key in KEPT})
    result = cls(converted, agg, predictor, **kept).to(next(mp.parameters()))
    if is_own:
        result.load_state_dict(model.state_dict())
    return result.train()
