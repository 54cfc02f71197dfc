# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""What a pass does between its matrix products, in kernels of our own: each number is read and written once.

Triton compiles them for the GPU that is there, in about a second each, and keeps them on disk. On a CPU they run in Triton's
interpreter, for the tests. Rows are tokens; every program does one.
"""

import torch
import triton
import triton.language as tl

from stream.between import Between, Turn

_ONE_WARP, _GATED_AT_ONCE = 512, 1_024


@triton.jit
def _add_normed(x, more, out, width, eps, HAS_MORE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width
    found = tl.load(x + row + at, mask=inside, other=0.0)
    if HAS_MORE:
        found += tl.load(more + row + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + row + at, found, mask=inside)
    scale = tl.rsqrt(tl.sum(found * found, axis=0) / width + eps)
    tl.store(out + row + at, (found * scale).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _turned(
    x, source, places, rotation, gain, out, row_width, eps, heads,
    HALF: tl.constexpr, HAS_SOURCE: tl.constexpr, HAS_GAIN: tl.constexpr, HEADS: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    target = tl.program_id(0).to(tl.int64)
    row = target
    if HAS_SOURCE:
        row = tl.load(source + target).to(tl.int64)
    place = tl.load(places + row).to(tl.int64)
    head, pair = tl.arange(0, HEADS)[:, None], tl.arange(0, HALVES)[None, :]
    inside = (head < heads) & (pair < HALF)
    at = head * (2 * HALF) + 2 * pair
    even = tl.load(x + row * row_width + at, mask=inside, other=0.0).to(tl.float32)
    odd = tl.load(x + row * row_width + at + 1, mask=inside, other=0.0).to(tl.float32)
    if HAS_GAIN:
        scale = tl.rsqrt((tl.sum(even * even, axis=1) + tl.sum(odd * odd, axis=1)) / (2 * HALF) + eps)[:, None]
        even *= scale * tl.load(gain + at, mask=inside, other=0.0)
        odd *= scale * tl.load(gain + at + 1, mask=inside, other=0.0)
    turn = rotation + place * (2 * HALF) + 2 * pair
    cos, sin = tl.load(turn, mask=pair < HALF, other=0.0), tl.load(turn + 1, mask=pair < HALF, other=0.0)
    to = out + target * heads * (2 * HALF) + at
    tl.store(to, (even * cos - odd * sin).to(out.dtype.element_ty), mask=inside)
    tl.store(to + 1, (even * sin + odd * cos).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated(x, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(x + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


class CompiledBetween(Between):
    """Kernels of our own; attention as torch has it."""

    def add_normed(self, x_TH: torch.Tensor, more_TH: torch.Tensor | None, eps: float, dtype: torch.dtype) -> torch.Tensor:
        """As Between says."""
        tokens, width = x_TH.shape
        out = torch.empty(tokens, width, dtype=dtype, device=x_TH.device)
        more = out if more_TH is None else more_TH
        _add_normed[(tokens,)](x_TH, more, out, width, eps, HAS_MORE=more_TH is not None, BLOCK=triton.next_power_of_2(width))
        return out

    def turned(self, x_TC: torch.Tensor, gain_N1D: torch.Tensor | None, source_S: torch.Tensor | None, turn: Turn) -> torch.Tensor:
        """As Between says."""
        rows, heads = len(x_TC if source_S is None else source_S), x_TC.shape[1] // turn.width
        out = torch.empty(rows, heads, turn.width, dtype=x_TC.dtype, device=x_TC.device)
        source, gain = (turn.places_T if source_S is None else source_S), (turn.rotation_PD if gain_N1D is None else gain_N1D)
        _turned[(rows,)](
            x_TC, source, turn.places_T, turn.rotation_PD, gain, out, x_TC.stride(0), turn.eps, heads,
            HALF=turn.width // 2, HAS_SOURCE=source_S is not None, HAS_GAIN=gain_N1D is not None,
            HEADS=triton.next_power_of_2(heads), HALVES=triton.next_power_of_2(turn.width // 2),
            num_warps=1 if heads * turn.width <= _ONE_WARP else 4,
        )  # fmt: skip
        return out

    def gated(self, x_T2I: torch.Tensor) -> torch.Tensor:
        """As Between says."""
        tokens, both = x_T2I.shape
        width = both // 2
        out = torch.empty(tokens, width, dtype=x_T2I.dtype, device=x_T2I.device)
        block = min(_GATED_AT_ONCE, triton.next_power_of_2(width))
        _gated[(tokens, triton.cdiv(width, block))](x_T2I, out, width, BLOCK=block)
        return out
