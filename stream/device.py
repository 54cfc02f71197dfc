"""What the device that judges holds and does, for metrics; known without torch, asked with it."""

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a gate in rules mode starts without torch
    import torch


class Gpu(NamedTuple):
    """What a GPU holds, and the share of time it worked; all 0 where there is none."""

    used_bytes: int = 0
    total_bytes: int = 0
    utilisation: float = 0.0


def gpu_of(device: "torch.device") -> Gpu:
    """Return what a device holds and does at the moment; its utilisation is NaN where nobody can tell."""
    if device.type != "cuda":
        return Gpu()
    import torch  # noqa: PLC0415

    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    try:
        utilisation = torch.cuda.utilization(device) / 100
    except Exception:  # noqa: BLE001 - NVIDIA's management library may be missing, or refuse a slice of a GPU
        utilisation = math.nan
    return Gpu(total_bytes - free_bytes, total_bytes, utilisation)
