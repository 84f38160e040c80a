"""Hugging Face's names of TrOCR, ViT, DeiT and timm wrapper checkpoints.

Two dialects: the names in files, which transformers 4.x and 5.x both write, and the names that a model of 5.x
has in memory, which people get who save `model.state_dict()` themselves.

Source: transformers 5.23, models vit, deit, timm_wrapper and trocr and its conversion mapping; the official
files' keys.
"""

from collections.abc import Mapping

from weights_conversion.rename import Stems, Table

_EMBEDDINGS: dict[str, Stems] = {
    "embeddings.cls_token": "embeddings.cls_token",
    "embeddings.distillation_token": "embeddings.distillation_token",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embeddings",
}
_TOP: dict[str, Stems] = {"layernorm": "norm", "pooler.dense": "pooler.dense"}

ENCODER_RULES: dict[str, Stems] = {
    **_EMBEDDINGS,
    "encoder.layer.{i}.layernorm_before": "blocks.{i}.attn_norm",
    "encoder.layer.{i}.attention.attention.query": "blocks.{i}.self_attn.q_proj",
    "encoder.layer.{i}.attention.attention.key": "blocks.{i}.self_attn.k_proj",
    "encoder.layer.{i}.attention.attention.value": "blocks.{i}.self_attn.v_proj",
    "encoder.layer.{i}.attention.output.dense": "blocks.{i}.self_attn.out_proj",
    "encoder.layer.{i}.layernorm_after": "blocks.{i}.mlp_norm",
    "encoder.layer.{i}.intermediate.dense": "blocks.{i}.mlp.fc1",
    "encoder.layer.{i}.output.dense": "blocks.{i}.mlp.fc2",
    **_TOP,
}

ENCODER_MEMORY_RULES: dict[str, Stems] = {
    **_EMBEDDINGS,
    "layers.{i}.layernorm_before": "blocks.{i}.attn_norm",
    "layers.{i}.attention.q_proj": "blocks.{i}.self_attn.q_proj",
    "layers.{i}.attention.k_proj": "blocks.{i}.self_attn.k_proj",
    "layers.{i}.attention.v_proj": "blocks.{i}.self_attn.v_proj",
    "layers.{i}.attention.o_proj": "blocks.{i}.self_attn.out_proj",
    "layers.{i}.layernorm_after": "blocks.{i}.mlp_norm",
    "layers.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "layers.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    **_TOP,
}

_CROSS = {name: f"cross_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")}

DECODER_STACK_RULES: dict[str, Stems] = {
    "embed_tokens": "embed_tokens",
    "embed_positions": "embed_positions",
    "layernorm_embedding": "embed_norm",
    "layers.{i}.self_attn.q_proj": "blocks.{i}.self_attn.q_proj",
    "layers.{i}.self_attn.k_proj": "blocks.{i}.self_attn.k_proj",
    "layers.{i}.self_attn.v_proj": "blocks.{i}.self_attn.v_proj",
    "layers.{i}.self_attn.out_proj": "blocks.{i}.self_attn.out_proj",
    "layers.{i}.self_attn_layer_norm": "blocks.{i}.attn_norm",
    **{f"layers.{{i}}.encoder_attn.{name}": f"blocks.{{i}}.{ours}" for name, ours in _CROSS.items()},
    "layers.{i}.encoder_attn_layer_norm": "blocks.{i}.cross_attn_norm",
    "layers.{i}.fc1": "blocks.{i}.mlp.fc1",
    "layers.{i}.fc2": "blocks.{i}.mlp.fc2",
    "layers.{i}.final_layer_norm": "blocks.{i}.mlp_norm",
}

TIMM_RULES: dict[str, Stems] = {"timm_model.*": "backbone.*", "positions": "positions"}
"""timm's own names inside, as `TimmWrapperModel` of transformers writes them; it has no positions."""

SINUSOIDAL_DUMMY = "a placeholder of transformers 4.x and fairseq; sinusoidal positions are computed"
_DECODER_IGNORED = {"embed_positions._float_tensor": SINUSOIDAL_DUMMY}
_ENCODER_IGNORED = {
    "embeddings.position_ids": "a constant index buffer of old releases",
    "embeddings.mask_token": "used in masked image modelling only",
}


def prefixed(rules: Mapping[str, Stems], source: str, ours: str = "") -> dict[str, Stems]:
    """The same rules with a prefix before the other dialect's stems, and one before ours."""
    return {
        source + stem: ours + target if isinstance(target, str) else tuple(ours + one for one in target)
        for stem, target in rules.items()
    }


def under(ignored: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The same ignored set with a prefix before the stems."""
    return {prefix + stem: reason for stem, reason in ignored.items()}


DECODER_RULES: dict[str, Stems] = {
    **prefixed(DECODER_STACK_RULES, "model.decoder."),
    "output_projection": "output_projection",
}
DECODER_IGNORED = under(_DECODER_IGNORED, "model.decoder.")


def _whole(encoder: Mapping[str, Stems], name: str) -> Table:
    rules = {
        **prefixed(encoder, "encoder.", "encoder."),
        **prefixed(DECODER_RULES, "decoder.", "decoder."),
        **prefixed(TIMM_RULES, "encoder.", "encoder."),
        "enc_to_dec_proj": "enc_to_dec_proj",
    }
    return Table(
        rules,
        ignored={**under(_ENCODER_IGNORED, "encoder."), **under(DECODER_IGNORED, "decoder.")},
        name=name,
    )


def _image_model(encoder: Mapping[str, Stems], prefix: str, name: str) -> Table:
    heads = {
        "classifier": "an image classifier's head",
        "cls_classifier": "an image classifier's head",
        "distillation_classifier": "an image classifier's head",
        "decoder.{i}": "the head of masked image modelling",
    }
    ignored = {**under(_ENCODER_IGNORED, prefix), **(heads if prefix else {})}
    return Table(prefixed(encoder, prefix), ignored=ignored, name=name)


HF = _whole(ENCODER_RULES, "hf")
HF_MEMORY = _whole(ENCODER_MEMORY_RULES, "hf5")
HF_DECODER = Table(DECODER_RULES, ignored=DECODER_IGNORED, name="hf-decoder")
HF_STACK = Table(DECODER_STACK_RULES, ignored=_DECODER_IGNORED, name="hf-stack")
HF_ENCODER = _image_model(ENCODER_RULES, "", "hf-encoder")
HF_ENCODER_MEMORY = _image_model(ENCODER_MEMORY_RULES, "", "hf5-encoder")
HF_TIMM = Table(TIMM_RULES, name="hf-timm")
HF_VIT = _image_model(ENCODER_RULES, "vit.", "hf-vit")
HF_DEIT = _image_model(ENCODER_RULES, "deit.", "hf-deit")

MODEL_TABLES = (HF, HF_MEMORY)
DECODER_TABLES = (HF_DECODER,)
STACK_TABLES = (HF_STACK,)
ENCODER_TABLES = (HF_ENCODER, HF_ENCODER_MEMORY, HF_VIT, HF_DEIT)
TIMM_TABLES = (HF_TIMM,)
