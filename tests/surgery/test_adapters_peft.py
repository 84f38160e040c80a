"""Adapters between `peft` and us: what it reads of ours, what we read of it, and how both train."""

import warnings

import pytest
import torch
from adapted import EVERYWHERE, MERGED, disturb, flags, logits, look, parameters, rewrite
from families import difference, images, labels, load_hf
from safetensors.torch import load_file, save_file

from trocr.surgery.adapter_files import WEIGHTS_NAME as WEIGHTS
from trocr.surgery.adapter_state import find_adapted
from trocr.surgery.adapters import add_adapter, load_adapter, merge_adapter, remove_adapter, save_adapter
from trocr.surgery.patterns import SurgeryError
from weights_conversion.hf import HF, HF_MEMORY

peft = pytest.importorskip("peft")

KINDS = pytest.mark.parametrize("kind", ["lora", "dora"])
PREFIX = "base_model.model."

GRADIENTS = 1e-4
"""Largest difference of gradients, relative to the largest of the same tensor; the project's bound."""


def in_peft(pair, directory, **options):
    """The reference's model with a saved adapter; a name that does not fit is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected|not initialized).*")
        return peft.PeftModel.from_pretrained(load_hf(pair.directory), directory, **options).eval()


def with_peft(pair, directory, **options):
    """An adapter that `peft` makes and saves, every part of it with an effect."""
    torch.manual_seed(4)
    model = peft.get_peft_model(load_hf(pair.directory), peft.LoraConfig(**options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape))
            elif "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(directory)
    return model


@KINDS
def test_peft_reads_ours(pair, kind, tmp_path):
    model = pair.fresh()
    also = ["decoder.blocks.1.attn_norm", "encoder.embeddings.cls_token", "decoder.output_projection"]
    add_adapter(model, modules=EVERYWHERE, kind=kind, rank=3, alpha=7, also_train=also)
    disturb(model)
    with torch.no_grad():
        for name in ("decoder.blocks.1.attn_norm.bias", "decoder.output_projection.weight"):
            model.get_parameter(name).add_(0.1 * torch.randn(model.get_parameter(name).shape))
    save_adapter(model, tmp_path, base=str(pair.directory))
    reference = in_peft(pair, tmp_path)
    assert difference(logits(model, pair), logits(reference, pair)) < MERGED
    assert difference(logits(pair.ours, pair), logits(model, pair)) > 0.05
    found = sum(1 for name, _ in reference.named_modules() if name.endswith("lora_A"))
    assert found == len(find_adapted(model))  # no other layer got one
    merged = reference.merge_and_unload()
    merge_adapter(model)
    assert difference(logits(model, pair), logits(merged, pair)) < MERGED


@KINDS
def test_training_goes_as_in_peft(pair, kind, tmp_path):
    model = pair.fresh()
    add_adapter(model, modules="*_attn.[qv]_proj", kind=kind, rank=3)
    disturb(model)
    save_adapter(model, tmp_path)
    reference = in_peft(pair, tmp_path, is_trainable=True)
    batch = {"pixel_values": images(pair.family, 2), "labels": labels(2, 6)}
    ours, theirs = model(**batch).loss, reference(**batch).loss
    assert difference(theirs, ours) < MERGED
    ours.backward()
    theirs.backward()
    expected = {name: p.grad for name, p in reference.named_parameters() if p.requires_grad}
    leaves = {"lora_a": "lora_A.default.weight", "lora_b": "lora_B.default.weight"}
    leaves["magnitude"] = "lora_magnitude_vector.default.weight"
    seen = 0
    for name, layer in find_adapted(model).items():
        (back, _) = HF_MEMORY.source_of(f"{name}.weight")
        for leaf, parameter in layer.adapter_parameters().items():
            key = f"{PREFIX}{back.removesuffix('weight')}{leaves[leaf]}"
            assert difference(expected[key], parameter.grad) < GRADIENTS, name
            seen += 1
    assert seen == len(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 6},
        {"target_modules": "all-linear", "use_dora": True, "exclude_modules": ".*pooler.*"},
        {
            "target_modules": r".*layers\.\d.*(fc1|k_proj|o_proj|out_proj)",
            "use_rslora": True,
            "lora_dropout": 0.1,
            "init_lora_weights": "gaussian",
        },
        {
            "target_modules": ["q_proj", "fc2"],
            "rank_pattern": {"decoder.*q_proj": 2, "layers.1.mlp.fc2": 5},
            "alpha_pattern": {"layers.0.fc2": 3},
            "modules_to_save": ["layernorm", "embed_positions"],
        },
    ],
    ids=["plain", "dora", "rslora", "patterns"],
)
@pytest.mark.parametrize("family", ["learned", "unilm", "projection"])
def test_we_read_what_peft_saved(pair_of, options, family, tmp_path):
    pair = pair_of(family)
    reference = with_peft(pair, tmp_path / "theirs", **options)
    model = pair.fresh()
    base = parameters(model)
    report = load_adapter(model, tmp_path / "theirs")
    assert difference(logits(reference, pair), logits(model, pair)) < MERGED
    trained = {name for name, trains in flags(model).items() if trains}
    assert {change.name for change in report.changes} == trained
    assert len(trained) == sum(p.requires_grad for p in reference.parameters())
    save_adapter(model, tmp_path / "ours")  # ranks and alphas of their own included
    assert difference(logits(reference, pair), logits(in_peft(pair, tmp_path / "ours"), pair)) < MERGED
    again = pair.fresh()
    load_adapter(again, tmp_path / "ours")
    assert torch.equal(logits(again, pair), logits(model, pair))
    remove_adapter(model)
    assert all(torch.equal(tensor, base[name]) for name, tensor in parameters(model).items())


def test_names_of_transformers_4_are_read(pair_of, tmp_path):
    pair = pair_of("learned")
    reference = with_peft(pair, tmp_path, target_modules=["q_proj", "fc1"], modules_to_save=["layernorm"])
    renamed = {}
    for key, tensor in load_file(tmp_path / WEIGHTS).items():
        name, dot, leaf = key.removeprefix(PREFIX).partition(".lora_")
        stem = f"{name}.weight" if dot else name
        (ours,) = HF_MEMORY.forward([stem])[stem]
        back = HF.source_of(ours)[0]
        renamed[PREFIX + (back.removesuffix(".weight") + dot + leaf if dot else back)] = tensor
    assert f"{PREFIX}encoder.encoder.layer.0.attention.attention.query.lora_A.weight" in renamed
    save_file(renamed, tmp_path / WEIGHTS)
    model = pair.fresh()
    load_adapter(model, tmp_path)
    assert difference(logits(reference, pair), logits(model, pair)) < MERGED


def test_files_of_pickled_tensors_are_read(pair_of, tmp_path):
    pair = pair_of("learned")
    reference = with_peft(pair, tmp_path, target_modules=["q_proj"])
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "adapter_model.bin")
    (tmp_path / WEIGHTS).unlink()
    model = pair.fresh()
    load_adapter(model, tmp_path)
    assert difference(logits(reference, pair), logits(model, pair)) < MERGED


def test_peft_finds_the_base_by_its_name(pair_of, tmp_path):
    pair = pair_of("learned")
    model = pair.fresh()
    add_adapter(model)
    disturb(model)
    save_adapter(model, tmp_path, base=str(pair.directory))
    reference = peft.AutoPeftModel.from_pretrained(tmp_path).eval()
    assert difference(logits(model, pair), logits(reference, pair)) < MERGED


def test_tied_parameters_that_peft_trained_apart(pair_of, tmp_path):
    pair = pair_of("learned")
    with_peft(pair, tmp_path, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    model = pair.fresh()
    before = look(model)
    with pytest.raises(
        SurgeryError, match=r"embed_tokens\.weight was trained apart from .*output_projection"
    ):
        load_adapter(model, tmp_path)
    both = load_file(tmp_path / WEIGHTS)
    name = f"{PREFIX}decoder.model.decoder.embed_tokens.weight"
    rewrite(tmp_path, tensors={f"{PREFIX}decoder.output_projection.weight": both[name] + 1})
    with pytest.raises(SurgeryError, match="trained apart"):
        load_adapter(model, tmp_path)
    assert look(model) == before
    rewrite(tmp_path, tensors={f"{PREFIX}decoder.output_projection.weight": both[name]})
    load_adapter(model, tmp_path)
    assert torch.equal(model.decoder.output_projection.weight, both[name])
    apart = pair_of("sinusoidal")
    reference = with_peft(apart, tmp_path / "b", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    model = apart.fresh()
    load_adapter(model, tmp_path / "b")
    assert difference(logits(reference, apart), logits(model, apart)) < MERGED


def test_generation_is_that_of_peft(pair_of, tmp_path):
    pair = pair_of("learned")
    model = pair.fresh()
    add_adapter(model, modules=EVERYWHERE)
    disturb(model)
    save_adapter(model, tmp_path)
    pixels = images(pair.family, 2)
    options = {"max_new_tokens": 10, "num_beams": 3, "do_sample": False}
    theirs = in_peft(pair, tmp_path).generate(pixel_values=pixels, decoder_start_token_id=2, **options)
    assert torch.equal(model.generate(pixels, **options), theirs)
