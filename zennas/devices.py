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


def convolves_wrong(out_hw: tuple[int, int], *, kernel: int, stride: int, by_channel: bool) -> bool:
    """Whether a processor's convolution to maps of this (height, width) gives what lay in memory, in bfloat16.

    It does with a stride, where maps of several rows become one pixel wide (oneDNN of torch 2.13).
    """
    return out_hw[1] == 1 < out_hw[0] and min(kernel, stride) > 1 and not by_channel


def check_arithmetic(network: torch.nn.Module, dtype: torch.dtype | None, device: torch.device) -> None:
    """UserError where a device gets a network wrong in a dtype, as `convolves_wrong` says.

    network: has the input_shape (channels, height, width) of an image.
    """
    if dtype is not torch.bfloat16 or device.type != "cpu":
        return
    wrong = []

    def look(layer, given, maps):
        how = {
            "kernel": layer.kernel_size[1],
            "stride": layer.stride[1],
            "by_channel": layer.groups == layer.in_channels,
        }
        if convolves_wrong(maps.shape[2:], **how):
            wrong.append("{} x {} to {} x 1".format(*given[0].shape[2:], maps.shape[2]))

    hooks = [layer.register_forward_hook(look) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(2, *network.input_shape))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    if wrong:
        raise UserError(
            f"precision bf16: on a processor a convolution of this network, from maps of {wrong[0]}, would give what "
            "lay in memory; allowed: fp32, or images so wide that no map becomes one pixel wide"
        )


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
