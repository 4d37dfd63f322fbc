"""The plain settings of the DiffPool layer, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

__all__ = [
    "AGGREGATIONS",
    "ASSIGNMENTS",
    "ENCODERS",
    "NORMALIZATIONS",
    "PRIORS",
    "READOUTS",
    "DiffPoolSettings",
    "default_max_clusters",
]

ASSIGNMENTS = ("mlp", "gnn", "rings")
READOUTS = ("concat", "last")
ENCODERS = ("bond", "atom")
PRIORS = ("none", "rings")
NORMALIZATIONS = ("none", "weights", "both")
AGGREGATIONS = ("mean", "sum", "norm")


def default_max_clusters(assignment: str) -> int:
    """The most clusters of a molecule where none are asked for: learned ones are all joined, so
    that their bonds are as many as the square; ring systems and pieces only where they touch."""
    return 32 if assignment == "rings" else 8


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, but is {value!r}")


def _number(name: str, value: object, ok: bool, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not ok:
        raise ValueError(f"{name} must be {expected}, but is {value!r}")


def _choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, but is {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _plain(value: object) -> object:
    """NumPy's numbers as Python's, which checkpoints can hold; lists as tuples."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return tuple(_plain(item) for item in value)
    return value


@dataclass(frozen=True)
class DiffPoolSettings:
    """What makes a chemprop model a DiffPool model.

    Parameters
    ----------
    ratio : float, default=0.25
        clusters per node at each level; above 0, at most 1
    levels : int, default=1
        how often the graph is pooled
    max_clusters : int | Sequence[int] | None, default=None
        the most clusters a molecule can have, one number or one for each level; ``None`` is 8,
        which is good on short and on long molecules, or 32 with ``assignment="rings"``, whose
        clusters cost little
    assignment : str, default="mlp"
        the network that scores the clusters: ``"mlp"`` sees the state of one node, ``"gnn"`` also
        those of its neighbours. ``"rings"``: nothing is learned at the first level, whose clusters
        are the ring systems and the pieces between them, as many as there are; further levels are
        as with ``"mlp"``
    readout : str, default="concat"
        ``"concat"``: the node states of every level are aggregated and concatenated; ``"last"``:
        only those of the last level
    aggregation : str | None, default=None
        how the nodes of a graph are aggregated at each level: ``"mean"``, ``"sum"`` or ``"norm"``
        (the sum divided by a constant). ``None`` means that of the chemprop model
    temperature : float, default=1.0
        what the scores are divided by before the softmax; below 1 the first shares are sharper
    top_k : int | None, default=None
        the most clusters that one node has shares in, at least 2; clusters that no bond joins are
        then not joined in the coarse graph, either, which therefore has fewer bonds. ``None``: all
        clusters of its molecule, and all are joined
    positions : int, default=0
        how many Laplacian positional encodings the assignment network of the first level sees
        beside the states of the atoms (:func:`~tritonpool.chemprop.positions.positions`)
    prior : str, default="none"
        ``"rings"``: at the first level an atom starts with a preference, 4 on its score, for the
        cluster of its ring system or of its piece between ring systems
        (:func:`~tritonpool.chemprop.rings.ring_fragments`). Which cluster that is depends on
        the order of the atoms, and so does the prediction
    normalize : str, default="weights"
        which sums become means: ``"weights"`` divides the pooled bond weights by their sum over
        the bonds that end in the same cluster, ``"both"`` also the pooled states by the number of
        nodes of the level below in their cluster, ``"none"`` neither
    cluster_features : bool, default=False
        the coarse encoder also sees the logarithm of the number of nodes in a cluster, and the
        weight and the mean features of the bonds inside it, which are pooled on with the others
    gate : bool, default=False
        multiply what is read out of each coarse level by a learned number that starts at 0, so
        that training starts from the model without levels; not with ``readout="last"``
    coarse_encoder : str, default="bond"
        what sends messages on the coarse graphs: ``"bond"``, a D-MPNN, or ``"atom"``, which is
        cheaper because its matrix products have a row for each cluster and not for each pair
    coarse_hidden : int | None, default=None
        hidden width on the coarse graphs; ``None`` means that on the molecule
    coarse_depth : int, default=3
        message-passing steps on each coarse graph
    link_weight : float, default=0.1
        weight of the link loss
    entropy_weight : float, default=0.01
        weight of the entropy loss

    Raises
    ------
    ValueError
        if a value is out of its range
    """

    ratio: float = 0.25
    levels: int = 1
    max_clusters: int | Sequence[int] | None = None
    assignment: str = "mlp"
    readout: str = "concat"
    aggregation: str | None = None
    temperature: float = 1.0
    top_k: int | None = None
    positions: int = 0
    prior: str = "none"
    normalize: str = "weights"
    cluster_features: bool = False
    gate: bool = False
    coarse_encoder: str = "bond"
    coarse_hidden: int | None = None
    coarse_depth: int = 3
    link_weight: float = 0.1
    entropy_weight: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        ok = _is_number(self.ratio) and 0 < self.ratio <= 1
        _number("ratio", self.ratio, ok, "a number above 0 and at most 1")
        _whole("levels", self.levels, 1)
        _whole("coarse_depth", self.coarse_depth, 1)
        _whole("positions", self.positions, 0)
        for name, least in (("coarse_hidden", 1), ("top_k", 2)):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), least)
        _choice("assignment", self.assignment, ASSIGNMENTS)
        for most in self.most_clusters:
            _whole("max_clusters", most, 1)
        if len(self.most_clusters) != self.levels:
            raise ValueError(
                f"max_clusters must be one number or one for each of the {self.levels} levels, but "
                f"is {self.max_clusters!r}"
            )
        _choice("readout", self.readout, READOUTS)
        _choice("prior", self.prior, PRIORS)
        _choice("normalize", self.normalize, NORMALIZATIONS)
        for name in ("cluster_features", "gate"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, but is {getattr(self, name)!r}")
        if self.assignment == "rings" and (self.positions or self.prior != "none"):
            raise ValueError(
                "positions and prior must be left out with assignment='rings', which has no scores "
                "for atoms"
            )
        if self.assignment == "rings" and self.levels == 1 and self.top_k is not None:
            raise ValueError(
                "top_k must be left out with assignment='rings' and one level, where nothing is "
                "scored"
            )
        if self.gate and self.readout == "last":
            raise ValueError(
                "gate must be False with readout='last': nothing is left at a gate of 0"
            )
        ok = _is_number(self.temperature) and 0 < self.temperature < float("inf")
        _number("temperature", self.temperature, ok, "a number above 0")
        _choice("coarse_encoder", self.coarse_encoder, ENCODERS)
        if self.aggregation is not None:
            _choice("aggregation", self.aggregation, AGGREGATIONS)
        for name in ("link_weight", "entropy_weight"):
            value = getattr(self, name)
            ok = _is_number(value) and 0 <= value < float("inf")
            _number(name, value, ok, "a number of at least 0")

    @property
    def some_max_clusters(self) -> int | tuple[int, ...]:
        """``max_clusters``, or what ``None`` stands for."""
        given = self.max_clusters
        return default_max_clusters(self.assignment) if given is None else given

    @property
    def most_clusters(self) -> tuple[int, ...]:
        """The most clusters of each level."""
        given = self.some_max_clusters
        return given if isinstance(given, tuple) else (given,) * self.levels
