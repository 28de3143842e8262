"""What a device can do: its fast arithmetic, its free memory."""

import torch

from zennas.records import UserError

BFLOAT16 = ("avx512_bf16", "amx_tile")  # instructions that multiply it, as torch.cpu names them


def processor_has_bfloat16() -> bool:
    """Whether products in bfloat16 take half the time of float32 on this processor; without, they take longer."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in BFLOAT16)
    # The first versions of PyTorch that zennas takes say so under private names alone.
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in BFLOAT16)


def autocast_of(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast, or None for float32. UserError where the device has no such arithmetic."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 is for GPUs; on a processor: fp32 or bf16")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            values = dict(line.split(":") for line in file)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
