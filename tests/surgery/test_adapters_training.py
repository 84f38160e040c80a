"""Adapters in training: the shipped reader, states of a run, groups of the optimizer, and the command."""

import json
from itertools import islice

import pytest
import torch
from adapted import MERGED, disturb, flags, is_adapters, parameters
from click.testing import CliRunner
from drawn import IMAGE_HW, SHIPPED, drawn_lines, processor, small_model
from families import difference, load_ours

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.surgery.adapters import add_adapter, merge_adapter, save_adapter
from trocr.surgery.recipe import apply_recipe, read_recipe
from trocr.training.batches import BatchSettings, Windows, training_batches
from trocr.training.ema import EMA
from trocr.training.objective import Objective
from trocr.training.optimizer import build_optimizer, layer_scales, no_decay_names, parameter_groups
from trocr.training.option_tables import OptimizerOptions
from trocr.training.state import load_state, restore, save_state
from trocr.training.steps import train_steps

KINDS = pytest.mark.parametrize("kind", ["lora", "dora"])


class Run:
    """A run of an adapted model, as short as can be, with dropout in the base and the adapter."""

    def __init__(self, model, *, kind="lora", also_train=(), width_buckets=(64, 160)):
        add_adapter(model, kind=kind, dropout=0.1, also_train=also_train)
        self.objective = Objective(model.train())
        self.optimizer = build_optimizer(self.objective, OptimizerOptions(lr=1e-2, weight_decay=0.1))
        self.ema = EMA(self.objective, 0.9)
        self.width_buckets = width_buckets
        self.step = 0
        torch.manual_seed(1)

    def train(self, count: int, made=None) -> list[float]:
        settings = BatchSettings(size=2, lanes=2, window=2, width_buckets=self.width_buckets)
        windows = Windows(drawn_lines(16), made or processor(), settings)
        steps = train_steps(
            self.objective,
            training_batches(windows, start_step=self.step),
            self.optimizer,
            schedule=lambda step: 1e-2 / (1 + step),
            start_step=self.step,
            after_step=self.ema.update,
        )
        losses = [step.loss for step in islice(steps, count)]
        self.step += count
        return losses


@KINDS
def test_three_steps_of_the_shipped_reader_change_the_adapter_alone(kind, tmp_path):
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    base = parameters(model)
    run = Run(model, kind=kind, width_buckets=())
    own = {name for name, trains in flags(model).items() if trains}
    before = parameters(model)
    run.train(3, TrOCRProcessor.from_pretrained(SHIPPED))
    changed = {name for name, tensor in parameters(model).items() if not torch.equal(tensor, before[name])}
    assert changed == own
    assert all(map(is_adapters, own))
    assert sum(before[name].numel() for name in own) < 0.05 * sum(tensor.numel() for tensor in base.values())
    model.eval()
    pixels = torch.randn(1, 3, *model.config.encoder.image_hw)
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        expected = model(pixel_values=pixels, decoder_input_ids=start).logits
        merge_adapter(model)
        model.save_pretrained(tmp_path)
        found = load_ours(tmp_path)(pixel_values=pixels, decoder_input_ids=start).logits
    assert difference(expected, found) < MERGED


@KINDS
def test_a_state_is_saved_and_resumed(kind, tmp_path):
    also = ["encoder.norm"]
    straight = Run(small_model(dropout=0.1), kind=kind, also_train=also)
    expected = straight.train(4)
    first = Run(small_model(dropout=0.1), kind=kind, also_train=also)
    losses = first.train(2)
    save_state(tmp_path, first.objective, first.optimizer, step=2, ema=first.ema)
    second = Run(small_model(dropout=0.1, seed=3), kind=kind, also_train=also)  # all of it comes back
    second.step = restore(load_state(tmp_path), second.objective, second.optimizer, ema=second.ema)
    assert losses + second.train(2) == expected
    one, two = parameters(straight.objective), parameters(second.objective)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    averages = straight.ema.state_dict()
    assert len(averages) == 1 + sum(flags(straight.objective).values())


@KINDS
def test_groups_of_the_optimizer(kind):
    model = small_model()
    add_adapter(model, kind=kind, also_train=["decoder.embed_norm"])
    objective = Objective(model)
    scales = layer_scales(objective, 0.5)
    assert scales["model.decoder.blocks.0.self_attn.q_proj.lora_a"] == 0.25
    assert scales["model.encoder.blocks.1.self_attn.v_proj.lora_b"] == 0.5
    groups = parameter_groups(objective, weight_decay=0.1, layer_decay=0.5)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, trained))
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    spared = no_decay_names(objective)
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert decays[id(parameter)] == (0.1 if name.endswith(("lora_a", "lora_b")) else 0.0), name
            assert (name in spared) == (decays[id(parameter)] == 0.0)


@KINDS
def test_the_command_and_the_recipe(kind, tmp_path):
    model = small_model().eval()
    model.save_pretrained(tmp_path / "base")
    made = processor()
    made.save_pretrained(tmp_path / "base")
    add_adapter(model, kind=kind, also_train=["encoder.norm"])
    disturb(model)
    with torch.no_grad():
        model.encoder.norm.bias += 1
    save_adapter(model, tmp_path / "adapter")
    arguments = [str(tmp_path / "base"), str(tmp_path / "out"), "--adapter", str(tmp_path / "adapter")]
    report = tmp_path / "report.json"
    result = CliRunner().invoke(
        main, ["surgery", "merge-adapter", *arguments, "--json", str(report)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert "merge_adapter: " in result.output
    assert json.loads(report.read_text())["counts"]["merged"] == 12
    pixels, tokens = torch.randn(2, 3, *IMAGE_HW), torch.tensor([[2, 7, 9], [2, 8, 4]])
    batch = {"pixel_values": pixels, "decoder_input_ids": tokens}
    with torch.no_grad():
        expected = model(**batch).logits
        merged = load_ours(tmp_path / "out")
        assert difference(expected, merged(**batch).logits) < MERGED
        assert (
            TrOCRProcessor.from_pretrained(tmp_path / "out").image_processor.size == made.image_processor.size
        )
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(f"[[operation]]\nname = 'merge_adapter'\nadapter = '{tmp_path / 'adapter'}'\n")
        other = load_ours(tmp_path / "base")
        (done,) = apply_recipe(other, read_recipe(recipe), processor=made)
        assert torch.equal(other(**batch).logits, merged(**batch).logits)
    assert done.counts()["carried"] == 2


def test_the_command_for_another_base(tmp_path):
    model = small_model()
    add_adapter(model)
    save_adapter(model, tmp_path / "adapter")
    other = small_model(seed=1)
    other.save_pretrained(tmp_path / "other")
    processor().save_pretrained(tmp_path / "other")
    arguments = [str(tmp_path / "other"), str(tmp_path / "out"), "--adapter", str(tmp_path / "adapter")]
    result = CliRunner().invoke(main, ["surgery", "merge-adapter", *arguments])
    assert result.exit_code == 1
    assert "the adapter is for another base" in result.output
    assert not (tmp_path / "out").exists()
