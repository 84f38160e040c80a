"""The processor that an operation changes with its model.

Source: original work.
"""

from typing import Any

from trocr.processor import TrOCRProcessor
from trocr.surgery.patterns import SurgeryError


def expect_processor(processor: Any) -> TrOCRProcessor:
    """Check that a processor is one of this library.

    Raises:
        SurgeryError: it is something else.
    """
    if not isinstance(processor, TrOCRProcessor):
        raise SurgeryError(
            f"processor is a {type(processor).__name__}, expected the model's TrOCRProcessor of trocr"
        )
    return processor
