"""Molecules and polymer repeat units for the tests of the chemprop layer, with targets."""

from __future__ import annotations

import numpy as np
from chemprop.data import (
    BatchMolGraph,
    MoleculeDatapoint,
    MoleculeDataset,
    TrainingBatch,
    build_dataloader,
)
from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
from rdkit import Chem

from tritonpool import Graph

POLYMERS = """[*]CC([*])C
[*]CC([*])c1ccccc1
[*]c1ccc([*])s1
[*]c1ccc(-c2ccc([*])s2)cc1
[*]CCO[*]
[*]CC([*])C(=O)OC
[*]CC(=O)NCCCCCC(=O)N[*]
[*]OC(=O)c1ccc(C(=O)OCC[*])cc1
[*]CC([*])(C)C(=O)OCC
[*]c1ccc(Oc2ccc([*])cc2)cc1
[*]NC(=O)c1ccc(C(=O)N[*])cc1
[*]C=C[*]
[*]CC([*])C#N
[*]CC([*])Cl
[*]c1ccc2cc([*])ccc2c1
[*]c1[nH]c([*])cc1
[*]C(F)(F)C([*])(F)F
[*]Oc1ccc(C(C)(C)c2ccc(OC([*])=O)cc2)cc1
[*]CC([*])OC(C)=O
[*]CCCCCCO[*]
[*]c1ccc(-c2ccc([*])c3nsnc23)s1
[*]CC([*])c1ccncc1
[*]Nc1ccc([*])cc1
[*]CC([*])C(=O)O
[*]CC([*])C(=O)N(C)C
[*]c1sc([*])c2OCCOc12
[*]Sc1ccc([*])cc1
[*]CC1CCC([*])CC1
[*]C(=O)Nc1ccc(Cc2ccc(N[*])cc2)cc1
[*]c1ccc(C=C[*])cc1
[*]OCC(O)COc1ccc(C(C)(C)c2ccc([*])cc2)cc1
[*]CC([*])n1c2ccccc2c2ccccc12""".splitlines()

MOLECULES = """CCO
c1ccccc1
CC(=O)Oc1ccccc1C(=O)O
CN1C=NC2=C1C(=O)N(C)C(=O)N2C
CC(C)Cc1ccc(cc1)C(C)C(=O)O
C1CCCCC1
OCC(O)CO
c1ccc2c(c1)ccc1ccccc12
CCN(CC)CC
CC#N
ClC(Cl)Cl
O=C(O)c1ccccc1O""".splitlines()

REACTIONS = [
    "[CH3:1][Br:2].[OH2:3]>>[CH3:1][OH:3].[BrH:2]",
    "[CH3:1][CH2:2][Cl:3].[NH3:4]>>[CH3:1][CH2:2][NH2:4].[ClH:3]",
    "[CH2:1]=[CH2:2].[BrH:3]>>[CH3:1][CH2:2][Br:3]",
    "[CH3:1][C:2](=[O:3])[OH:4].[CH3:5][OH:6]>>[CH3:1][C:2](=[O:3])[O:6][CH3:5].[OH2:4]",
    "[CH3:1][CH:2]=[O:3].[H][H]>>[CH3:1][CH2:2][OH:3]",
    "[CH3:1][CH2:2][OH:3]>>[CH2:1]=[CH2:2].[OH2:3]",
]

ATOMS = ["C", "O", "N", "[Na+]"]  # no bonds at all


def target(smiles: str) -> float:
    """A number that depends on a molecule's size and composition."""
    return 0.1 * len(smiles) + smiles.count("c") * 0.2 - smiles.count("O") * 0.5


def datapoints(smiles: list[str], **extra: object) -> list[MoleculeDatapoint]:
    """A datapoint for each SMILES, with :func:`target` as its only target."""
    return [MoleculeDatapoint.from_smi(s, [target(s)], **extra) for s in smiles]


def dataset(smiles: list[str], y: np.ndarray | None = None) -> MoleculeDataset:
    """A data set of ``smiles`` with targets ``y``, ``N x T``, or :func:`target`."""
    points = datapoints(smiles)
    if y is not None:
        for point, row in zip(points, y, strict=True):
            point.y = row
    return MoleculeDataset(points)


def batch_of(smiles: list[str]) -> TrainingBatch:
    """One batch of all molecules, in their order."""
    return next(iter(build_dataloader(dataset(smiles), shuffle=False, drop_last=False)))


def graph_of(smiles: list[str]) -> Graph:
    """The same as a batch of graphs."""
    return Graph.from_bmg(batch_of(smiles).bmg)


def shuffled(smiles: list[str], seed: int) -> tuple[BatchMolGraph, np.ndarray]:
    """The molecules with their atoms in another order, and where each atom was."""
    rng = np.random.default_rng(seed)
    molecules, orders = [], []
    for text in smiles:
        mol = MoleculeDatapoint.from_smi(text, [0.0]).mol
        order = rng.permutation(mol.GetNumAtoms())
        molecules.append(Chem.RenumberAtoms(mol, order.tolist()))
        orders.append(order + sum(map(len, orders)))
    featurize = SimpleMoleculeMolGraphFeaturizer()
    return BatchMolGraph([featurize(mol) for mol in molecules]), np.concatenate(orders)
