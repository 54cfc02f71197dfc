"""Our kernels beside torch's own operations: on a GPU as compiled, on a CPU in Triton's interpreter (TRITON_INTERPRET=1).

Run as a program, which Triton must know before it is imported, it prints one JSON object: differences on a CPU.
"""

import json

import torch

from stream.between import Between, Turn
from stream.kernels import CompiledBetween

TOKENS, HIDDEN, EPS = 7, 40, 1e-6
TOLERANCES = {"float32": 1e-6, "bfloat16": 2**-7}  # of the greatest number
LEAST = 22  # comparisons


def differences(device: str) -> dict[str, tuple[float, float]]:
    """Return the greatest difference and the greatest number of each kernel in each type."""
    torch.manual_seed(0)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, (ours, torchs) in _each(torch.device(device), dtype).items():
            of = (ours.float() - torchs.float()).abs().max()
            found[f"{name} {str(dtype).removeprefix('torch.')}"] = float(of), float(torchs.float().abs().max())
    return found


def _each(device: torch.device, dtype: torch.dtype) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    ours, torchs = CompiledBetween(), Between()
    found = {}
    x, more = drawn(TOKENS, HIDDEN), drawn(TOKENS, HIDDEN, dtype=dtype)
    added, its = x.clone(), x.clone()
    found["add_normed"] = ours.add_normed(added, more, EPS, dtype), torchs.add_normed(its, more, EPS, dtype)
    found["added"] = added, its
    found["normed"] = ours.add_normed(x, None, EPS, dtype), torchs.add_normed(x, None, EPS, dtype)
    places = torch.tensor([0, 1, 2, 3, 1, 2, 3], dtype=torch.int32, device=device)
    source = torch.tensor([6, 0, 0, 2, 1], dtype=torch.int32, device=device)
    for width, heads in ((8, 3), (24, 2)):
        angle = drawn(4, width // 2)
        rotation = torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)
        turn = Turn(places, rotation, width, EPS)
        columns = drawn(TOKENS, 2 * heads * width, dtype=dtype)[:, 4 : 4 + heads * width]  # a part of wider rows, as in a pass
        gain = drawn(heads, 1, width)
        for name, arguments in (
            ("turned", (columns, None, None, turn)),
            ("turned, normed", (columns, gain, None, turn)),
            ("turned, picked", (columns, gain, source, turn)),
        ):
            found[f"{name} {heads}x{width}"] = ours.turned(*arguments), torchs.turned(*arguments)
    for inner in (8, 1_100):
        both = drawn(TOKENS, 2 * inner, dtype=dtype)
        found[f"gated {inner}"] = ours.gated(both), torchs.gated(both)
    return found


if __name__ == "__main__":
    print(json.dumps(differences("cpu")))
