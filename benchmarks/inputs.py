"""Batches to measure: insulator polymers where the file is given, else embedded oligomers."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from chemprop.data import BatchMolGraph, MolGraph
from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
from rdkit import Chem
from torch import Tensor

from benchmarks import MOST_CLUSTERS
from tritonpool import Graph
from tritonpool.coarse_plan import cluster_counts
from tritonpool.softmax import masked_softmax

__all__ = ["Inputs", "leaves", "make_inputs", "mol_graphs", "smiles"]


@dataclass
class Inputs:
    """A batch of molecules with random node states and a random assignment."""

    source: str
    x: Tensor  # V x D
    edge_index: Tensor
    edge_attr: Tensor  # E x C
    batch: Tensor
    num_graphs: int
    S: Tensor  # V x K
    clusters: Tensor
    ratio: float

    def graph(self) -> Graph:
        """A new Graph, whose plan has still to be made."""
        return Graph(self.x, self.edge_index, self.edge_attr, None, self.batch, self.num_graphs)

    def to(self, device: str, dtype: torch.dtype | None = None) -> Inputs:
        """A copy on a device, its numbers perhaps in another dtype; the cluster counts stay on the
        host."""
        moved = {k: getattr(self, k).to(device) for k in ("edge_index", "batch")}
        for name in ("x", "edge_attr", "S"):
            moved[name] = getattr(self, name).to(device, dtype or self.x.dtype)
        return replace(self, **moved)

    def __str__(self) -> str:
        V, E, G = len(self.x), self.edge_index.shape[1], self.num_graphs
        return (
            f"{G} {self.source}: {V} atoms, {E} directed edges, {int(self.clusters.sum())} clusters"
        )


def leaves(inputs: Inputs, edges: bool) -> tuple[Tensor, Tensor, Tensor]:
    """New leaves for S, x and the bond features, which need a gradient only if ``edges``."""
    return (
        inputs.S.clone().requires_grad_(),
        inputs.x.clone().requires_grad_(),
        inputs.edge_attr.clone().requires_grad_(edges),
    )


def smiles(number: int, seed: int = 0, source: str | None = None) -> tuple[str, list[str]]:
    """Where the molecules come from, and their SMILES; ``source="oligomers"`` never reads files."""
    folder = os.environ.get("TRITONPOOL_DATA")
    if folder and source is None:
        table = pd.read_csv(Path(folder) / "insulator" / "insulator.csv")
        return "insulator polymers", table.smiles.sample(number, random_state=seed).tolist()
    from tritonpool.demo.oligomers import generate

    return "oligomers", [row.smiles for row in generate(number, seed=seed)]


def mol_graphs(texts: list[str]) -> list[MolGraph]:
    """Molecules as chemprop featurises them by default."""
    featurize = SimpleMoleculeMolGraphFeaturizer()
    return [featurize(Chem.MolFromSmiles(text)) for text in texts]


def make_inputs(
    number: int = 64,
    ratio: float = 0.5,
    hidden: int = 300,
    max_clusters: int = MOST_CLUSTERS,
    seed: int = 0,
    source: str | None = None,
    bond_features: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """A batch with softmax assignments of random scores; ``bond_features`` asks for that many
    random ones instead of chemprop's 14."""
    source, texts = smiles(number, seed, source)
    bmg = BatchMolGraph(mol_graphs(texts))
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(len(bmg.V), hidden, generator=gen)
    clusters = cluster_counts(torch.bincount(bmg.batch, minlength=number), max_clusters, ratio)
    scores = torch.randn(len(x), max_clusters, generator=gen)
    S = masked_softmax(scores, clusters[bmg.batch])
    F = bmg.E.float()
    if bond_features is not None:
        F = torch.randn(len(F), bond_features, generator=gen)
    x, F, S = x.to(dtype), F.to(dtype), S.to(dtype)
    return Inputs(source, x, bmg.edge_index, F, bmg.batch, number, S, clusters, ratio)
