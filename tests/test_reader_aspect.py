"""Images at their own aspect ratio, and drafts, through `Reader`."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "parity"))

from families import make_pair

from trocr import Reader, ReaderError, TrOCRProcessor, ViTImageProcessor, optimize
from trocr.generation import ModelDraft, NGramDraft
from trocr.native_aspect import NativeAspect, NativeAspectError


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny square model, and the same made fast, each in a reader."""
    model = make_pair("learned", tmp_path_factory.mktemp("square")).ours
    tokenizer = TrOCRProcessor.from_pretrained("tiny-printed").tokenizer
    processor = TrOCRProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    monkey = pytest.MonkeyPatch()
    monkey.setattr("trocr.reader.check_tokenizer", lambda *args: None)  # the model's tokens mean nothing
    yield Reader(model, processor), Reader(optimize(model), processor)
    monkey.undo()


def pictures(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (20, 30 + 25 * (n % 4), 3), dtype=np.uint8) for n in range(count)]


@pytest.mark.parametrize("aspect", [True, NativeAspect(patch_hw=(8, 8), max_patches=9)])
def test_native_aspect_reads_alike_in_batches_and_continuously(models, aspect):
    plain, fast = models
    options = {"native_aspect": aspect, "max_new_tokens": 6, "batch_size": 3}
    wanted = [[token.id for token in line.tokens] for line in plain.read(pictures(9), **options)]
    assert [[token.id for token in line.tokens] for line in fast.read(pictures(9), **options)] == wanted
    alone = [next(plain.read(image, **options)) for image in pictures(9)]
    assert [[token.id for token in line.tokens] for line in alone] == wanted
    squeezed = plain.read(pictures(9), max_new_tokens=6)
    assert [[token.id for token in line.tokens] for line in squeezed] != wanted


def test_native_aspect_where_it_cannot_be(models):
    with pytest.raises(NativeAspectError, match="use native_width"):
        Reader("tiny-printed").read([], native_aspect=True)
    with pytest.raises(ReaderError, match="exclude each other"):
        Reader("tiny-printed").read([], native_aspect=True, native_width=True)


@pytest.mark.parametrize("native_width", [False, True])
def test_drafts_change_no_text(repo, native_width):
    files = sorted((repo / "examples").glob("*.[pj]*g"))
    reader = Reader("tiny-printed")
    wanted = [line.text for line in reader.read(files, native_width=native_width)]
    texts = [*wanted, "another line"]
    for draft in (NGramDraft.from_texts(texts, reader.processor.tokenizer), ModelDraft(reader.model)):
        found = reader.read(files, native_width=native_width, draft=draft)
        assert [line.text for line in found] == wanted
        assert draft.counts.accepted > 0
