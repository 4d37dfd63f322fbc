"""chemprop's message passing followed by DiffPool levels: one row for each molecule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

import torch
from chemprop.data import BatchMolGraph
from chemprop.nn import AtomMessagePassing, BondMessagePassing
from torch import Tensor, nn

from tritonpool.chemprop.assignment import AssignmentPool, NeighbourScores, NodeScores
from tritonpool.chemprop.auxiliary import AUX_MODES, inject
from tritonpool.chemprop.levels import Level, pool_levels
from tritonpool.chemprop.readout import aggregate
from tritonpool.chemprop.ring_pool import RingPool
from tritonpool.chemprop.settings import DiffPoolSettings
from tritonpool.chemprop.weighted import WeightedAtomMessagePassing, WeightedBondMessagePassing
from tritonpool.graph import Graph
from tritonpool.ops import lift
from tritonpool.plan import Plan
from tritonpool.segments import edge_messages, node_sum, source_rows

__all__ = ["DiffPoolAtomMessagePassing", "DiffPoolBondMessagePassing", "DiffPoolMixin"]

HEADS = {"mlp": NodeScores, "gnn": NeighbourScores, "rings": NodeScores}
STOCK_MESSAGES = BondMessagePassing.message, AtomMessagePassing.message
ENCODERS = {"bond": WeightedBondMessagePassing, "atom": WeightedAtomMessagePassing}

PARAMETERS = """

    Parameters
    ----------
    *args, **kwargs
        all arguments of chemprop's class (``d_v``, ``d_e``, ``d_h``, ``bias``, ``depth``,
        ``dropout``, ``activation``, ``undirected``, ``d_vd``, ``V_d_transform``,
        ``graph_transform``)
    ratio, levels, max_clusters, assignment, readout, temperature, top_k, positions, prior, \
normalize, cluster_features, gate, coarse_encoder, coarse_hidden, coarse_depth, link_weight, \
entropy_weight
        as in :class:`~tritonpool.chemprop.settings.DiffPoolSettings`
    aggregation : str | None, default="mean"
        how the nodes of a molecule are aggregated at each level: ``"mean"``, ``"sum"``, ``"norm"``;
        ``None`` is ``"mean"``
    aggregation_norm : float, default=100.0
        the constant by which ``"norm"`` divides
    aux : str, default="inject"
        what happens to the auxiliary losses in training mode: ``"inject"`` adds their gradient in
        the backward pass, which works under any model and training loop; ``"expose"`` keeps them
        for :meth:`pop_aux`, which must then be called after each step. Not in chemprop's files: a
        model that was loaded from one injects

    Raises
    ------
    ValueError
        if a setting is out of its range
    """


def _total(values: Sequence[Tensor]) -> Tensor:
    return sum(values[1:], values[0])


class DiffPoolMixin:
    """What the two DiffPool message passings share; see
    :class:`~tritonpool.chemprop.DiffPoolBondMessagePassing`."""

    _version = 2  # of its state; version 1 knew no normalize="weights"

    def __init__(
        self,
        *args: object,
        ratio: float = 0.25,
        levels: int = 1,
        max_clusters: int | Sequence[int] | None = None,
        assignment: str = "mlp",
        readout: str = "concat",
        aggregation: str | None = "mean",
        aggregation_norm: float = 100.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        positions: int = 0,
        prior: str = "none",
        normalize: str | bool = "weights",
        cluster_features: bool = False,
        gate: bool = False,
        coarse_encoder: str = "bond",
        coarse_hidden: int | None = None,
        coarse_depth: int = 3,
        link_weight: float = 0.1,
        entropy_weight: float = 0.01,
        aux: str = "inject",
        **kwargs: object,
    ):
        if isinstance(normalize, bool):  # in models that were saved before there was a choice
            normalize = "both" if normalize else "none"
        checked = DiffPoolSettings(
            ratio=ratio,
            levels=levels,
            max_clusters=max_clusters,
            assignment=assignment,
            readout=readout,
            aggregation="mean" if aggregation is None else aggregation,
            temperature=temperature,
            top_k=top_k,
            positions=positions,
            prior=prior,
            normalize=normalize,
            cluster_features=cluster_features,
            gate=gate,
            coarse_encoder=coarse_encoder,
            coarse_hidden=coarse_hidden,
            coarse_depth=coarse_depth,
            link_weight=link_weight,
            entropy_weight=entropy_weight,
        )
        if not aggregation_norm > 0:
            raise ValueError(f"aggregation_norm must be above 0, but is {aggregation_norm}")
        aggregation_norm = float(aggregation_norm)
        super().__init__(*args, **kwargs)
        self.hparams.update(
            asdict(checked),
            max_clusters=checked.some_max_clusters,  # a later version may have another default
            aggregation_norm=aggregation_norm,
        )
        self.hparams.pop("aux", None)  # a property of the training loop, not of the model

        self.readout = checked.readout
        self.aggregation = checked.aggregation
        self.aggregation_norm = aggregation_norm
        self.normalize = checked.normalize
        self.cluster_features = checked.cluster_features
        self.gates = nn.Parameter(torch.zeros(checked.levels)) if checked.gate else None
        self.link_weight = checked.link_weight
        self.entropy_weight = checked.entropy_weight
        self.aux = aux
        self._aux: list[tuple[Tensor, Tensor]] = []

        widths = [BondMessagePassing.output_dim.fget(self)]
        widths += [checked.coarse_hidden or self.hparams["d_h"]] * checked.levels
        self.output_dims = widths if checked.readout == "concat" else widths[-1:]
        self.pools = nn.ModuleList()
        self.encoders = nn.ModuleList()
        d_e = self.hparams["d_e"]
        for level, most in enumerate(checked.most_clusters):
            d_in, d_out = widths[level : level + 2]
            # only the molecule has a structure to start from
            encodings, known = (checked.positions, checked.prior) if level == 0 else (0, "none")
            loops = {"drop_self_loops": not checked.cluster_features}
            if checked.assignment == "rings" and level == 0:
                pool = RingPool(d_in, most, **loops)
            else:
                pool = AssignmentPool(
                    d_in,
                    most,
                    checked.ratio,
                    assignment=HEADS[checked.assignment](d_in, most, encodings),
                    temperature=checked.temperature,
                    top_k=checked.top_k,
                    prior=known,
                    **loops,
                )
            self.pools.append(pool)
            self.encoders.append(
                ENCODERS[checked.coarse_encoder](
                    d_in + (d_e + 2 if checked.cluster_features else 0),
                    d_e + 1,
                    d_out,
                    self.hparams["bias"],
                    checked.coarse_depth,
                    self.hparams["dropout"],
                    self.hparams["activation"],
                    self.hparams["undirected"],
                )
            )

    def _load_from_state_dict(
        self, state: dict, prefix: str, metadata: dict, *rest: object
    ) -> None:
        """Levels of version 1 whose settings do not name ``normalize`` were trained with sums. A
        chemprop encoder without levels, and a state without a version, say nothing about it."""
        has_levels = any(name.startswith(f"{prefix}encoders.") for name in state)
        if has_levels and metadata.get("version") == 1 and self.normalize == "weights":
            self.normalize = self.hparams["normalize"] = "none"
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    def __getstate__(self) -> dict[str, object]:
        """For copies and pickles: losses that are kept belong to a step of this very module."""
        return self.__dict__ | {"_aux": []}

    @property
    def settings(self) -> DiffPoolSettings:
        """Those of the levels, as a data loader takes them."""
        return DiffPoolSettings(**{f.name: self.hparams[f.name] for f in fields(DiffPoolSettings)})

    @property
    def output_dim(self) -> int:
        """Width of the rows that :meth:`forward` returns."""
        return sum(self.output_dims)

    def _encode(self, bmg: BatchMolGraph, V_d: Tensor | None, plan: Plan) -> Tensor:
        """The atom states of an already transformed batch, as chemprop's ``forward`` has them; but
        the sums over bonds follow the plan, which takes a fraction of the time of a scatter."""
        planned = type(self).message in STOCK_MESSAGES  # and not that of a subclass
        H_0 = self.initialize(bmg)
        H = self.tau(H_0)
        for _ in range(1, self.depth):
            if self.undirected:
                H = (H + H.index_select(0, bmg.rev_edge_index)) / 2
            M = self._messages(H, bmg, plan) if planned else self.message(H, bmg)
            H = self.update(M, H_0)
        return self.finalize(node_sum(H, None, plan), bmg.V, V_d)

    def _messages(self, H: Tensor, bmg: BatchMolGraph, plan: Plan) -> Tensor:
        """What chemprop's ``message`` computes."""
        raise NotImplementedError

    def atom_embeddings(self, bmg: BatchMolGraph, V_d: Tensor | None = None) -> Tensor:
        """The states of the atoms before pooling: what chemprop's own class returns.

        Parameters
        ----------
        bmg : BatchMolGraph
            the batch of molecules, with ``V`` atoms
        V_d : Tensor | None, default=None
            additional atom descriptors, ``V x d_vd``

        Returns
        -------
        Tensor
            a tensor of shape ``V x d_h`` or, with descriptors, ``V x (d_h + d_vd)``
        """
        return self._atom_graph(bmg, V_d).x

    def forward(self, bmg: BatchMolGraph, V_d: Tensor | None = None) -> Tensor:
        """Encode a batch of molecules.

        Parameters
        ----------
        bmg : BatchMolGraph
            the batch of ``G`` molecules with ``V`` atoms
        V_d : Tensor | None, default=None
            additional atom descriptors, ``V x d_vd``

        Returns
        -------
        Tensor
            a tensor of shape ``G x output_dim``; zeros for a molecule without atoms
        """
        wants_losses = self.training and (self.link_weight > 0 or self.entropy_weight > 0)
        graph = self._atom_graph(bmg, V_d)
        rows, losses = [self._aggregate(graph)], []
        for number, level in enumerate(self._levels(graph, wants_losses)):
            losses += [level.losses] if level.losses else []
            row = self._aggregate(level.graph)
            rows.append(row if self.gates is None else self.gates[number] * row)
        H = torch.cat(rows, 1) if self.readout == "concat" else rows[-1]
        return self._hand_over(H, losses) if losses else H

    def assignments(self, bmg: BatchMolGraph, V_d: Tensor | None = None) -> list[list[Tensor]]:
        """Which atoms are in which clusters, as in :meth:`forward`.

        Parameters
        ----------
        bmg : BatchMolGraph
            the batch of ``G`` molecules
        V_d : Tensor | None, default=None
            additional atom descriptors, ``V x d_vd``

        Returns
        -------
        list[list[Tensor]]
            for each level and molecule the share of its ``n`` atoms in each of its ``c`` clusters,
            ``n x c``; above the first level through the clusters of the levels below
        """
        atoms = self._atom_graph(bmg, V_d)
        found, shares, below = [], None, None
        for level in self._levels(atoms, compute_losses=False):
            shares = level.S if shares is None else lift(level.S, atoms, shares, below)
            below = level.graph.plan.nodes
            parts = shares.split(atoms.plan.nodes.tolist())
            found.append([S[:, :c] for S, c in zip(parts, below.tolist(), strict=True)])
        return found

    def _atom_graph(self, bmg: BatchMolGraph, V_d: Tensor | None) -> Graph:
        """The batch with the states that are pooled."""
        if V_d is None and self.hparams["d_vd"]:
            raise ValueError(
                f"the model expects {self.hparams['d_vd']} descriptors of each atom, but got none; "
                f"chemprop's option for them is --atom-descriptors-path"
            )
        bmg = self.graph_transform(bmg)
        graph = Graph.from_bmg(bmg)
        return graph.replace(x=self._encode(bmg, V_d, graph.grouped_plan))

    def _levels(self, atoms: Graph, compute_losses: bool) -> Iterator[Level]:
        return pool_levels(
            atoms,
            self.pools,
            self.encoders,
            normalize=self.normalize,
            cluster_features=self.cluster_features,
            compute_losses=compute_losses,
        )

    def _aggregate(self, graph: Graph) -> Tensor:
        return aggregate(graph.x, graph.plan, self.aggregation, self.aggregation_norm)

    def _hand_over(self, H: Tensor, losses: list[dict[str, Tensor]]) -> Tensor:
        link, entropy = (_total([found[name] for found in losses]) for name in ("link", "entropy"))
        if self.aux == "inject":
            return inject(H, self.weigh(link, entropy))
        self._aux.append((link, entropy))
        return H

    @property
    def aux(self) -> str:
        """What happens to the auxiliary losses, ``"inject"`` or ``"expose"``."""
        return self._mode

    @aux.setter
    def aux(self, mode: str) -> None:
        if mode not in AUX_MODES:
            raise ValueError(f"aux must be one of {', '.join(AUX_MODES)}, but is {mode!r}")
        self._mode = mode

    def weigh(self, link: Tensor, entropy: Tensor) -> Tensor:
        """The auxiliary part of the objective."""
        return torch.add(self.link_weight * link, entropy, alpha=self.entropy_weight)

    def pop_aux(self) -> tuple[Tensor, Tensor] | None:
        """The link and entropy losses that were kept since the last call, summed over levels and
        calls, or ``None`` if there are none; only kept in training mode with ``aux="expose"``."""
        kept, self._aux = self._aux, []
        if not kept:
            return None
        links, entropies = zip(*kept, strict=True)
        return _total(links), _total(entropies)


class DiffPoolBondMessagePassing(DiffPoolMixin, BondMessagePassing):
    __doc__ = (
        """chemprop's ``BondMessagePassing`` with DiffPool levels on top.

    The molecule is encoded by chemprop's D-MPNN, pooled by :class:`tritonpool.DiffPool` together
    with its bond features, and the coarse graph is encoded by message passing that scales its
    messages by the pooled bond weights; then it is pooled again or read out. The result has one
    row for each molecule: use it with :class:`~tritonpool.chemprop.GraphReadout` in place of an
    aggregation."""
        + PARAMETERS
    )

    def _messages(self, H: Tensor, bmg: BatchMolGraph, plan: Plan) -> Tensor:
        return edge_messages(H, None, bmg.rev_edge_index, plan)


class DiffPoolAtomMessagePassing(DiffPoolMixin, AtomMessagePassing):
    __doc__ = (
        """chemprop's ``AtomMessagePassing`` with DiffPool levels on top; see
    :class:`~tritonpool.chemprop.DiffPoolBondMessagePassing`."""
        + PARAMETERS
    )

    def _messages(self, H: Tensor, bmg: BatchMolGraph, plan: Plan) -> Tensor:
        into = node_sum(torch.cat([H, bmg.E.to(H.dtype)], 1), None, plan)
        return source_rows(into, plan)
