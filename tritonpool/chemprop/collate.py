"""A data loader whose batches carry their integer plan, made where the batch is made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from chemprop.data import BatchMolGraph, MolAtomBondDataset, MulticomponentTrainingBatch
from chemprop.data import build_dataloader as chemprop_dataloader
from torch.utils.data import DataLoader, Dataset

from tritonpool.chemprop.partition import ring_partition
from tritonpool.chemprop.positions import positions
from tritonpool.chemprop.rings import ring_fragments
from tritonpool.chemprop.settings import DiffPoolSettings
from tritonpool.coarse_plan import cluster_counts
from tritonpool.plan import Plan, send
from tritonpool.planning import coarse_plan

__all__ = ["PlanCollate", "PlannedMolGraph", "build_dataloader"]

TENSORS = ("V", "E", "edge_index", "rev_edge_index", "batch")


class PlannedMolGraph(BatchMolGraph):
    """A batch of molecules that carries its :class:`~tritonpool.plan.Plan` and takes it along to
    the device, so that pooling on a GPU never copies anything back to the host.

    Parameters
    ----------
    bmg : BatchMolGraph | BatchCuikMolGraph
        a batch on the CPU, whose tensors are shared
    """

    __slots__ = ("_of", "_plan")

    def __init__(self, bmg: BatchMolGraph):
        for name in TENSORS:
            setattr(self, name, getattr(bmg, name))
        self._BatchMolGraph__size = len(bmg)  # a field of chemprop's class, which lightning reads
        self._keep(Plan.build(bmg.batch, bmg.edge_index, len(bmg.V), len(bmg)))

    def _keep(self, plan: Plan | None) -> None:
        """Remember the plan, and what it was made of."""
        self._plan, self._of = plan, (self.batch, self.edge_index)

    @property
    def plan(self) -> Plan | None:
        """``None`` once ``batch`` or ``edge_index`` was exchanged, as augmentations do."""
        batch, edge_index = self._of
        return self._plan if batch is self.batch and edge_index is self.edge_index else None

    def to(self, device: str | torch.device) -> None:
        """Move this batch to ``device``, in place; from page-locked memory without waiting, to the
        CPU only when all is there."""
        plan = self.plan
        for name in TENSORS:
            setattr(self, name, send(getattr(self, name), device))
        self._keep(None if plan is None else plan.to(device))

    def pin_memory(self) -> PlannedMolGraph:
        """Move the tensors to page-locked memory, in place; the data loader asks for it."""
        plan = self.plan
        for name in TENSORS:
            setattr(self, name, getattr(self, name).pin_memory())
        if plan is not None:
            plan.extras.update({k: v.pin_memory() for k, v in plan.extras.items()})
        self._keep(plan)
        return self


class PlanCollate:
    """chemprop's collate function, and a plan for every batch of molecules it makes.

    Parameters
    ----------
    collate : Callable
        a collate function of chemprop that returns a ``TrainingBatch`` or a
        ``MulticomponentTrainingBatch``
    settings : DiffPoolSettings | None, default=None
        those of the model, whose coarse graphs are then planned too; a model with others plans
        its own
    """

    def __init__(self, collate: Callable, settings: DiffPoolSettings | None = None):
        self.collate = collate
        self.settings = settings

    def __call__(self, items: object) -> object:
        batch = self.collate(items)
        if isinstance(batch, MulticomponentTrainingBatch):
            return batch._replace(bmgs=[self.planned(bmg) for bmg in batch.bmgs])
        return batch._replace(bmg=self.planned(batch.bmg))

    def planned(self, bmg: BatchMolGraph) -> PlannedMolGraph:
        """The batch with its plan."""
        planned = PlannedMolGraph(bmg)
        if self.settings is not None:
            plan = planned.plan
            if self.settings.positions:
                positions(plan, self.settings.positions)
            if self.settings.prior == "rings":
                ring_fragments(plan)
            drop_self_loops = not self.settings.cluster_features
            for level, most in enumerate(self.settings.most_clusters):
                if level == 0 and self.settings.assignment == "rings":
                    plan = ring_partition(plan, most, drop_self_loops).plan
                else:
                    counts = cluster_counts(plan.nodes, most, self.settings.ratio)
                    plan = coarse_plan(plan, counts, drop_self_loops).plan
                    if self.settings.top_k is not None:
                        break  # which pairs go on to the next level is known when they are scored
        return planned


def build_dataloader(
    dataset: Dataset,
    batch_size: int = 64,
    num_workers: int = 0,
    class_balance: bool = False,
    seed: int | None = None,
    shuffle: bool = True,
    drop_last: bool | None = None,
    settings: DiffPoolSettings | None = None,
    **kwargs: object,
) -> DataLoader:
    """chemprop's ``build_dataloader``, with batches that carry their plan.

    Parameters
    ----------
    dataset : MoleculeDataset | ReactionDataset | CuikmolmakerDataset | MulticomponentDataset
        the molecules or reactions
    batch_size, num_workers, class_balance, seed, shuffle, drop_last, **kwargs
        as for chemprop's function
    settings : DiffPoolSettings | None, default=None
        those of the model, so that its coarse graphs are planned by the loader too

    Returns
    -------
    DataLoader
        a loader of ``TrainingBatch`` or ``MulticomponentTrainingBatch``

    Raises
    ------
    ValueError
        if ``dataset`` has atom or bond targets
    """
    if isinstance(dataset, MolAtomBondDataset):
        raise ValueError(
            "dataset must have molecule targets only, but is a MolAtomBondDataset: DiffPool "
            "returns one row for each molecule"
        )
    loader = chemprop_dataloader(
        dataset, batch_size, num_workers, class_balance, seed, shuffle, drop_last, **kwargs
    )
    loader.collate_fn = PlanCollate(loader.collate_fn, settings)
    return loader
