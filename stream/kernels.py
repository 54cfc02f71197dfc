# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""What a pass does between its matrix products, in kernels of our own: each number is read and written once.

Triton compiles them for the GPU that is there, in about a second each, and keeps them on disk. On a CPU they run in Triton's
interpreter, for the tests. Shapes as in between.py.
"""

import torch
import triton
import triton.language as tl

from stream.between import QUERIES, Between, Heads

AT_ONCE = 1_024  # numbers that one program reads
KEYS = 32  # keys that attention looks at in one step: 64 take a quarter longer on an H200
_LEAST_WIDTH = 16  # of a matrix product in Triton
_LOG2_E = 1.4426950408889634
_UNSEEN = tl.constexpr(-1e30)  # a score that weighs nothing


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


@triton.jit(do_not_specialize=["tokens"])  # it differs from batch to batch: one kernel for all
def _turn(
    x, places, rotation, gain, tokens, columns, heads, width, eps,
    HAS_GAIN: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    # a row is one head of one token
    row = tl.arange(0, ROWS * HEADS)
    token = tl.program_id(0).to(tl.int64) * ROWS + row // HEADS
    head = row % HEADS
    is_row = (token < tokens) & (head < heads)
    at = tl.arange(0, WIDTH)
    inside = is_row[:, None] & (at < width)[None, :]
    where = x + token[:, None] * columns + head[:, None] * width + at[None, :]
    found = tl.load(where, mask=inside, other=0.0).to(tl.float32)
    if HAS_GAIN:
        scale = tl.rsqrt(tl.sum(found * found, axis=1) / width + eps)
        found = found * scale[:, None] * tl.load(gain + head[:, None] * width + at[None, :], mask=inside, other=0.0)
    place = tl.load(places + token, mask=is_row, other=0).to(tl.int64)
    turn = tl.load(rotation + place[:, None] * width + at[None, :], mask=inside, other=0.0)
    even, odd = tl.split(tl.reshape(found, (ROWS * HEADS, WIDTH // 2, 2)))
    cos, sin = tl.split(tl.reshape(turn, (ROWS * HEADS, WIDTH // 2, 2)))
    turned = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (ROWS * HEADS, WIDTH))
    tl.store(where, turned.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _gated(x, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(x + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _looked(
    query, greatest, total, found, begin, end, x, start, head, mine, second, answer, columns, key_column, value_column, width, log2_e,
    FOR_ALL: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Let a block's queries look at the keys from begin to end; FOR_ALL: each sees all of them."""
    at = tl.arange(0, WIDTH)
    for first in range(begin, end, KEYS):
        key_at = first + tl.arange(0, KEYS)
        its = key_at - head  # place among the part's tokens; below 0 in the head
        rows = tl.where(its < 0, key_at, start + its).to(tl.int64)[:, None] * columns + at[None, :]
        is_key = key_at < end
        mask = is_key[:, None] & (at < width)[None, :]
        scores = tl.dot(query, tl.trans(tl.load(x + rows + key_column, mask=mask, other=0.0)), input_precision="ieee")
        if not FOR_ALL:
            sees = is_key[None, :] & (its[None, :] <= mine[:, None])
            sees &= (mine[:, None] < second) | (its[None, :] < second - answer) | (its[None, :] >= second)
            scores = tl.where(sees, scores, _UNSEEN)
        higher = tl.maximum(greatest, tl.max(scores, axis=1))
        weights = tl.exp2((scores - higher[:, None]) * log2_e)
        shrunk = tl.exp2((greatest - higher) * log2_e)
        total = total * shrunk + tl.sum(weights, axis=1)
        value = tl.load(x + rows + value_column, mask=mask, other=0.0)
        found = tl.dot(weights.to(x.dtype.element_ty), value, found * shrunk[:, None], input_precision="ieee")
        greatest = higher
    return greatest, total, found


@triton.jit(do_not_specialize=["count"])
def _attention(
    x, blocks, out, count, columns, queries, keys, width, log2_e,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    query_head, block = tl.program_id(0) % queries, tl.program_id(0) // queries  # heads of one block side by side: they share keys
    first, start, size = tl.load(blocks + block), tl.load(blocks + count + block), tl.load(blocks + 2 * count + block)
    second, answer, head = tl.load(blocks + 3 * count + block), tl.load(blocks + 4 * count + block), tl.load(blocks + 5 * count + block)
    mine = first + tl.arange(0, QUERIES)
    at = tl.arange(0, WIDTH)
    mask = (mine < size)[:, None] & (at < width)[None, :]
    rows = (start + mine).to(tl.int64)[:, None]
    query = tl.load(x + rows * columns + query_head * width + at[None, :], mask=mask, other=0.0)
    key_column = (queries + query_head // (queries // keys)) * width
    value_column = key_column + keys * width
    greatest = tl.full((QUERIES,), _UNSEEN, tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    found = tl.zeros((QUERIES, WIDTH), tl.float32)
    for_all = (head + tl.minimum(first, second - answer)) // KEYS * KEYS
    greatest, total, found = _looked(
        query, greatest, total, found, 0, for_all, x, start, head, mine, second, answer, columns, key_column, value_column, width, log2_e,
        FOR_ALL=True, KEYS=KEYS, WIDTH=WIDTH,
    )  # fmt: skip
    greatest, total, found = _looked(
        query, greatest, total, found, for_all, head + tl.minimum(first + QUERIES, size), x, start, head, mine, second, answer, columns,
        key_column, value_column, width, log2_e, FOR_ALL=False, KEYS=KEYS, WIDTH=WIDTH,
    )  # fmt: skip
    place = rows * (queries * width) + query_head * width + at[None, :]
    tl.store(out + place, (found / total[:, None]).to(out.dtype.element_ty), mask=mask)


class CompiledBetween(Between):
    """The same in kernels of our own."""

    def add_normed(self, x_TH: torch.Tensor, more_TH: torch.Tensor | None, eps: float, dtype: torch.dtype) -> torch.Tensor:
        """As Between says."""
        tokens, width = x_TH.shape
        out = torch.empty(tokens, width, dtype=dtype, device=x_TH.device)
        more = out if more_TH is None else more_TH
        _add_normed[(tokens,)](x_TH, more, out, width, eps, HAS_MORE=more_TH is not None, BLOCK=triton.next_power_of_2(width))
        return out

    def turn(
        self, x_TC: torch.Tensor, gain_N1D: torch.Tensor | None, places_T: torch.Tensor, rotation_PD: torch.Tensor, heads: Heads
    ) -> None:
        """As Between says."""
        tokens, turned = len(x_TC), heads.queries + heads.keys
        count, width = triton.next_power_of_2(turned), triton.next_power_of_2(heads.width)
        rows = max(1, AT_ONCE // (count * width))
        _turn[(triton.cdiv(tokens, rows),)](
            x_TC, places_T, rotation_PD, rotation_PD if gain_N1D is None else gain_N1D, tokens, x_TC.stride(0), turned, heads.width,
            heads.eps, HAS_GAIN=gain_N1D is not None, ROWS=rows, HEADS=count, WIDTH=width,
        )  # fmt: skip

    def gated(self, x_T2I: torch.Tensor) -> torch.Tensor:
        """As Between says."""
        tokens, both = x_T2I.shape
        width = both // 2
        out = torch.empty(tokens, width, dtype=x_T2I.dtype, device=x_T2I.device)
        block = min(AT_ONCE, triton.next_power_of_2(width))
        _gated[(tokens, triton.cdiv(width, block))](x_T2I, out, width, BLOCK=block)
        return out

    def attention(self, x_TC: torch.Tensor, blocks_6K: torch.Tensor, heads: Heads) -> torch.Tensor:
        """As Between says."""
        out = torch.empty(len(x_TC), heads.queries * heads.width, dtype=x_TC.dtype, device=x_TC.device)
        count = blocks_6K.shape[1]
        _attention[(heads.queries * count,)](
            x_TC, blocks_6K, out, count, x_TC.stride(0), heads.queries, heads.keys, heads.width, _LOG2_E,
            QUERIES=QUERIES, KEYS=KEYS, WIDTH=max(_LEAST_WIDTH, triton.next_power_of_2(heads.width)), num_warps=4, num_stages=3,
        )  # fmt: skip
        return out
