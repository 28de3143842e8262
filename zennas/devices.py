"""What a device can do for a training: its fast arithmetic, its free memory."""

import torch

from zennas.records import UserError


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
