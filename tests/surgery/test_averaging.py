import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from drawn import drawn_lines, processor, small_model
from safetensors.torch import load_file
from timm_cases import stir

from trocr import Reader, TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.surgery.averaging import average_checkpoints, ema_of, greedy_soup
from trocr.surgery.parts import replace_encoder
from trocr.surgery.patterns import SurgeryError


def save(folder, model, its_processor=None):
    model.save_pretrained(folder)
    (its_processor or processor()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three checkpoints of one model, and their tensors in float64."""
    folder = tmp_path_factory.mktemp("three")
    models = [small_model(seed=seed) for seed in range(3)]
    paths = [save(folder / f"m{seed}", model) for seed, model in enumerate(models)]
    return paths, [{k: v.double() for k, v in model.state_dict().items()} for model in models]


def assert_equal(model, wanted):
    found = model.state_dict()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value.to(found[key].dtype)), key


def test_one_checkpoint_is_its_own_average(three):
    (path, *_), (tensors, *_) = three
    for model, _, report in (average_checkpoints([path]), ema_of([path], 0.3)):
        assert_equal(model, tensors)
        assert report.changes == ()
        assert report.kept == len(list(model.named_parameters()))
        assert report.numbers == {"sources": 1.0, "distance": 0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_checkpoints_give_themselves_bit_by_bit(dtype, tmp_path):
    model = small_model().to(dtype)
    paths = [save(tmp_path / name, model) for name in "abc"]
    for weights in (None, [0.1, 0.2, 0.7], [3, 1e-9, 5]):
        found, _, report = average_checkpoints(paths, weights=weights)
        assert_equal(found, model.state_dict())
        assert found.dtype == dtype
        assert report.changes == ()


def test_uniform_and_weighted_means(three):
    paths, (a, b, c) = three
    found, its_processor, report = average_checkpoints(paths)
    for key, value in found.state_dict().items():
        torch.testing.assert_close(value.double(), (a[key] + b[key] + c[key]) / 3, rtol=2e-7, atol=1e-9)
    assert not found.training
    assert its_processor.image_processor == processor().image_processor
    assert report.operation == "average_checkpoints"
    assert {change.action for change in report.changes} == {"composed"}
    same = [key for key in a if torch.equal(a[key], b[key]) and torch.equal(a[key], c[key])]
    assert same  # biases and norms start alike
    assert not {change.name for change in report.changes} & set(same)
    assert report.numbers["distance"] > 0
    assert found.decoder.output_projection.weight is found.decoder.embed_tokens.weight
    weighted, _, _ = average_checkpoints(paths, weights=[1, 0, 3])
    for key, value in weighted.state_dict().items():
        torch.testing.assert_close(value.double(), (a[key] + 3 * c[key]) / 4, rtol=2e-7, atol=1e-9)
    last, _, _ = average_checkpoints(paths, weights=[0, 0, 2])
    assert_equal(last, c)


def test_an_average_that_forgets(three):
    paths, (a, b, c) = three
    found, _, report = ema_of(paths, 0.8)
    for key, value in found.state_dict().items():
        wanted = 0.8 * (0.8 * a[key] + 0.2 * b[key]) + 0.2 * c[key]
        torch.testing.assert_close(value.double(), wanted, rtol=2e-7, atol=1e-9)
    assert report.operation == "ema_of"
    assert_equal(ema_of(paths, 0)[0], c)
    assert_equal(ema_of(paths, 1)[0], a)
    for decay in (-0.1, 1.5, float("nan"), True, "0.5"):
        with pytest.raises(SurgeryError, match="must lie between 0 and 1"):
            ema_of(paths, decay)


def test_statistics_are_averaged_and_counts_are_not(tmp_path):
    paths = []
    for seed in range(2):
        model, its_processor = small_model(), processor()
        replace_encoder(model, "timm:test_resnet", processor=its_processor, image_size=(32, 64))
        stir(model, seed=seed)
        model.encoder.backbone.bn1.num_batches_tracked.fill_(seed + 5)
        paths.append(save(tmp_path / str(seed), model, its_processor))
    tensors = [load_file(path / "model.safetensors") for path in paths]
    name = "encoder.timm_model.bn1.running_var"
    found, _, report = average_checkpoints(paths)
    norm = found.encoder.backbone.bn1
    torch.testing.assert_close(norm.running_var, (tensors[0][name] + tensors[1][name]) / 2)
    assert int(norm.num_batches_tracked) == 5
    assert "running statistics" in report.notes[0]
    save(tmp_path / "mean", found)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path / "mean")
    assert_equal(again, found.state_dict())


def test_checkpoints_of_other_models_are_refused(three, tmp_path):
    (path, *_), _ = three
    wide = small_model()
    wide.config = dataclasses.replace(
        wide.config, decoder=dataclasses.replace(wide.config.decoder, dropout=0.3)
    )
    save(tmp_path / "dropout", wide)
    deep = small_model()
    deep.decoder.blocks.append(small_model(seed=1).decoder.blocks[0])
    deep.config = dataclasses.replace(
        deep.config, decoder=dataclasses.replace(deep.config.decoder, decoder_layers=3)
    )
    save(tmp_path / "deep", deep)
    other = processor()
    other.image_processor.image_mean = 0.4
    save(tmp_path / "images", small_model(), other)
    save(tmp_path / "tokens", small_model())
    vocabulary = tmp_path / "tokens" / "tokenizer.json"
    content = json.loads(vocabulary.read_text(encoding="utf-8"))
    table = content["model"]["vocab"]
    names = [name for name, number in table.items() if number in (300, 301)]
    table[names[0]], table[names[1]] = table[names[1]], table[names[0]]
    vocabulary.write_text(json.dumps(content), encoding="utf-8")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "tokens" / name).unlink(missing_ok=True)
    (tmp_path / "broken").mkdir()
    shutil.copy(path / "config.json", tmp_path / "broken")
    for name, message in (
        ("dropout", r"differ in config\.decoder dropout \(0\.0 and 0\.3\)"),
        ("deep", r"config\.decoder decoder_layers \(2 and 3\); tensor decoder\.blocks\.2\..*; and \d+ more"),
        ("images", r"image processor image_mean \(\[0\.5, 0\.5, 0\.5\] and \[0\.4, 0\.4, 0\.4\]\)"),
        ("tokens", rf"token .*{names[0][-1]}"),
        ("broken", "no weights"),
    ):
        for average in (average_checkpoints, lambda found: greedy_soup(found, lambda m, p: 0.0)):
            with pytest.raises(SurgeryError, match=message):
                average([path, tmp_path / name])
    for sources in ([], str(path), None, [path, 3]):
        for average in (average_checkpoints, lambda found: ema_of(found, 0.5)):
            with pytest.raises(SurgeryError, match=r"sources=.*, expected checkpoints to average"):
                average(sources)
    for weights, message in (
        ([1], "1 weights for 2 checkpoints"),
        ([1, -1], "must not be negative"),
        ([0, 0], "not all of them zero"),
        ([1, float("inf")], "must not be negative"),
        ([1e308, 1e308], "must not be negative"),
        (["x", 1], "expected a number for each checkpoint"),
        (3, "expected a number for each checkpoint"),
    ):
        with pytest.raises(SurgeryError, match=message):
            average_checkpoints([path, path], weights=weights)


def test_other_generation_settings_are_told(three, tmp_path):
    (path, *_), _ = three
    model = small_model(seed=4)
    model.generation_config = model.generation_config.update(num_beams=4)
    found, _, report = average_checkpoints([path, save(tmp_path, model)])
    assert found.generation_config.num_beams != 4
    assert "generation settings differ" in report.notes[0]


def test_a_greedy_soup_takes_what_makes_it_better(three):
    paths, (a, _, c) = three
    target = {key: (a[key] + c[key]) / 2 for key in a}
    names = [path.name for path in paths]
    seen = []

    def score(model, its_processor):
        assert isinstance(its_processor, TrOCRProcessor)
        state = model.state_dict()
        seen.append(-sum(float((state[key].double() - target[key]).pow(2).sum()) for key in target))
        return seen[-1]

    found, _, report = greedy_soup(paths, score)
    assert_equal(found, average_checkpoints([paths[0], paths[2]])[0].state_dict())
    assert len(seen) == 5  # three alone, two averages
    assert report.numbers["best_score"] == max(seen[:3])
    assert report.numbers["score"] == max(seen)
    assert report.numbers["sources"] == 2
    told = [note for note in report.notes if note.startswith(("taken", "left out"))]
    assert sorted(note.partition(":")[0] for note in told) == ["left out", "taken", "taken"]
    assert names[1] in next(note for note in told if note.startswith("left out"))
    _, _, report = greedy_soup(paths, lambda model, p: float(model.encoder.norm.weight.detach().sum()))
    assert report.numbers["sources"] == 3  # equal scores stay in
    for bad in (float("nan"), None):
        with pytest.raises(SurgeryError, match=rf"score of .*m0 is {bad}, expected a number"):
            greedy_soup(paths, lambda model, p, bad=bad: bad)
    with pytest.raises(SurgeryError, match="given twice"):
        greedy_soup([paths[0], paths[0]], score)


# ---- the command ----


def invoke(*arguments):
    return CliRunner().invoke(main, ["surgery", "average", *map(str, arguments)])


def test_commands(three, tmp_path):
    paths, _ = three
    out, report = tmp_path / "out", tmp_path / "report.json"
    for options, wanted in (
        ((), average_checkpoints(paths)[0]),
        (("--weight", 1, "--weight", 0, "--weight", 3), average_checkpoints(paths, weights=[1, 0, 3])[0]),
        (("--decay", 0.8), ema_of(paths, 0.8)[0]),
    ):
        result = invoke(out, *paths, *options, "--json", report)
        assert result.exit_code == 0, result.output
        assert_equal(VisionEncoderDecoderModel.from_pretrained(out), wanted.state_dict())
        assert json.loads(report.read_text())["numbers"]["sources"] == 3
    Reader(out)
    result = invoke(out, *paths, "--weight", 1, "--decay", 0.5)
    assert result.exit_code == 2
    assert "exclude one another" in result.output
    result = invoke(out, *paths, "--weight", 1)
    assert result.exit_code == 1
    assert "1 weights for 3 checkpoints" in result.output


def test_a_command_for_a_greedy_soup_reads_lines(tmp_path):
    lines = tmp_path / "lines"
    lines.mkdir()
    rows = []
    for record in drawn_lines(3, longest=8):
        record.open().save(lines / record.name)
        rows.append(f"{record.name}\t{record.text}\n")
    (lines / "labels.tsv").write_text("".join(rows), encoding="utf-8")
    good = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    good.generation_config = good.generation_config.update(max_new_tokens=8)
    bad = copy.deepcopy(good)
    stir(bad)
    shipped = TrOCRProcessor.from_pretrained("tiny-printed")
    paths = [save(tmp_path / "bad", bad, shipped), save(tmp_path / "good", good, shipped)]
    result = invoke(tmp_path / "out", *paths, "--data", lines / "labels.tsv")
    assert result.exit_code == 0, result.output
    assert result.output.count("character error rate") == 3
    assert np.isclose(float(result.output.partition("sources ")[2].split()[0]), 1)
    assert "left out: " in result.output
    assert_equal(VisionEncoderDecoderModel.from_pretrained(tmp_path / "out"), good.state_dict())
