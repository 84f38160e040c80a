"""A checkpoint broken in each way that the doctor looks for, and what it says."""

import json
import shutil

import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from trocr.cli import main
from trocr.doctor.examination import examine
from trocr.hub import PRETRAINED

EXAMPLES = PRETRAINED.parents[1] / "examples"


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(PRETRAINED / "tiny-printed", folder)
    return folder


def edit(folder, file, **values):
    path = folder / file
    content = json.loads(path.read_text())
    for key, value in values.items():
        *tables, last = key.split("__")
        table = content
        for name in tables:
            table = table[name]
        table[last] = value
    path.write_text(json.dumps(content))


def lines(folder, *texts, size=(120, 32), color=255):
    from PIL import ImageDraw, ImageFont

    folder.mkdir(exist_ok=True)
    rows = []
    for number, text in enumerate(texts):
        image = Image.new("L", size, color)
        if text.strip():
            ink = 0 if color > 128 else 255
            ImageDraw.Draw(image).text((4, 4), text[:12], fill=ink, font=ImageFont.load_default(20))
        image.save(folder / f"{number}.png")
        rows.append(f"{number}.png\t{text}\n")
    (folder / "labels.tsv").write_text("".join(rows), encoding="utf-8")
    return str(folder)


def found(target, data=None, *, steps=0):
    return {finding.topic: finding for finding in examine(target, data, steps=steps)}


def test_the_shipped_reader_is_in_order():
    findings = list(examine("tiny-printed", str(EXAMPLES), steps=12))
    assert {finding.severity for finding in findings} == {"ok"}, findings
    topics = {finding.topic for finding in findings}
    assert {"end token", "start token", "round trip", "masking", "pixels", "gradients", "one batch"} <= topics


@pytest.mark.parametrize(
    ("file", "values", "topic", "severity", "what"),
    [
        ("generation_config.json", {"eos_token_id": 5}, "end token", "error", "generation's 5"),
        ("config.json", {"pad_token_id": 3}, "padding token", "error", "the tokenizer's is 1"),
        (
            "generation_config.json",
            {"decoder_start_token_id": 0},
            "start token",
            "error",
            "training starts texts with 2, generation with 0",
        ),
        (
            "preprocessor_config.json",
            {"size": {"height": 32, "width": 320}},
            "image size",
            "error",
            "the processor makes 32 x 320 pixels",
        ),
        (
            "preprocessor_config.json",
            {"image_mean": [0.485, 0.456, 0.406]},
            "normalisation",
            "warning",
            "mean (0.485, 0.456, 0.406)",
        ),
        ("generation_config.json", {"max_new_tokens": 4}, "generation length", "warning", "stops after 4"),
    ],
)
def test_a_broken_file(checkpoint, file, values, topic, severity, what):
    edit(checkpoint, file, **values)
    finding = found(checkpoint, str(EXAMPLES))[topic]
    assert finding.severity == severity
    assert what in finding.what.replace("[", "(").replace("]", ")")
    assert finding.why
    assert finding.change


def test_another_start_token_in_both_files_is_a_warning(checkpoint):
    edit(checkpoint, "generation_config.json", decoder_start_token_id=0)
    edit(checkpoint, "config.json", decoder_start_token_id=0, decoder__decoder_start_token_id=0)
    finding = found(checkpoint, str(EXAMPLES))["start token"]
    assert finding.severity == "warning"
    assert "models of this family start with 2 ('</s>')" in finding.what
    assert "begin twice" in finding.why


def test_texts_with_special_tokens_and_too_long(checkpoint, tmp_path):
    data = lines(tmp_path / "d", "plain", "with <pad> inside", "x1y2" * 60)
    findings = found(checkpoint, data)
    assert "1 texts hold special tokens: 1.png" in findings["masking"].what
    assert "1 of 3 labels have more tokens" in findings["length"].what
    assert "2.png" in findings["length"].what
    assert "without their end token" in findings["length"].why
    assert findings["room for characters"].severity in ("warning", "error")


def test_texts_that_do_not_come_back(tmp_path):
    from trocr import BertTokenizer, TrOCRProcessor, VisionEncoderDecoderModel

    folder = tmp_path / "bert"
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    model.save_pretrained(folder)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{c}" for c in "abcdefgh")]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    shipped = TrOCRProcessor.from_pretrained("tiny-printed")
    TrOCRProcessor(shipped.image_processor, tokenizer).save_pretrained(folder)
    findings = found(folder, lines(tmp_path / "d", "abc", "xyz"))
    assert "1 of 2 texts come back otherwise: 0.png" not in findings["round trip"].what
    assert "1.png: 'xyz' comes back as" in findings["round trip"].what
    assert findings["round trip"].severity == "error"
    assert findings["unknown tokens"].severity == "error"
    assert findings["end token"].severity == "error"


def test_images_without_room(checkpoint, tmp_path):
    findings = found(checkpoint, lines(tmp_path / "d", "word", "next", size=(60, 400)))
    assert "2 of 2 images leave under 4 columns for a character" in findings["room for characters"].what
    assert findings["room for characters"].severity == "error"


def test_blank_inverse_and_damaged_images(checkpoint, tmp_path):
    data = lines(tmp_path / "d", "one", "two", "three", "four")
    Image.new("L", (90, 32), 255).save(tmp_path / "d/0.png")
    inverse = Image.open(tmp_path / "d/1.png").point(lambda value: 255 - value)
    inverse.save(tmp_path / "d/1.png")
    (tmp_path / "d/2.png").write_bytes(b"-")
    findings = found(checkpoint, data)
    assert "1 of 3 images have no contrast: 0.png" in findings["blank images"].what
    assert "bright on dark: 1.png" in findings["polarity"].what
    assert "1 of 4 images cannot be opened: 2.png" in " ".join(findings["unreadable images"].what.split())


def test_frozen_and_broken_weights_cannot_learn(checkpoint, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(
        f'[model]\ncheckpoint = "{checkpoint}"\n'
        'freeze = ["encoder", "decoder.blocks", "decoder.embed_tokens"]\n'
        f'[data]\ntrain = ["{EXAMPLES}"]\n[run]\nsteps = 1\n'
    )
    findings = found(config)
    assert findings["frozen"].severity == "warning"
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    for name in weights:
        if "encoder_attn" in name or "fc" in name or "embed_tokens" in name:
            weights[name].zero_()
    save_file(weights, path, metadata={"format": "pt"})
    findings = found(checkpoint, str(EXAMPLES), steps=3)
    assert findings["loss at start"].severity == "warning"
    assert findings["gradients"].severity == "warning"


def test_random_weights_begin_at_the_loss_of_a_guess(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(
        '[model]\ncheckpoint = "tiny-printed"\ninit = "random"\n'
        f'[data]\ntrain = ["{EXAMPLES}"]\n[run]\nsteps = 1\n'
    )
    finding = found(config)["loss at start"]
    assert finding.severity == "ok", finding
    assert "random weights; a guess costs 6.25" in finding.what


def test_a_batch_that_cannot_be_learnt(checkpoint, tmp_path):
    data = lines(tmp_path / "d", "abc", "xyz", "17:40", "Total")
    for number in range(4):
        Image.new("L", (120, 32), 60 * number).save(tmp_path / f"d/{number}.png")  # texts without a trace
    config = tmp_path / "c.toml"
    config.write_text(
        f'[model]\ncheckpoint = "{checkpoint}"\nfreeze = ["decoder", "encoder.blocks", "encoder.norm"]\n'
        f'[data]\ntrain = ["{data}"]\n[run]\nsteps = 1\n'
    )
    finding = found(config, steps=4)["one batch"]
    assert finding.severity == "error"
    assert "labels do not belong to the images" in " ".join(finding.why.split())


def test_command(checkpoint, tmp_path):
    fine = CliRunner().invoke(main, ["doctor", "tiny-printed", "--data", str(EXAMPLES), "--steps", "0"])
    assert fine.exit_code == 0, fine.output
    assert "0 errors, 0 warnings" in fine.output
    edit(checkpoint, "generation_config.json", decoder_start_token_id=0)
    ill = CliRunner().invoke(main, ["doctor", str(checkpoint), "--data", str(EXAMPLES), "--steps", "0"])
    assert ill.exit_code == 1
    assert "ERROR    start token: training starts texts with 2, generation with 0" in ill.output
    assert "change: set decoder_start_token_id=2 in generation_config.json too" in ill.output
    listed = CliRunner().invoke(
        main, ["doctor", str(checkpoint), "--data", str(EXAMPLES), "--steps", "0", "--json"]
    )
    assert any(finding["severity"] == "error" for finding in json.loads(listed.output))
    alone = CliRunner().invoke(main, ["doctor", "tiny-printed"])
    assert alone.exit_code == 1
    assert "a checkpoint needs lines to be examined with: --data SRC" in alone.output
    nothing = CliRunner().invoke(main, ["doctor", str(tmp_path / "none.toml")])
    assert nothing.exit_code == 1
    assert "cannot be read" in nothing.output
