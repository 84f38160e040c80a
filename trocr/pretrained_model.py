"""What every public model can do: load, save, tell its size, switch attention and checkpointing.

Source: method names of `PreTrainedModel` of `transformers` 5.23.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Self

import torch
from torch import nn

from trocr.checkpoint import choose_table, has_module, load_weights, save_checkpoint
from trocr.config_base import BaseConfig
from trocr.config_read import DTYPES, ConfigError
from trocr.decoder import TextDecoder
from trocr.encoder import ImageEncoder
from trocr.hub import locate
from trocr.nn.attention import Core, set_attention
from weights_conversion.files import WeightFile, open_weights
from weights_conversion.rename import Table

Dtype = torch.dtype | str | None


def resolve_dtype(asked: Dtype, config: BaseConfig) -> torch.dtype:
    """Decide the precision in memory: what the caller asks for, else the configuration's, else float32.

    Raises:
        ConfigError: not a floating point type by name.
    """
    name = asked if asked not in (None, "auto") else config.dtype or "float32"
    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is unknown, expected one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, str(name))
    return dtype


class PretrainedModel(nn.Module):
    """Base of the public models.

    Attributes:
        config: the configuration that the modules were built from; replace it when you change them.
        tables: dialects that files of this model may be written in; the first one is written.
    """

    config: Any
    config_class: ClassVar[type[BaseConfig]]
    tables: ClassVar[Sequence[Table]]

    @classmethod
    def _build(cls, config: Any, has: Callable[[str], bool]) -> Self:
        """Build from a configuration and from what the file holds beyond it (`has("encoder.pooler")`)."""
        return cls(config)

    def _twin(self) -> nn.Module:
        """Build this model anew from its configuration."""
        return type(self)(self.config)

    @property
    def tied(self) -> dict[str, str]:
        """Names of parameters that share another's tensor -> the name of that one."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.parameters()).dtype

    def num_parameters(self, *, only_trainable: bool = False) -> int:
        """Count parameters, each shared one once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the projection to a vocabulary; None for a model without one."""
        return None

    def set_attention(self, core: Core) -> None:
        """Choose the attention core, "sdpa" or "eager", for every attention of this model."""
        set_attention(self, core)

    def set_attn_implementation(self, attn_implementation: Core) -> None:
        """Second name of `set_attention`."""
        self.set_attention(attn_implementation)

    def gradient_checkpointing_enable(
        self, enabled: bool = True, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Recompute blocks in the backward pass of training, for less memory.

        Args:
            enabled: False keeps activations again.
            gradient_checkpointing_kwargs: taken for the sake of `transformers`' scripts. `use_reentrant` is
                all that it may hold, and changes nothing: the gradients are the same, and the way of doing it
                is always the one that PyTorch recommends.
        Raises:
            ValueError: `gradient_checkpointing_kwargs` holds something else.
        """
        others = set(gradient_checkpointing_kwargs or ()) - {"use_reentrant"}
        if others:
            raise ValueError(
                f"gradient_checkpointing_kwargs holds {', '.join(sorted(others))}, expected nothing but "
                "use_reentrant"
            )
        for module in self.modules():
            if isinstance(module, ImageEncoder | TextDecoder):
                module.gradient_checkpointing = enabled

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass of training."""
        parts = [m for m in self.modules() if isinstance(m, ImageEncoder | TextDecoder)]
        return any(part.gradient_checkpointing for part in parts)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations for the backward pass, for more speed."""
        self.gradient_checkpointing_enable(False)

    def tie_weights(self) -> None:
        """Let tied parameters share one tensor again, after one of them was replaced."""
        for name, other in self.tied.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, self.get_parameter(other))

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        config: BaseConfig | None = None,
        dtype: Dtype = None,
        torch_dtype: Dtype = None,
        device: torch.device | str = "cpu",
        attn_implementation: Core = "sdpa",
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Load a model, in evaluation mode.

        Args:
            source: a directory in the Hugging Face layout, a shipped model or a Hub id.
            config: instead of the directory's own.
            dtype: precision in memory, as a `torch.dtype` or its name; None or "auto" take the
                configuration's, and float32 where that has none, whatever precision the file stores.
            torch_dtype: second name of `dtype`.
            device: where to load to.
            attn_implementation: "sdpa" or "eager".
            revision: branch, tag or commit on the Hub.
            cache_dir: folder of the Hub's cache.
            local_files_only: never use the network.
            token: Hub token.
        Raises:
            HubError: the files are neither here nor reachable.
            ConfigError: a configuration with unknown or contradictory values.
            GenerationError: a generation_config.json with such values, of a model that generates.
            WeightFileError: a weight file that is damaged, incomplete, or contains code.
            KeyMapError: unknown, missing or misshapen tensors, all in one message.
            CheckpointError: NaN or infinite values, or tied tensors that differ.
        """
        path = locate(
            source,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        if config is None:
            config = cls.config_class.from_pretrained(path)
        wanted = dtype if dtype is not None else torch_dtype
        with open_weights(path) as weights:
            model = cls.from_weights(weights, config, dtype=wanted, device=device)
        model.set_attention(attn_implementation)
        model._loaded_from(path)
        return model

    @classmethod
    def from_weights(
        cls,
        weights: WeightFile,
        config: BaseConfig,
        *,
        table: Table | None = None,
        dtype: Dtype = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load a model from an open weight file of any dialect, in evaluation mode.

        Args:
            weights: see `weights_conversion.files.open_weights`.
            config: the architecture.
            table: dialect that the file is written in; None takes the one of Hugging Face that knows most of
                its names.
            dtype: see `from_pretrained`.
            device: where to load to.
        Raises:
            KeyMapError: unknown, missing or misshapen tensors, all in one message.
            CheckpointError: NaN or infinite values, or tied tensors that differ.
        """
        table = table or choose_table(list(weights.shapes), cls.tables)
        model = cls.skeleton(weights, config, table=table)
        load_weights(
            model,
            weights,
            table=table,
            tied=model.tied,
            dtype=resolve_dtype(dtype, config),
            device=torch.device(device),
        )
        model.tie_weights()
        return model.eval()

    @classmethod
    def skeleton(cls, weights: WeightFile, config: BaseConfig, *, table: Table) -> Self:
        """Build the model that a configuration and a weight file describe, on the meta device."""
        with torch.device("meta"):
            try:
                return cls._build(config, lambda module: has_module(weights, table, module))
            except RuntimeError as error:
                raise ConfigError(
                    f"no model can be built from the configuration of {weights.path} ({error}); its sizes "
                    "must be those of the weights: take both from one checkpoint"
                ) from error

    def _loaded_from(self, path: Any) -> None:
        """Read what else the directory holds."""

    def save_pretrained(
        self, directory: str | PathLike[str], *, storage_dtype: torch.dtype | None = None
    ) -> None:
        """Write a directory that `transformers` 4 and 5 and `from_pretrained` load.

        Args:
            directory: made where it is missing; a checkpoint in it is replaced only after the new one is
                written.
            storage_dtype: precision in the file; None keeps the precision in memory. The configuration always
                says the precision in memory.
        Raises:
            CheckpointError: the modules are not what the configuration describes.
            OSError: cannot write; an old checkpoint in the directory is whole then.
        """
        save_checkpoint(
            self,
            directory,
            table=self.tables[0],
            tied=self.tied,
            files=self._json_files(),
            rebuild=self._twin,
            storage_dtype=storage_dtype,
        )

    def _json_files(self) -> Mapping[str, Mapping[str, Any]]:
        config = dataclasses.replace(self.config, dtype=str(self.dtype).removeprefix("torch."))
        return {"config.json": {**config.to_dict(), "architectures": [type(self).__name__]}}
