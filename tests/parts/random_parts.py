"""Random image and text models, and our models filled from their parts."""

import json

import torch
import transformers

from trocr.models import ENCODERS, TrOCRForCausalLM

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
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"][:40]


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


def decoder_of(part):
    model = TrOCRForCausalLM(part.config).eval()
    with torch.no_grad():
        for name, value in part.weights.items():
            model.get_parameter(name).copy_(value)
    return model


def save_text_model(folder, kind, task, **options):
    """A random model of transformers with a tokenizer."""
    folder.mkdir(exist_ok=True)
    config = {
        "bert": transformers.BertConfig(**TEXT, max_position_embeddings=30, pad_token_id=0),
        "roberta": transformers.RobertaConfig(
            **TEXT, max_position_embeddings=32, type_vocab_size=1, **options
        ),
        "xlm-roberta": transformers.XLMRobertaConfig(**TEXT, max_position_embeddings=32, type_vocab_size=1),
    }[kind]
    config.is_decoder = True
    model = shaken(task(config))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return model
