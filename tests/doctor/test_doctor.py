"""A checkpoint broken in each way that the doctor looks for, and what it says."""

import json
import shutil

import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.doctor.examination import examine
from trocr.doctor.findings import ok
from trocr.doctor.tokens import check_start
from trocr.doctor.trials import start_losses
from trocr.hub import PRETRAINED
from trocr.training.batches import label_ids, pad_labels
from trocr.training.objective import Objective

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
        ("config.json", {"decoder__eos_token_id": 5}, "end token", "error", "is 2, its decoder's 5"),
        ("config.json", {"pad_token_id": 3}, "padding token", "error", "the tokenizer's is 1"),
        ("config.json", {"decoder__pad_token_id": 3}, "padding token", "error", "is 1, its decoder's 3"),
        (
            "config.json",
            {"decoder__decoder_start_token_id": 0},
            "decoder's start token",
            "warning",
            "start with 2, and decoder.decoder_start_token_id is 0",
        ),
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


def start(checkpoint, trained, losses, *, is_new=False):
    edit(checkpoint, "generation_config.json", decoder_start_token_id=trained)
    edit(checkpoint, "config.json", decoder_start_token_id=trained, decoder__decoder_start_token_id=trained)
    model = VisionEncoderDecoderModel.from_pretrained(checkpoint)
    [finding] = check_start(model, TrOCRProcessor.from_pretrained(checkpoint), losses, is_new=is_new)
    return finding


@pytest.mark.parametrize(
    ("trained", "losses", "severity", "what"),
    [
        (
            0,
            {0: 1.2, 2: 0.05},
            "error",
            "trained from 2 ('</s>'); these lines cost 1.20 a token from 0 and 0.05",
        ),
        (0, {0: 0.05, 2: 1.2}, "ok", "0 ('<s>'), in training and generation; these lines cost 0.05 a token"),
        (
            0,
            {0: 0.30, 2: 0.27},
            "warning",
            "models of this family start with 2 ('</s>'); these lines cost 0.30",
        ),
        (0, {}, "warning", "models of this family start with 2"),
        (2, {0: 0.05, 2: 1.2}, "error", "texts start with 2 ('</s>'), and the weights were trained from 0"),
        (2, {0: 1.2, 2: 0.05}, "ok", "2 ('</s>'), in training and generation"),
        (2, {0: 0.27, 2: 0.30}, "ok", "2 ('</s>'), in training and generation"),
        (2, {}, "ok", "2 ('</s>'), in training and generation"),
    ],
)
def test_the_start_token_is_the_one_that_reads_better(checkpoint, trained, losses, severity, what):
    finding = start(checkpoint, trained, losses)
    assert finding.severity == severity
    assert what in finding.what


def test_random_weights_learn_any_start_token(checkpoint):
    assert start(checkpoint, 0, {}, is_new=True).severity == "ok"


def test_the_measured_start_tokens_decide(checkpoint, monkeypatch):
    edit(checkpoint, "generation_config.json", decoder_start_token_id=0)
    edit(checkpoint, "config.json", decoder_start_token_id=0, decoder__decoder_start_token_id=0)
    asked = []

    def losses(objective, processor, lines, starts):
        asked.append((len(lines), sorted(starts)))
        return {0: 1.0, 2: 0.1}

    monkeypatch.setattr("trocr.doctor.examination.start_losses", losses)
    assert found(checkpoint, str(EXAMPLES))["start token"].severity == "error"
    assert asked == [(8, [0, 2])]


def test_the_loss_is_measured_from_either_token():
    model, processor = (
        kind.from_pretrained("tiny-printed") for kind in (VisionEncoderDecoderModel, TrOCRProcessor)
    )
    objective = Objective(model.train())
    line = ("one", "Total 3.50", Image.open(EXAMPLES / "heading.jpg"))
    found = start_losses(objective, processor, [line], [2, 0])
    assert model.start_token_id == 2
    assert model.training
    pixels = processor.image_processor([line[2]], return_tensors="pt")["pixel_values"]
    labels = pad_labels([label_ids(processor, line[1])])
    model.eval()
    for token, loss in found.items():
        model.start_token_id = token
        assert loss == pytest.approx(model(pixel_values=pixels, labels=labels).loss.item(), rel=1e-5)
    assert found[0] != found[2]


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
    assert "before their end token" in findings["length"].why
    assert findings["room for characters"].severity in ("warning", "error")


def test_texts_that_do_not_come_back(tmp_path):
    from trocr import BertTokenizer

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


def test_images_that_are_all_bright_on_dark(checkpoint, tmp_path):
    data = lines(tmp_path / "d", "one", "two", color=0)
    finding = found(checkpoint, data)["polarity"]
    assert finding.severity == "warning"
    assert "all 2 images are bright on dark: 0.png; 1.png" in finding.what
    assert "polarity" not in found(training_file(tmp_path, data, 'init = "random"', ""))


def test_labels_of_other_images(tmp_path):
    data = tmp_path / "d"
    shutil.copytree(EXAMPLES, data)
    names, texts = zip(
        *(row.split("\t") for row in (data / "labels.tsv").read_text().splitlines()), strict=True
    )
    rows = [f"{name}\t{text}\n" for name, text in zip(names, texts[1:] + texts[:1], strict=True)]
    (data / "labels.tsv").write_text("".join(rows))
    finding = found("tiny-printed", str(data))["loss at start"]
    assert finding.severity == "error"
    assert "they belong to other images" in " ".join(finding.why.split())


def training_file(folder, data, model="", rest=""):
    path = folder / "c.toml"
    start = f'[model]\ncheckpoint = "tiny-printed"\n{model}\n'
    path.write_text(f'{start}[data]\ntrain = ["{data}"]\n{rest}\n[run]\nsteps = 1\n')
    return path


def test_the_files_own_longest_label(tmp_path):
    finding = found(training_file(tmp_path, EXAMPLES, rest="max_label_tokens = 20"))["length"]
    assert finding.severity == "error"
    assert "labels have more tokens than 20, data.max_label_tokens: " in finding.what
    assert "raise data.max_label_tokens to" in finding.change


def test_validation_lines_that_are_missing(tmp_path):
    finding = found(training_file(tmp_path, EXAMPLES, rest=f'val = ["{tmp_path}/none"]'))["validation lines"]
    assert finding.severity == "error"
    assert "none: there is no such file or folder" in finding.what
    assert found(training_file(tmp_path, EXAMPLES, rest=f'val = ["{EXAMPLES}"]'))["validation lines"] == ok(
        "validation lines", "8"
    )


def test_characters_outside_the_ctc_alphabet(tmp_path):
    data = lines(tmp_path / "d", "aabb", "abxx", "abxé")
    head = '[loss]\nctc_weight = 0.3\nctc_alphabet = "ab"\n'
    finding = found(training_file(tmp_path, data, rest=head))["CTC alphabet"]
    assert finding.severity == "warning"
    assert "4 of 12 characters (33.3%) are not in loss.ctc_alphabet: 'x'; 'é'" in finding.what
    whole = found(training_file(tmp_path, EXAMPLES, rest="[loss]\nctc_weight = 0.3"))["CTC alphabet"]
    assert whole.severity == "ok"


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_lines_that_are_named_replace_those_of_the_file(tmp_path, share):
    other = f'"{tmp_path}/none"' if share < 1 else ""
    config = tmp_path / "c.toml"
    config.write_text(
        f'[model]\ncheckpoint = "tiny-printed"\n[data]\ntrain = [{other}]\nsynthetic = {{ min_chars = 1 }}\n'
        f"synthetic_share = {share}\n[run]\nsteps = 1\n"
    )
    data = tmp_path / 'a "quoted" folder'
    shutil.copytree(EXAMPLES, data)
    assert "8 texts, 8 images" in found(config, str(data))["looked at"].what


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
    edit(checkpoint, "generation_config.json", decoder_start_token_id=2, max_new_tokens=4)
    for arguments, status in (([], 0), (["--strict"], 1)):
        command = ["doctor", str(checkpoint), "--data", str(EXAMPLES), "--steps", "0", *arguments]
        assert CliRunner().invoke(main, command).exit_code == status
    alone = CliRunner().invoke(main, ["doctor", "tiny-printed"])
    assert alone.exit_code == 1
    assert "a checkpoint needs lines to be examined with: --data SRC" in alone.output
    nothing = CliRunner().invoke(main, ["doctor", str(tmp_path / "none.toml")])
    assert nothing.exit_code == 1
    assert "cannot be read" in nothing.output
