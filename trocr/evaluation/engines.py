"""Other engines on the same crops: Tesseract 5 and RapidOCR, each as its users run it on line images.

Source: the manual page of tesseract(1) (a text file of image names as input, `--psm 7`: a single text line);
rapidocr's README (`use_det=False, use_cls=False`: recognition only).
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from trocr.evaluation.distance import EvaluationError

PAGE_BREAK = "\f"


@dataclass(frozen=True, kw_only=True)
class EngineReadings:
    """What an engine read.

    Attributes:
        texts: one for each image, in order.
        seconds: that it took, its start left out where it can be.
    """

    texts: tuple[str, ...]
    seconds: float


Engine = Callable[[Sequence[Image.Image]], EngineReadings]


def tesseract(images: Sequence[Image.Image], *, language: str = "eng") -> EngineReadings:
    """Read with Tesseract: one process, one thread, over a list of files.

    Images are written as PNG beforehand; the process's start, some hundredths of a second, is in the time.

    Raises:
        EvaluationError: it is not installed, or it failed.
    """
    program = shutil.which("tesseract")
    if program is None:
        raise EvaluationError("tesseract is not installed (Debian: apt-get install tesseract-ocr)")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, image in enumerate(images):
            paths.append(str(Path(folder) / f"{number:06}.png"))
            image.save(paths[-1])
        listing = Path(folder) / "list.txt"
        listing.write_text("\n".join(paths) + "\n", encoding="utf-8")
        started = time.perf_counter()
        done = subprocess.run(
            [program, str(listing), "-", "--psm", "7", "-l", language, "-c", f"page_separator={PAGE_BREAK}"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            check=False,
        )
        seconds = time.perf_counter() - started
    if done.returncode:
        raise EvaluationError(f"tesseract ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    pages = done.stdout.split(PAGE_BREAK)[: len(images)]
    if len(pages) != len(images):
        raise EvaluationError(f"tesseract gave {len(pages)} texts for {len(images)} images")
    return EngineReadings(texts=tuple(" ".join(page.split()) for page in pages), seconds=seconds)


class RapidOCR:
    """RapidOCR's recogniser, without detection and without the classifier of directions, in one thread.

    Raises:
        EvaluationError: it is not installed.
    """

    def __init__(self) -> None:
        try:
            from rapidocr import RapidOCR as Pipeline
        except ImportError as error:
            raise EvaluationError("rapidocr is not installed (pip install rapidocr onnxruntime)") from error
        threads = {
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        self.pipeline: Any = Pipeline(params={"Global.log_level": "error", **threads})

    def __call__(self, images: Sequence[Image.Image]) -> EngineReadings:
        """Read images one after the other, as its users do."""
        import numpy as np

        arrays = [np.asarray(image.convert("RGB"))[:, :, ::-1] for image in images]  # BGR
        texts = []
        started = time.perf_counter()
        for array in arrays:
            found = self.pipeline(array, use_det=False, use_cls=False, use_rec=True)
            texts.append(" ".join(found.txts or ()))
        return EngineReadings(texts=tuple(texts), seconds=time.perf_counter() - started)


def trocr_engine(model: str, *, batch_size: int = 32, native_width: bool = False) -> Engine:
    """Our reader as an engine: images sorted by shape, in batches.

    Args:
        model: shipped name, folder or Hub id.
        batch_size: images read together.
        native_width: see `Reader.read`.
    """
    from trocr.reader import Reader

    reader = Reader(model)

    def read(images: Sequence[Image.Image]) -> EngineReadings:
        order = sorted(range(len(images)), key=lambda place: images[place].width / images[place].height)
        texts = [""] * len(images)
        started = time.perf_counter()
        ordered = [images[place] for place in order]
        lines = reader.read(ordered, batch_size=batch_size, native_width=native_width)
        for place, line in zip(order, lines, strict=True):
            texts[place] = line.text
        return EngineReadings(texts=tuple(texts), seconds=time.perf_counter() - started)

    return read
