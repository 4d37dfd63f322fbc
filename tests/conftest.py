"""Settings shared by all tests: seeds, determinism, the Triton interpreter, what may be skipped."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest
import torch

# pytest finds hooks and fixtures by their names in this module.
from on_gpu import kernels_on_gpu  # noqa: F401
from skips import pytest_sessionfinish, pytest_terminal_summary  # noqa: F401

# Read when a kernel is decorated, so it must stand before the first import of tritonpool.kernels.
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

# Also fills torch.empty with NaN, so memory that nobody wrote shows up in the results.
torch.use_deterministic_algorithms(True)
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for that
torch.set_num_threads(1)

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` on a machine without one."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm device"))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def watched_kernels() -> Iterator[list[str]]:
    """Check the memory accesses of each interpreted kernel; the names of those that were launched
    in this test. Nothing on a machine whose kernels are compiled, or that has no Triton."""
    if os.environ["TRITON_INTERPRET"] != "1" or importlib.util.find_spec("triton") is None:
        yield []
        return
    from interpreter import quick
    from memory_watch import watching

    with quick(), watching() as names:
        yield names


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small table to train on."""
    from cli_tools import write_table

    return write_table(tmp_path / "data.csv")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small training, to predict with."""
    from cli_tools import train, write_table

    folder = tmp_path_factory.mktemp("trained")
    assert train(write_table(folder / "data.csv", 24), folder / "model") == 0
    return folder / "model"


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a training that must fail with one line and leave nothing, and return the line."""
    from cli_tools import SHORT, SMALL, train

    def run(data: Path, *words: object, code: int, small: Sequence[str] = SMALL + SHORT) -> str:
        out = tmp_path / "out"
        assert train(data, out, *words, small=small) == code
        assert not out.exists()
        captured = capfd.readouterr().err
        assert "Traceback" not in captured
        assert "SMILES Parse Error" not in captured  # RDKit's own lines, which say less
        line = captured.strip().splitlines()[-1]
        assert line.startswith("tritonpool train: error: ")
        return line.removeprefix("tritonpool train: error: ")

    return run


@pytest.fixture(scope="session")
def insulator_csv() -> Path:
    """The insulator data set, from the folder named by ``TRITONPOOL_DATA``."""
    folder = os.environ.get("TRITONPOOL_DATA")
    if not folder:
        pytest.skip("needs real data: TRITONPOOL_DATA is not set")
    path = Path(folder) / "insulator" / "insulator.csv"
    if not path.is_file():
        raise FileNotFoundError(f"TRITONPOOL_DATA is {folder!r}, which has no {path.name}")
    return path
