"""An image processor and a tokenizer in one object: images in, `pixel_values` out; ids in, text out.

Source: transformers 5.23 `models/trocr/processing_trocr.py`, `processing_utils.py` (what goes where).
Differs: an argument that neither part knows is an error (transformers warns and goes on); `save_pretrained`
writes `preprocessor_config.json`, which every transformers reads, where 5.x writes `processor_config.json`.
"""

import inspect
import os
from collections.abc import Mapping
from typing import Any, Self

from trocr.hub import PROCESSOR_FILES, locate
from trocr.image import BatchFeature, ImageProcessor, load_image_processor
from trocr.image_settings import IMAGE_OPTIONS
from trocr.tokenizers import BatchEncoding, Tokenizer, load_tokenizer

_TEXT_OPTIONS = frozenset(inspect.signature(Tokenizer.__call__).parameters) - {"self", "text"}
_PARTS = {"images_kwargs": ("images",), "text_kwargs": ("text",), "common_kwargs": ("images", "text")}


class TrOCRProcessor:
    """What goes into a TrOCR model and what comes out of it.

    Attributes:
        image_processor: makes `pixel_values`.
        tokenizer: makes `labels`, and text of generated ids.
    """

    image_processor: ImageProcessor
    tokenizer: Tokenizer

    def __init__(
        self, image_processor: ImageProcessor | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        if not isinstance(image_processor, ImageProcessor):
            raise TypeError(
                f"image_processor: {type(image_processor).__name__}; expected a ViTImageProcessor or a "
                "DeiTImageProcessor of trocr"
            )
        if not callable(getattr(tokenizer, "batch_decode", None)):
            raise TypeError(
                f"tokenizer: {type(tokenizer).__name__}; expected a tokenizer, such as RobertaTokenizer or "
                "XLMRobertaTokenizer of trocr"
            )
        assert tokenizer is not None
        self.image_processor = image_processor
        self.tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.image_processor!r}, {self.tokenizer!r})"

    @property
    def model_input_names(self) -> list[str]:
        """Names of what it makes for a model."""
        return [*self.image_processor.model_input_names, "labels"]

    def __call__(
        self, images: Any = None, text: Any = None, return_tensors: str | None = None, **options: Any
    ) -> BatchFeature | BatchEncoding:
        """Prepare images, texts, or both.

        Args:
            images: whatever `ImageProcessor.preprocess` takes.
            text: whatever the tokenizer takes: a string or a list of them.
            return_tensors: "pt" or "np" for arrays, None for lists.
            options: settings of the image processor (`size`, `do_resize` ...) and arguments of the tokenizer
                (`padding`, `max_length` ...), each going where it belongs; or dictionaries of them under
                `images_kwargs`, `text_kwargs` and, for both, `common_kwargs`.

        Returns:
            Of images: `pixel_values`, (B, 3, H, W). Of texts: `input_ids` and `attention_mask`. Of both:
            `pixel_values` and `labels`, which are the texts' `input_ids` as the tokenizer gives them (padding
            is not masked: a loss needs -100 there).

        Raises:
            ValueError: neither is given, or an image cannot be read (`ImageError`), or a text
                (`TokenizerError`).
            TypeError: an option is not known, or given twice.
        """
        if images is None and text is None:
            raise ValueError("neither images nor text is given; expected images=, text= or both")
        image_options, text_options = _sort_options(options, return_tensors)
        if images is None:
            return self.tokenizer(text, **text_options)
        batch = self.image_processor(images, **image_options)
        if text is not None:
            batch["labels"] = self.tokenizer(text, **text_options)["input_ids"]
        return batch

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """Texts of rows of ids; see `Tokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """Text of one row of ids; see `Tokenizer.decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **overrides: Any,
    ) -> Self:
        """Load the image processor and the tokenizer of a checkpoint.

        Args:
            source: directory, name of a shipped checkpoint ("tiny-printed") or Hub id.
            revision, cache_dir, local_files_only, token: of the Hub; see `trocr.hub.locate`.
            overrides: settings that win over the files'; those that are not of an image processor go to the
                tokenizer.

        Raises:
            HubError: the files are neither here nor reachable.
            ImageError, TokenizerError: a file is missing, damaged or holds wrong settings.
        """
        directory = locate(
            source,
            want=PROCESSOR_FILES,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        of_images = {name: value for name, value in overrides.items() if name in IMAGE_OPTIONS}
        of_text = {name: value for name, value in overrides.items() if name not in IMAGE_OPTIONS}
        tokenizer = load_tokenizer(directory)
        if of_text:
            tokenizer = type(tokenizer).from_pretrained(directory, **of_text)
        return cls(load_image_processor(directory, **of_images), tokenizer)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> list[str]:
        """Write the files of the image processor and of the tokenizer.

        Returns:
            Paths of the files written.
        """
        files = self.image_processor.save_pretrained(directory, processor_class=type(self).__name__)
        return [*files, *self.tokenizer.save_pretrained(directory)]


def _sort_options(
    options: Mapping[str, Any], return_tensors: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the image processor and of the tokenizer."""
    sorted_options: dict[str, dict[str, Any]] = {
        "images": {"return_tensors": return_tensors},
        "text": {"return_tensors": return_tensors},
    }
    known = {"images": IMAGE_OPTIONS, "text": _TEXT_OPTIONS}
    for name, value in options.items():
        if name in _PARTS:
            for part in _PARTS[name]:
                twice = sorted(set(value) & set(options))
                if twice:
                    raise TypeError(
                        f"{', '.join(twice)}: given in {name} and by itself; expected one of them"
                    )
                sorted_options[part].update(value)
            continue
        parts = [part for part, names in known.items() if name in names]
        if not parts:
            raise TypeError(
                f"no option {name!r} (given {value!r}); the image processor knows "
                f"{', '.join(sorted(IMAGE_OPTIONS))}; the tokenizer knows {', '.join(sorted(_TEXT_OPTIONS))}"
            )
        for part in parts:
            sorted_options[part][name] = value
    return sorted_options["images"], sorted_options["text"]
