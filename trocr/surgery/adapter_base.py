"""A sample of a model's weights, that tells whether an adapter was made for it.

Source: original work.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PER_TENSOR = 16
"""Values that are taken of each tensor, evenly spread. Any training of it changes some of them."""

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class BaseSample:
    """Names and shapes of a model's tensors, as one number, and some values of each.

    Attributes:
        shapes: hexadecimal digest of names and shapes.
        values: (N,) in float32.
    """

    shapes: str
    values: Tensor

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "BaseSample":
        """Sample tensors; a pooler, which reading never uses and files may lack, does not count."""
        digest = hashlib.sha256()
        values = []
        for name in sorted(tensors):
            if ".pooler." in f".{name}":
                continue
            tensor = tensors[name].detach()
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            count = min(PER_TENSOR, tensor.numel())
            places = torch.arange(count, device=tensor.device) * tensor.numel() // max(count, 1)
            values.append(tensor.reshape(-1)[places].float().cpu())
        return cls(digest.hexdigest(), torch.cat(values))

    def is_of(self, other: "BaseSample") -> bool:
        """Whether both are of the same model, perhaps one of them rounded to half precision."""
        if self.shapes != other.shapes or self.values.shape != other.values.shape:
            return False
        if torch.equal(self.values, other.values):
            return True
        return any(self._is_rounded(other, dtype) or other._is_rounded(self, dtype) for dtype in _HALF)

    def _is_rounded(self, exact: "BaseSample", dtype: torch.dtype) -> bool:
        return torch.equal(self.values, exact.values.to(dtype).float())

    def to_text(self) -> dict[str, str]:
        """Write as the metadata of a safetensors file."""
        content = self.values.numpy().astype("<f4").tobytes()
        return {"trocr_base_shapes": self.shapes, "trocr_base_values": base64.b64encode(content).decode()}

    @classmethod
    def from_text(cls, metadata: Mapping[str, str]) -> "BaseSample | None":
        """Read from the metadata of a safetensors file; None where it has none.

        Raises:
            ValueError: it is damaged.
        """
        if "trocr_base_values" not in metadata:
            return None
        content = base64.b64decode(metadata["trocr_base_values"], validate=True)
        values = torch.from_numpy(np.frombuffer(content, dtype="<f4").astype(np.float32))
        return cls(metadata.get("trocr_base_shapes", ""), values)
