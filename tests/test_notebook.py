"""The notebook in examples/ runs as it stands, on fewer molecules."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from cli_tools import tritonpool

NOTEBOOK = Path(__file__).parent.parent / "examples" / "oligomers.ipynb"
SIZES, SMALL = "NUMBER, EPOCHS, WIDTH = 500, 20, 128", "NUMBER, EPOCHS, WIDTH = 60, 2, 16"
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for source in json.load(sys.stdin):
    shell.run_cell(source).raise_error()
assert all(picture.startswith("<svg") for picture in shell.user_ns["pictures"].values())
"""


def test_notebook(tmp_path):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert SIZES in sources[0]
    sources[0] = sources[0].replace(SIZES, SMALL)
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(sources),
        cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "new.csv").write_text("smiles\n[*]c1ccc([*])s1\n")
    words = ("-i", tmp_path / "new.csv", "--model-paths", tmp_path / "diffpool.pt")
    assert tritonpool("predict", *words, "-o", tmp_path / "predicted.csv") == 0
    assert pd.read_csv(tmp_path / "predicted.csv")["gap"].notna().all()


def test_what_it_shows_names_no_folder():
    """Its pictures are those of the last run; warnings, which name paths, are not kept."""
    outputs = [
        output
        for cell in json.loads(NOTEBOOK.read_text())["cells"]
        for output in cell.get("outputs", [])
    ]
    shown = {kind for output in outputs for kind in output.get("data", ())}
    assert {"image/png", "image/svg+xml", "text/html"} <= shown
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert not any(name in str(outputs) for name in ("site-packages", "/home", "/root", "/tmp"))
