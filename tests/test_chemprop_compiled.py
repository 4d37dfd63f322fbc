"""``torch.compile`` of the message passing: one graph, whoever made the batch."""

import pytest
import torch
from chemprop.nn import RegressionFFN
from molecules import MOLECULES, POLYMERS, batch_of
from torch._dynamo.testing import CompileCounterWithBackend

from tritonpool.chemprop import (
    DiffPoolAtomMessagePassing,
    DiffPoolBondMessagePassing,
    DiffPoolMPNN,
    GraphReadout,
)
from tritonpool.chemprop.collate import PlannedMolGraph

pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call")
BATCHES = (MOLECULES[:5], POLYMERS[:4], MOLECULES[3:])

REMEDIES = {
    "temperature": 0.5,
    "positions": 2,
    "prior": "rings",
    "normalize": "both",
    "cluster_features": True,
    "gate": True,
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compare(mp, planned: bool, **compiler) -> None:
    """Compiled and eager results and gradients of three batches."""

    def run(encoder, smiles):
        bmg = batch_of(smiles).bmg
        mp.zero_grad()
        H = encoder(PlannedMolGraph(bmg) if planned else bmg)
        H.square().sum().backward()
        return [H.detach(), *(p.grad.clone() for p in mp.parameters())]

    compiled = torch.compile(mp, fullgraph=True, **compiler)
    for smiles in BATCHES:
        for a, b in zip(run(compiled, smiles), run(mp, smiles), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("planned", [True, False], ids=["our loader", "chemprop's loader"])
def test_message_passing_is_one_graph(planned: bool):
    counter = CompileCounterWithBackend("aot_eager")
    compare(DiffPoolBondMessagePassing(d_h=16, ratio=0.5), planned, backend=counter)
    assert counter.frame_count <= 2


def test_autocast_does_not_break_the_graph():
    mp = DiffPoolBondMessagePassing(d_h=16, ratio=0.5)
    compiled = torch.compile(mp, fullgraph=True, backend="aot_eager")
    found = []
    for encoder in (compiled, mp):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(encoder(PlannedMolGraph(batch_of(MOLECULES[:5]).bmg)))
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


def test_a_whole_model_is_one_graph():
    mp = DiffPoolBondMessagePassing(d_h=16)
    head = RegressionFFN(input_dim=mp.output_dim)
    model = DiffPoolMPNN(mp, GraphReadout(), head, batch_norm=True).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        for smiles in BATCHES:
            bmg = batch_of(smiles).bmg
            torch.testing.assert_close(compiled(bmg), model(bmg))


@pytest.mark.slow
@pytest.mark.parametrize(
    "cls, settings",
    [
        (DiffPoolAtomMessagePassing, {"coarse_encoder": "atom", "assignment": "gnn", "levels": 2}),
        (DiffPoolAtomMessagePassing, {"coarse_encoder": "atom", "undirected": True}),
        (DiffPoolBondMessagePassing, REMEDIES),
        (DiffPoolBondMessagePassing, {"levels": 2, "assignment": "rings", "top_k": 2}),
        (DiffPoolBondMessagePassing, {"levels": 2, "top_k": 2, "cluster_features": True}),
        (DiffPoolBondMessagePassing, {"levels": 2, "undirected": True, "aggregation": "norm"}),
    ],
)
def test_every_setting_is_one_graph(cls: type, settings: dict):
    compare(cls(d_h=16, ratio=0.5, **settings), True, backend="aot_eager")


@pytest.mark.slow
def test_inductor_gives_the_same():
    compare(DiffPoolBondMessagePassing(d_h=16, ratio=0.5), True)
