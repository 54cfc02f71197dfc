"""Our kernels beside torch's own operations: on a GPU as compiled, on a CPU in Triton's interpreter (TRITON_INTERPRET=1).

Run as a program, which Triton must know before it is imported, it prints one JSON object: differences on a CPU.
"""

import json

import numpy as np
import torch

from stream.between import Between, Heads, Part, blocks_of
from stream.kernels import CompiledBetween

TOKENS, HIDDEN, EPS = 7, 40, 1e-6
TOLERANCES = {"float32": 5e-6, "float16": 2**-9, "bfloat16": 2**-7}  # of the greatest number
LEAST = 28  # comparisons
# a head, a record that takes two blocks, the shortest one, and one whose answers lie in different blocks
PARTS = Part(*np.array([[0, 70, 170, 172], [70, 100, 2, 70], [70, 96, 1, 66], [0, 3, 1, 4], [0, 70, 70, 70]]))


def differences(device: str) -> dict[str, tuple[float, float]]:
    """Return the greatest difference and the greatest number of each kernel in each type."""
    torch.manual_seed(0)
    found = {}
    rough = torch.bfloat16 if device == "cuda" else torch.float16  # the interpreter multiplies no bfloat16 matrices
    for dtype in (torch.float32, rough):
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
    for heads in (Heads(3, 1, 8, EPS), Heads(4, 2, 24, EPS), Heads(14, 2, 64, EPS)):
        width = heads.width
        angle = drawn(4, width // 2)
        rotation = torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)
        columns = drawn(TOKENS, (heads.queries + 2 * heads.keys) * width, dtype=dtype)
        for name, gain in (("turned", None), ("turned, normed", drawn(heads.queries + heads.keys, 1, width))):
            both = columns.clone(), columns.clone()
            for each, turned in zip((ours, torchs), both, strict=True):
                each.turn(turned, gain, places, rotation, heads)
            found[f"{name} {heads.queries}x{width}"] = both
        longer = drawn(PARTS.size.sum(), columns.shape[1], dtype=dtype)
        blocks = torch.from_numpy(blocks_of(PARTS)).to(device)
        found[f"attention {heads.queries}x{width}"] = ours.attention(longer, blocks, heads), torchs.attention(longer, blocks, heads)
    for inner in (8, 1_100):
        both = drawn(TOKENS, 2 * inner, dtype=dtype)
        found[f"gated {inner}"] = ours.gated(both), torchs.gated(both)
    return found


if __name__ == "__main__":
    print(json.dumps(differences("cpu")))
