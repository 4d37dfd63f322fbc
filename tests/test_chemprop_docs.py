"""The code in docs/chemprop.md runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "chemprop.md"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    scope = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), scope)
    bmg = scope["batch"].bmg
    assert torch.equal(scope["loaded"].eval()(bmg), scope["model"].eval()(bmg))
    assert len(scope["pooled"].message_passing.pools) == 2
    assert scope["objective"].requires_grad
    assert not list(tmp_path.iterdir())
