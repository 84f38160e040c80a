"""The vocabulary commands: files in, a checkpoint out that reads, a report told."""

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from vocabulary_cases import ALL_TEXTS, ENGLISH, FRENCH, HINDI, ids_of, make, written_back

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.surgery.recipe import apply_recipe, read_recipe
from trocr.tokenizers import load_tokenizer


def run(*args: object):
    return CliRunner().invoke(main, ["surgery", *map(str, args)])


@pytest.fixture
def checkpoint(tmp_path):
    model, processor = make()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def lines(path, texts):
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def loaded(folder):
    return VisionEncoderDecoderModel.from_pretrained(folder), TrOCRProcessor.from_pretrained(folder)


def test_extend(checkpoint, tmp_path):
    more = lines(tmp_path / "tokens.txt", ["ế", "", " road"])
    corpus = lines(tmp_path / "corpus.txt", FRENCH)
    result = run(
        "extend-vocabulary",
        checkpoint,
        tmp_path / "out",
        "--token=é",
        "--token=the",
        f"--tokens-file={more}",
        f"--corpus={corpus}",
        f"--json={tmp_path / 'report.json'}",
    )
    assert result.exit_code == 0, result.output
    assert "composed_rows 4" in result.output
    assert "fertility_before" in result.output
    model, processor = loaded(tmp_path / "out")
    assert processor.tokenizer.tokenize("thé ế road") == ["th", "Ã©", "Ġ", "ế", " road"]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["operation"] == "extend_vocabulary"
    assert report["numbers"]["rows_after"] == model.config.decoder.vocab_size == 520


def test_shrink(checkpoint, tmp_path):
    one, two = lines(tmp_path / "one.txt", ENGLISH[:1]), lines(tmp_path / "two.txt", ENGLISH[1:])
    old, processor = loaded(checkpoint)
    tokens = [processor.tokenizer.tokenize(text) for text in ENGLISH]
    result = run(
        "shrink-vocabulary", checkpoint, tmp_path / "out", "--corpus", one, "--corpus", two, "--keep", "Ġwith"
    )
    assert result.exit_code == 0, result.output
    model, processor = loaded(tmp_path / "out")
    assert [processor.tokenizer.tokenize(text) for text in ENGLISH] == tokens
    assert "Ġwith" in processor.tokenizer.get_vocab()
    assert 261 < model.config.decoder.vocab_size < 320 < old.config.decoder.vocab_size
    assert f"-> {model.config.decoder.vocab_size}x48" in result.output


def test_train_and_replace(checkpoint, tmp_path):
    corpus = lines(tmp_path / "corpus.txt", [*HINDI, *ENGLISH])
    result = run(
        "train-tokenizer", corpus, corpus, tmp_path / "hindi", "--kind", "unigram", "--vocab-size", 200
    )
    assert result.exit_code == 0, result.output
    assert result.output.startswith("XLMRobertaTokenizer with ")
    assert "unknown_rate 0" in result.output
    trained = load_tokenizer(tmp_path / "hindi")
    result = run(
        "replace-tokenizer",
        checkpoint,
        tmp_path / "out",
        tmp_path / "hindi",
        "--corpus",
        corpus,
        "--seed",
        "4",
    )
    assert result.exit_code == 0, result.output
    assert "fertility_after" in result.output
    model, processor = loaded(tmp_path / "out")
    assert processor.tokenizer.get_vocab() == trained.get_vocab()
    assert written_back(processor.tokenizer, HINDI[0]) == HINDI[0]
    assert model.config.decoder.vocab_size == len(trained)


def test_errors_are_messages(checkpoint, tmp_path):
    empty = lines(tmp_path / "empty.txt", [""])
    for args, message in (
        (["extend-vocabulary", checkpoint, tmp_path / "out"], "no token was given"),
        (
            ["extend-vocabulary", checkpoint, tmp_path / "out", "--token", "été"],
            "takes a token of such letters",
        ),
        (["shrink-vocabulary", checkpoint, tmp_path / "out", "--corpus", empty], "the corpus has no text"),
        (["shrink-vocabulary", checkpoint, tmp_path / "out"], "--corpus"),
        (["replace-tokenizer", checkpoint, tmp_path / "out", "nowhere"], "cannot be loaded"),
        (["train-tokenizer", empty, tmp_path / "out", "--vocab-size", 300], "the corpus has no text"),
        (
            ["train-tokenizer", empty, tmp_path / "out", "--kind", "bpe", "--vocab-size", 300],
            "'bpe' is not one",
        ),
    ):
        result = run(*args)
        assert result.exit_code != 0
        assert message in result.output, result.output
        assert not (tmp_path / "out").exists()


def test_operations_stand_in_recipes(checkpoint, tmp_path):
    lines(tmp_path / "corpus.txt", ENGLISH)
    (tmp_path / "recipe.toml").write_text(
        f"""
[[operation]]
name = "extend_vocabulary"
tokens = ["é", "ế"]

[[operation]]
name = "shrink_vocabulary"
corpus = {json.dumps(str(tmp_path / "corpus.txt"))}
keep = ["é", "ế"]

[[operation]]
name = "replace_tokenizer"
tokenizer = "tiny-printed"
seed = 2
""",
        encoding="utf-8",
    )
    model, processor = loaded(checkpoint)
    before = model.get_input_embeddings().weight.detach().clone()
    tokenizer = processor.tokenizer
    reports = apply_recipe(model, read_recipe(tmp_path / "recipe.toml"), processor=processor)
    assert [report.operation for report in reports] == [
        "extend_vocabulary",
        "shrink_vocabulary",
        "replace_tokenizer",
    ]
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    same = sorted({token_id for text in ENGLISH for token_id in ids_of(processor, text)})
    assert torch.equal(model.get_input_embeddings().weight[same], before[same])
    assert all(written_back(processor.tokenizer, text) == text for text in ALL_TEXTS)


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom trocr.cli import main\n"
        "try:\n    main(['surgery', 'extend-vocabulary', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'tokenizers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
