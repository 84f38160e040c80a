"""What an image processor returns: a dictionary whose entries are attributes too.

Source: transformers 5.23 `feature_extraction_utils.py` (`BatchFeature`).
"""

from collections import UserDict
from typing import Any, Self


class BatchFeature(UserDict[str, Any]):
    """Named arrays of a batch, such as `pixel_values`.

    `batch["pixel_values"]` and `batch.pixel_values` are the same; `model.generate(**batch)` unpacks it.

    Attributes:
        data: the plain dictionary.
    """

    def __getattr__(self, name: str) -> Any:
        if name != "data" and name in self.data:
            return self.data[name]
        raise AttributeError(f"the batch has no {name!r}; it has {', '.join(self.__dict__.get('data', ()))}")

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the tensors of the batch, in place.

        Args:
            args, kwargs: those of `torch.Tensor.to`: a device, a dtype or both. Only floating point tensors
                take the dtype. What is not a tensor stays as it is.
        Returns:
            The batch itself.
        """
        import torch

        def move(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(move(item) for item in value)
            if not isinstance(value, torch.Tensor):
                return value
            moved = value.to(*args, **kwargs)
            return moved if value.is_floating_point() else value.to(moved.device)

        self.data = {name: move(value) for name, value in self.data.items()}
        return self
