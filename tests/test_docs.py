"""The code in the pages of docs/ runs as it stands."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
import torch

from benchmarks.models import MODELS
from tritonpool import DiffPool

DOCS = Path(__file__).parent.parent / "docs"


def pages() -> list[Path]:
    return [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"]


@pytest.fixture
def scope_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the code of a page, in a folder where it leaves nothing, and return what it defined."""
    monkeypatch.chdir(tmp_path)

    def run(page: str, blocks: int) -> dict:
        found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
        assert len(found) == blocks
        scope = {}
        for block in found:
            exec(compile(block, page, "exec"), scope)
        assert not list(tmp_path.iterdir())
        return scope

    return run


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_chemprop(scope_of):
    scope = scope_of("chemprop.md", 6)
    bmg = scope["batch"].bmg
    assert torch.equal(scope["loaded"].eval()(bmg), scope["model"].eval()(bmg))
    assert len(scope["pooled"].message_passing.pools) == 2
    assert scope["objective"].requires_grad


def test_pyg(scope_of, monkeypatch):
    pytest.importorskip("torch_geometric")
    # PyG's layers know no deterministic way on a GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    scope = scope_of("pyg.md", 5)
    model, graph, coarse = scope["model"], scope["graph"], scope["coarse"]
    assert scope["scores"].shape == (graph.num_graphs, 3)
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    assert torch.equal(scope["batch"].edge_attr, coarse.edge_attr)
    assert scope["back"].shape == scope["data"].x.shape
    counts = DiffPool(32, 5, ratio=1).counts(graph).tolist()  # as the table says
    assert counts == graph.plan.nodes.clamp(max=5).tolist()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_no_command_is_wrapped_as_text(page):
    wrapped = [line for line in page.read_text("utf-8").splitlines() if " \\ " in line]
    assert not wrapped


def test_models_of_the_commands_exist():
    command = re.compile(r"^    python -m benchmarks\.accuracy (?:.*\\\n)*.*$", re.MULTILINE)
    found = [text for page in pages() for text in command.findall(page.read_text("utf-8"))]
    assert found
    for text in found:
        words = shlex.split(text.replace("\\\n", ""))
        for option in {"--models", "--ratios-to"} & set(words):
            after = words[words.index(option) + 1 :]
            names = list(takewhile(lambda word: not word.startswith("--"), after))
            assert names and set(names) <= set(MODELS), text
