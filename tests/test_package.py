"""The package as `import trocr` shows it."""

import subprocess
import sys
import tomllib

import pytest

import trocr

IMPORT_S = 0.15


def test_every_public_name_is_there() -> None:
    for name in trocr.__all__:
        assert getattr(trocr, name) is not None
    assert set(trocr.__all__) <= set(dir(trocr))


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'trocr' has no attribute 'TrOCRModel'"):
        _ = trocr.TrOCRModel


def test_importing_is_cheap() -> None:
    code = """
import sys, time
start = time.perf_counter()
import trocr
took = time.perf_counter() - start
heavy = {"torch", "timm", "transformers", "tokenizers", "numpy", "PIL", "huggingface_hub"} & set(sys.modules)
print(took, *sorted(heavy))
"""
    command = [sys.executable, "-c", code]
    runs = [subprocess.check_output(command, text=True).split() for _ in range(5)]
    assert all(len(run) == 1 for run in runs), f"import trocr brings in {runs[0][1:]}"
    assert min(float(run[0]) for run in runs) < IMPORT_S


def test_every_data_file_is_packaged(repo) -> None:
    settings = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("trocr", "weights_conversion"):
        packaged = {path for pattern in settings[package] for path in (repo / package).glob(pattern)}
        present = {path for path in (repo / package).rglob("*") if path.is_file()}
        assert {path for path in present if path.suffix not in (".py", ".pyc")} <= packaged
        assert repo / package / "py.typed" in packaged
