"""Stage 3c: lengths -> batches under a token budget.

One formula for a batch's cost: rows × the longest row, padding included; where nothing is padded, its tokens.
"""

from collections.abc import Sequence

LARGE_TOKENS, LEAST_FILLED = 1_024, 0.8


def batches(lengths_tokens: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Return lists of positions, longest rows first, each batch costing at most `budget_tokens`.

    Rows of like length share a batch, so little is padded: one that is large enough to be run well takes none that would be
    padded by more than a fifth. A row longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths_tokens)), key=lambda i: (-lengths_tokens[i], i))
    found: list[list[int]] = []
    current: list[int] = []
    for position in order:
        if current:
            longest = lengths_tokens[current[0]]
            is_large = len(current) * longest >= LARGE_TOKENS and lengths_tokens[position] < LEAST_FILLED * longest
            if is_large or (len(current) + 1) * longest > budget_tokens:
                found.append(current)
                current = []
        current.append(position)
    if current:
        found.append(current)
    return found


def packed_batches(lengths_tokens: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Return lists of positions, longest rows first, each batch of at most `budget_tokens` tokens, or a single row."""
    found: list[list[int]] = []
    left = 0
    for position in sorted(range(len(lengths_tokens)), key=lambda i: (-lengths_tokens[i], i)):
        if lengths_tokens[position] > left or not found:
            found.append([])
            left = budget_tokens
        found[-1].append(position)
        left -= lengths_tokens[position]
    return found
