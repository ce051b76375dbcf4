r"""The precision that a training step is worth on the machine it runs on.

bfloat16 has the exponent of float32 and eight bits of significand. Where the processor multiplies
it in hardware (AMX or AVX-512 BF16 on x86, BF16 on Arm, tensor cores from Ampere on) a step takes
half the time or less; where it does not, every product is emulated and a step takes several times
as long as in float32. A recipe says whether bfloat16 is safe for it, the machine whether it pays.
"""

from __future__ import annotations

import time
from typing import Any

import torch

__all__ = ["precision", "supports_bfloat16"]

_UNITS = ("amx_bf16", "avx512_bf16", "bf16")  # as torch.cpu.get_capabilities names them


def supports_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether products of bfloat16 matrices are done in hardware.

    Torch is asked; a CPU of which it says nothing is measured by two products of each kind.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    told = [bool(capabilities[unit]) for unit in _UNITS if unit in capabilities]
    return any(told) if told else _measured()


def precision(safe: bool, device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where it is safe for the recipe and pays on the device, else float32.

    Args:
        safe: what the recipe says (`Schedule.autocast`).
        device: of the training.
    """
    return torch.bfloat16 if safe and supports_bfloat16(device) else torch.float32


def _measured(size: int = 384) -> bool:
    """Whether the second of two bfloat16 products is faster than that of two in float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)
        torch.mm(matrix, matrix)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds[dtype] = time.perf_counter() - started
    return seconds[torch.bfloat16] < seconds[torch.float32]
