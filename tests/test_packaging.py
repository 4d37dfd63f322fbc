"""The ways to run the package: from anywhere, installed or not, with and without Triton."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch

import tritonpool

ROOT = Path(__file__).resolve().parents[1]
WHERE = "import tritonpool.kernels as k; print(k.__name__, len(k.__path__))"


def python(*args: str, cwd: Path, **env: str) -> str:
    """Run this interpreter in a process of its own and return what it prints."""
    run = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.strip()


def sources(folder: str) -> set[str]:
    """Name the Python files right in a folder of the repository."""
    return {path.name for path in (ROOT / folder).glob("*.py")}


def test_version_agrees_with_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tritonpool.__version__ == project["version"]


def test_import_from_outside_the_repository(tmp_path: Path) -> None:
    assert python("-c", WHERE, cwd=tmp_path) == "tritonpool.kernels 1"


def test_import_from_the_repository_root() -> None:
    assert python("-c", WHERE, cwd=ROOT) == "tritonpool.kernels 1"


def test_import_with_pythonpath_only(tmp_path: Path) -> None:
    # -S leaves out site-packages and with it the installed package; torch's folder comes back.
    path = os.pathsep.join([str(ROOT), str(Path(torch.__file__).parents[1])])
    code = "import tritonpool; print(tritonpool.__file__); " + WHERE
    lines = python("-S", "-c", code, cwd=tmp_path, PYTHONPATH=path).splitlines()
    assert lines == [str(ROOT / "tritonpool" / "__init__.py"), "tritonpool.kernels 1"]


def test_import_needs_only_torch(tmp_path: Path) -> None:
    others = "triton chemprop rdkit lightning torch_geometric matplotlib pandas"
    code = f"import sys, tritonpool; print([m for m in {others!r}.split() if m in sys.modules])"
    assert python("-c", code, cwd=tmp_path) == "[]"


def test_import_without_triton(tmp_path: Path) -> None:
    code = """
import sys

class NoTriton:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTriton())
import torch
import tritonpool

g = tritonpool.Graph(torch.ones(2, 3), torch.tensor([[0, 1], [1, 0]]))
coarse = tritonpool.coarsen(g, torch.full((2, 2), 0.5))
print(coarse.edge_weight.tolist())
"""
    assert python("-c", code, cwd=tmp_path) == "[0.5, 0.5]"


def test_the_package_list_is_complete() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "tritonpool").rglob("__init__.py")
    }
    assert set(setuptools["packages"]) == found | {"tritonpool.kernels"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel that is built from a copy, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ours = ["pyproject.toml", "README.md", "LICENSE", "tritonpool", "kernels"]
    source.mkdir()
    for name in ours:
        path = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(path, source)
    offline = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    python("-m", "pip", "wheel", *offline, "--wheel-dir", str(folder), str(source), cwd=folder)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_wheel_holds_the_kernels_in_the_package(wheel: list[str]) -> None:
    prefix = "tritonpool/kernels/"
    assert {n.removeprefix(prefix) for n in wheel if n.startswith(prefix)} == sources("kernels")


def test_wheel_has_no_other_top_level_name(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"tritonpool", f"tritonpool-{tritonpool.__version__}.dist-info"}


def test_wheel_is_typed_and_has_the_command(wheel: list[str]) -> None:
    assert {"tritonpool/py.typed", "tritonpool/cli/__init__.py"} <= set(wheel)
    assert any(name.endswith("dist-info/entry_points.txt") for name in wheel)
