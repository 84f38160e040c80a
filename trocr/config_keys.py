"""Keys of ``config.json`` that are not fields of ours, in named sets, so that none is ignored by accident.

Source: files written by `transformers` 4.12 to 5.23; generation defaults lived in ``config.json`` until 4.2x.
"""

from typing import Any, Final

BOOKKEEPING: Final = frozenset(
    # identity and provenance
    {"architectures", "transformers_version", "name_or_path", "model_type", "auto_map", "tokenizer_class"}
    # classification heads and pipelines, which TrOCR does not have
    | {
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "prefix",
    }
    | {"classifier_dropout"}
    # how the Python objects of `transformers` behave, not what they compute
    | {
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "use_bfloat16",
        "tf_legacy_loss",
        "torchscript",
        "attn_implementation",  # both cores give the same result; `set_attention` of a model chooses
    }
    # ids that nothing in TrOCR reads
    | {"sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id"}
)
"""Keys that do not change what the model computes. Keys that begin with an underscore belong here too."""

GENERATION: Final[dict[str, Any]] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "length_penalty": 1.0,
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_scores": False,
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "return_dict_in_generate": False,
    "suppress_tokens": None,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
}
"""Generation settings that old files keep in ``config.json``, with the library defaults of that time.

Values that differ from these were chosen by somebody and are kept in ``generation_defaults``.
"""

FIXED_VALUES: Final[dict[str, tuple[Any, str]]] = {
    "pruned_heads": (
        {},
        "heads pruned by `transformers` leave other weight shapes; prune with this library instead",
    ),
    "chunk_size_feed_forward": (0, "feed-forward chunking is not implemented"),
    "tie_encoder_decoder": (False, "an image encoder and a text decoder share no weights"),
    "quantization_config": (None, "quantised checkpoints cannot be read"),
}
"""Keys of which one value only is supported, with the reason."""

ALIASES: Final[dict[str, dict[str, str]]] = {
    "trocr": {
        "hidden_size": "d_model",
        "num_hidden_layers": "decoder_layers",
        "num_attention_heads": "decoder_attention_heads",
    }
}
"""Second names of fields, by model type (``attribute_map`` of `transformers`)."""
