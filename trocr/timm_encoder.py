"""An image encoder whose layers are a backbone of timm.

Maps of features are flattened row by row. A vision transformer brings positions and prefix tokens along; a
map tells of its position by padding and neighbours at most, so a learned table of positions can be added.

Source: `TimmWrapperModel` of `transformers` 5.23; `forward_intermediates` of timm 1.0.
Differs: `transformers` takes `forward_features` always, and leaves maps as they are, which no decoder reads.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trocr.encoder import ImageEncoder
from trocr.nn.embeddings import Table
from trocr.outputs import BaseModelOutput
from trocr.timm_backbone import States, create_backbone, flatten, has_channels_last, take_features


class ImageGrid:
    """Sizes that an encoder is made for, by the names that `ImageEmbeddings` has.

    Attributes:
        image_hw: (height, width) in pixels.
        num_prefix: states that are not places of the image; they come first.
    """

    def __init__(self, states: States, *, image_hw: tuple[int, int]) -> None:
        self._states = states
        self.image_hw = image_hw
        rows, columns = states.grid or (1, states.count)
        self.num_prefix = states.count - rows * columns

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of places.

        Raises:
            ValueError: the backbone does not tell.
        """
        if self._states.grid is None:
            raise ValueError(
                f"the {self._states.count} states of this timm backbone form no grid that is known"
            )
        return self._states.grid

    @property
    def patch_hw(self) -> tuple[int, int]:
        """(height, width) in pixels between places."""
        return -(-self.image_hw[0] // self.grid[0]), -(-self.image_hw[1] // self.grid[1])

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a timm backbone has no embeddings of this library, and no {name!r}; it is made for images of "
            "one size: replace the encoder to change that"
        )


class StatePositions(Table):
    """A learned table of positions that is added to states.

    Args:
        count: S.
        width: D.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, S, D) to the same."""
        return x + self.weight


class TimmEncoder(ImageEncoder):
    """A backbone of timm, its features as a sequence of states, and positions where they are wanted.

    Args:
        backbone: made by `create_backbone`.
        architecture: what it was made of.
        model_args: what it was made with.
        states: what it gives; see `measure`.
        image_hw: (height, width) of images in pixels.
        channels: C.
        has_positions: add a learned table of positions.

    Attributes:
        backbone: timm's module.
        positions: `StatePositions`, or the identity.
        embeddings: sizes of the image and the grid; no module.
        blocks: none: timm's are in the backbone.
        num_states: S.
        shared: name -> name of parameters inside that share one tensor.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        architecture: str,
        model_args: Mapping[str, Any],
        states: States,
        image_hw: tuple[int, int],
        channels: int,
        has_positions: bool,
    ) -> None:
        nn.Module.__init__(self)
        self.backbone = backbone
        self.positions = StatePositions(states.count, states.width) if has_positions else nn.Identity()
        self.embeddings = ImageGrid(states, image_hw=image_hw)  # type: ignore[assignment]
        self.blocks = nn.ModuleList()
        self.norm = nn.Identity()
        self.pooler = None
        self.num_states = states.count
        self.channels = channels
        self.model_args = dict(model_args)
        self._anew = partial(create_backbone, architecture, dict(model_args))
        self._checkpoints = False
        self.shared = _shared(self)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether timm recomputes blocks in the backward pass of training.

        Raises:
            ValueError: it is set, and this backbone cannot.
        """
        return self._checkpoints

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enabled: bool) -> None:
        if enabled == self._checkpoints:
            return
        try:
            self.backbone.set_grad_checkpointing(enabled)  # type: ignore[operator]
        except (AttributeError, AssertionError, NotImplementedError) as error:
            kind = type(self.backbone).__name__
            raise ValueError(f"{kind} of timm has no gradient checkpointing; train without it") from error
        self._checkpoints = enabled

    def forward(
        self,
        pixel_values: Tensor,
        *,
        interpolate_pos_encoding: bool = False,
        crop_pos_encoding: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:
        """Encode images.

        Args:
            pixel_values: (B, C, height, width), normalised; converted to the weights' dtype.
            interpolate_pos_encoding: must be false.
            crop_pos_encoding: accept narrower images, lines whose padding on the right was left out; the last
                column is repeated to the full width, which puts flat padding back, so no time is saved.
            output_attentions: must be false: timm does not give them.
            output_hidden_states: give the features of the backbone's stages or blocks, each as (B, S', D'),
                without prefix tokens, positions and last norm; sizes differ among stages.
            return_dict: False gives a plain tuple of the fields that are present.
        Returns:
            See `BaseModelOutput`; S is prefix tokens, where the backbone has any, and places, row by row.
        Raises:
            ValueError: an option that must be false is not, images of another size or with other channels, or
                a backbone without hidden states.
        """
        if interpolate_pos_encoding:
            raise ValueError(
                "a timm backbone takes images of one size only: its positions cannot be interpolated; "
                "replace the encoder to read images of another size"
            )
        pixel_values = self._full_width(pixel_values, is_cropped=crop_pos_encoding)
        if output_attentions:
            raise ValueError(
                "a timm backbone does not give its attentions; for those of the decoder, encode first and "
                "pass encoder_outputs=model.encode(pixel_values)"
            )
        pixel_values = pixel_values.to(next(self.backbone.parameters()).dtype)
        is_last = has_channels_last(self.backbone)
        maps: tuple[Tensor, ...] | None = None
        if output_hidden_states:
            features, maps = self._with_maps(pixel_values, is_last)
        else:
            features = take_features(self.backbone, self.model_args, pixel_values)
        x = self.norm(self.positions(flatten(features, is_last=is_last)))
        output = BaseModelOutput(last_hidden_state=x, hidden_states=maps)
        return output.to_tuple() if return_dict is False else output

    def _with_maps(self, pixel_values: Tensor, is_last: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        backbone: Any = self.backbone
        if self.model_args.get("features_only"):
            found = backbone(pixel_values)
            return found[-1], tuple(flatten(part, is_last=is_last) for part in found)
        if not hasattr(backbone, "forward_intermediates"):
            raise ValueError(
                f"{type(backbone).__name__} of timm gives no hidden states (forward_intermediates)"
            )
        features, found = backbone.forward_intermediates(pixel_values)  # maps have the channels first
        if self.model_args.get("global_pool") == "":
            features = backbone.forward_head(features)
        return features, tuple(flatten(part, is_last=False) for part in found)

    def _full_width(self, pixel_values: Tensor, *, is_cropped: bool) -> Tensor:
        """Check images, and give cropped ones their width back."""
        height, width = self.embeddings.image_hw
        missing = width - pixel_values.shape[-1]
        if is_cropped and missing > 0:
            last = pixel_values[..., -1:]
            pixel_values = torch.cat((pixel_values, last.expand(*last.shape[:-1], missing)), dim=-1)
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (self.channels, height, width):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}, expected (batch, {self.channels}, "
                f"{height}, {width}): channels, height and width of the images that the encoder is made for"
            )
        return pixel_values

    def fill_buffers(self, *, device: torch.device, dtype: torch.dtype) -> None:
        """Compute the buffers that no file holds, for an encoder that was made on the meta device.

        Args:
            device: where they go.
            dtype: precision of those that hold floating point numbers.
        """
        missing = [name for name, buffer in self.backbone.named_buffers() if buffer.is_meta]
        if not missing:
            return
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            given = dict(self._anew().named_buffers())
        for name in missing:
            owner, _, leaf = name.rpartition(".")
            buffer = given[name].to(device, dtype if given[name].is_floating_point() else None)
            setattr(self.backbone.get_submodule(owner), leaf, buffer)


def _shared(module: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name:
            found[name] = other
    return found
