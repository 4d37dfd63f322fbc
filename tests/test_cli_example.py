"""The example in examples/ runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "oligomers.sh"


@pytest.mark.slow
def test_example(tmp_path):
    # the commands are beside this Python, whether its folder is on the path or not
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [EXAMPLE, "out", "40", "3"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "Predicted gaps in eV: out/predicted.csv"
    predicted = pd.read_csv(tmp_path / "out" / "predicted.csv")
    assert len(predicted) == 20
    assert predicted["gap"].between(0, 10).all()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "all.csv",
        "new.csv",
        "predicted.csv",
        "train-8",
        "train-all",
    ]
