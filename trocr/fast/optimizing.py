"""`optimize`: from a trained model to one that reads as fast as this machine can.

Source: original work.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from trocr.config import ViTConfig
from trocr.fast.calibration import calibrate
from trocr.fast.hardware import DTYPES, Hardware, HardwareError, choose, find_hardware
from trocr.fast.layers import Kernels
from trocr.fast.model import FastModel, Settings
from trocr.fast.weights import OptimizeError, collect, under
from trocr.models import VisionEncoderDecoderModel


@torch.no_grad()
def optimize(
    model: VisionEncoderDecoderModel,
    *,
    dtype: torch.dtype | str | None = None,
    quantize: str | None = None,
    compile: bool = False,
    calibration: Iterable[Tensor] | None = None,
) -> FastModel:
    """Make a model for reading of a trained one, which stays as it is.

    Projections of the same input are fused, weights are copied into the layout that the processor's kernels
    read fastest, keys and values of an image are projected once. In float32 the same tokens come out (sums
    are rounded in another order). bfloat16 and int8 change scores slightly: compare the readings of your own
    lines with `trocr optimize --check` before you use them.

    Args:
        model: in any state; a later change of it does not reach the result.
        dtype: "float32", "bfloat16", or "auto": bfloat16 where the processor has products for it. None means
            float32, and "auto" beside int8. On a GPU "float16" too.
        quantize: "int8" rounds the weights of all products but the patch embedding, one scale an output.
        compile: let PyTorch's compiler fuse what lies between the encoder's products. It needs a C++ compiler
            and a minute at the first image, and gave nothing where packed kernels are to be had: 16 ms a line
            against 9 without it (shipped model, float32, one Zen 5 thread).
        calibration: batches (B, C, height, width) of pixel values, as the processor gives them, to measure
            the encoder's int8 ranges on; see `trocr.fast.calibration`. With them the encoder is faster and
            nearer to float32, and a line's text does not depend on its neighbours in the encoder; without
            them every product measures its input anew.
    Raises:
        OptimizeError: a dtype or quantization that this machine or device has not, adapters that are not
            merged, modules of another kind, hooks, or calibration without int8.
    """
    if not isinstance(model, VisionEncoderDecoderModel):
        raise OptimizeError(f"expected a VisionEncoderDecoderModel, got a {type(model).__name__}")
    if quantize not in (None, "int8"):
        raise OptimizeError(f'quantize={quantize!r} is unknown, expected None or "int8"')
    if compile and quantize:
        raise OptimizeError("compile is for float products, int8 ones it cannot fuse; leave one of them out")
    if calibration is not None and quantize is None:
        raise OptimizeError("calibration is for int8; pass quantize='int8' too, or leave it out")
    if model.device.type == "meta":
        raise OptimizeError("the model is on the meta device: it has no weights yet; load it first")
    kernels = choose_kernels(dtype=dtype, quantize=quantize, device=model.device)
    encoder_config = model.config.encoder
    own = isinstance(encoder_config, ViTConfig)
    tensors = collect(model, with_encoder=own)
    if calibration is not None:
        if not own:
            raise OptimizeError("calibration is for the encoders of this library; timm's stay in float")
        assert isinstance(encoder_config, ViTConfig)
        changed = calibrate(encoder_config, under("encoder", tensors), calibration, packed=kernels.packed)
        tensors.update({f"encoder.{name}": value for name, value in changed.items()})
    name = str(kernels.dtype).removeprefix("torch.")
    settings = Settings(dtype=name, quantize=quantize, compile=compile)
    return FastModel(
        model.config,
        model.generation_config,
        tensors,
        kernels,
        settings,
        encoder=None if own else model.encoder,
    )


def choose_kernels(*, dtype: torch.dtype | str | None, quantize: str | None, device: torch.device) -> Kernels:
    """Decide what products are computed with, and in which precision.

    Args:
        dtype: see `optimize`.
        quantize: see `optimize`.
        device: where the model is.
    Raises:
        OptimizeError: a precision that this machine or device has no products for.
    """
    if dtype is None:
        dtype = "auto" if quantize else "float32"
    if device.type != "cpu":
        if quantize:
            raise OptimizeError(f"int8 is for processors, the model is on {device}; move it: model.to('cpu')")
        return Kernels(dtype=_gpu_dtype(dtype), packed=False)
    hardware = find_hardware()
    try:
        choice = choose(hardware, dtype=dtype, quantize=quantize)
    except HardwareError as error:
        raise OptimizeError(str(error)) from error
    packed = has_packed_kernels(hardware)
    return Kernels(
        dtype=choice.dtype,
        packed=packed,
        int8=quantize is not None,
        static=packed and choice.int8 in ("amx", "vnni"),
        reduce_range=choice.reduce_range,
        by_head=packed and hardware.mkl_runs_avx2 and "avx512_f" in hardware.usable,
    )


def _gpu_dtype(dtype: torch.dtype | str) -> torch.dtype:
    name = "bfloat16" if dtype == "auto" else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise OptimizeError(f"dtype {name!r} is unknown, expected auto, {', '.join(DTYPES)}")
    found: torch.dtype = getattr(torch, name)
    return found


def has_packed_kernels(hardware: Hardware) -> bool:
    """Whether PyTorch has oneDNN's operators with packed weights, and oneDNN is good here: on x86."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    is_x86 = hardware.architecture.lower() in ("x86_64", "amd64")
    return is_x86 and hardware.onednn is not None and all(hasattr(torch.ops.mkldnn, name) for name in names)
