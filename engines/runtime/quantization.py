"""Where weights are loaded to, and with how few bits: `EngineOptions.quantization` in a library's terms.

In: ``none``, ``int8`` or ``int4``, the device, and which modules keep their precision. Out: arguments for
``from_pretrained``, which puts each matrix in its place, and quantizes it, as it is read. Both engines use it; the work
is torchao's (int8) and bitsandbytes' (int4).
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from engines.memory import QUANTIZATIONS

_INSTALL = "pip install 'glowl[quant]'"

log = logging.getLogger(__name__)


def on_device(device: torch.device) -> dict[str, Any]:
    """Choose to load tensor by tensor to a device; otherwise all weights pass through the machine's own memory.

    Returns:
        Arguments for ``from_pretrained``; empty for the CPU, and where the library for it is missing.
    """
    if device.type == "cpu":
        return {}
    if importlib.util.find_spec("accelerate") is None:
        log.warning("accelerate is not installed: the weights take as much of the machine's memory as of the device's")
        return {}
    return {"device_map": {"": device}}


def loading_options(
    quantization: str, device: torch.device, dtype: torch.dtype, unquantized_modules: Sequence[str]
) -> dict[str, Any]:
    """Choose how to quantize.

    Args:
        quantization: ``none``; ``int8``, one scale per output row; ``int4``, NF4 with quantized scales (QLoRA,
            arXiv:2305.14314).
        device: where the model will run: CUDA or the CPU.
        dtype: of what stays unquantized, and of the arithmetic.
        unquantized_modules: full names of modules that keep ``dtype``, and everything below them.

    Returns:
        Arguments for ``from_pretrained``; empty for ``none``. A model loaded with them must not be moved.

    Raises:
        ValueError: for another word, another device, or if the library is not installed.
    """
    if quantization == "none":
        return {}
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}, not {quantization!r}")
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"quantization {quantization} needs a CUDA device or the CPU, not {device.type!r}")
    if quantization == "int8":
        options = {"quantization_config": _torchao_int8(device, unquantized_modules)}
        return options if device.type == "cpu" else {**options, "device_map": {"": device}}
    return {
        "quantization_config": _bitsandbytes_int4(dtype, unquantized_modules),
        "device_map": {"": device},
    }


def _torchao_int8(device: torch.device, unquantized_modules: Sequence[str]) -> Any:
    # Weights only: the activations keep their precision, so that a row's result does not depend on its batch. In
    # bitsandbytes' int8 an outlier of one row changes how all rows of a step are computed.
    _require("int8", "torchao", *(["accelerate"] if device.type != "cpu" else []))
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=list(unquantized_modules))


def _bitsandbytes_int4(dtype: torch.dtype, unquantized_modules: Sequence[str]) -> Any:
    _require("int4", "bitsandbytes", "accelerate")
    from transformers import BitsAndBytesConfig

    with warnings.catch_warnings():
        # Its import uses decorators that torch has deprecated; users cannot change that.
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(unquantized_modules),
    )


def _require(what: str, *packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"quantization {what} needs {' and '.join(missing)}, not installed here: {_INSTALL}")
