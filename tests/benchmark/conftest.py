"""The tiny models of the parity tests, and lines to read."""

import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from trocr.benchmark.lines import BenchmarkLine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))


@pytest.fixture
def made_lines():
    """Lines of a workload without any file: images that differ, and labels of several lengths."""

    def make(count: int) -> list[BenchmarkLine]:
        lines = []
        for number in range(count):
            image = Image.new("L", (60, 20), 255)
            ImageDraw.Draw(image).text((2, 4), f"{number}")
            lines.append(BenchmarkLine(name=f"line {number}", text="x" * (1 + 7 * number % 30), image=image))
        return lines

    return make
