"""Ways of running the scorer's pass that were tried beside it, in turns: compiled by torch, and with weights of eight bits.

`compiled_vs_pass` is the same pass under `torch.compile` over one batch, shapes left open where torch can; `compile_seconds` is what each
of the first batches of other shapes costs beyond a later run, so one of them is compiled anew where it costs as much as the first.
`int8_*` is the products of one layer alone, quantised as they come (weights once), against the same products in the type that
the gate takes here, and what eight bits in all linear layers do to P (of raw d). The last line is one JSON object.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.ao.quantization import quantize_dynamic
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from bench.constant import WORDS
from bench.machine import keep
from bench.scoring import seconds_of
from bench.starters import readable, starter_in, tables_in
from stream.batching import batches
from stream.config import GateSettings
from stream.decode import decode_value
from stream.encode import Encoder
from stream.live_model import fastest_budget, has_bfloat16_products
from stream.records import Content
from stream.render import text_of
from stream.score import Scorer, reference_rewards
from stream.shared_pass import SharedPass
from trainer.config import TrainSettings

_TRUTHS, _SHAPES = 200, 3


def products(config: Any, rows: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return what runs the products of one layer over so many tokens: in a type, and with weights of eight bits."""
    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = hidden + 2 * config.num_key_value_heads * (hidden // config.num_attention_heads)
    shapes = [(hidden, qkv), (hidden, hidden), (hidden, 2 * inner), (inner, hidden)]
    given = [torch.randn(rows, k).to(dtype) for k, _ in shapes]
    weights = [torch.randn(n, k).to(dtype) for k, n in shapes]
    eight = [quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(k, n, bias=False)), dtype=torch.qint8) for k, n in shapes]
    wide = [x.float() for x in given]
    return (
        lambda _: [F.linear(x, weight) for x, weight in zip(given, weights, strict=True)],
        lambda _: [linear(x) for x, linear in zip(wide, eight, strict=True)],
    )


def main() -> None:
    """Run all and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        place = Path(name)
        twins = readable(3_000, 0)
        with torch.inference_mode(mode=False):
            starter, _ = starter_in(place, tables_in(place, GateSettings(), TrainSettings()), twins, steps=60)
        keep("variants", compare(starter / "reward", [twin.value for twin in twins], given))


def compare(directory: Path, twins: Sequence[bytes], given: argparse.Namespace) -> dict[str, Any]:
    """Time the scorer and its variants in turns; return ratios and differences from the truth."""
    contents = [reading for value in twins if isinstance(reading := decode_value(value, "auto"), Content)]
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 2_048)
    records = [ids for ids in encoder.encode([text_of(content) for content in contents][: given.records]) if ids is not None]
    model = AutoModelForSequenceClassification.from_pretrained(directory, attn_implementation="sdpa").eval()
    dtype = torch.bfloat16 if has_bfloat16_products() else torch.float32
    budget, _ = fastest_budget(Scorer(model, encoder, 8_192, dtype), 8_192)
    shared = SharedPass(model, encoder.template, encoder.pad_id, dtype, model.device)
    overhead = encoder.template.shared_overhead_tokens
    planned = [[records[place] for place in places] for places in batches([len(ids) + overhead for ids in records], budget)]
    compiled = torch.compile(shared.through, dynamic=True)

    def all_compiled(some: Sequence[Sequence[Any]]) -> list[torch.Tensor]:
        return [compiled(shared.laid_out(batch)) for batch in some]

    with torch._dynamo.config.patch(recompile_limit=_SHAPES + 8, fail_on_recompile_limit_hit=True):  # noqa: SLF001 - or it runs eagerly, unsaid
        first = [seconds_of(all_compiled, [batch]) for batch in planned[:_SHAPES]]
        again = [seconds_of(all_compiled, [batch]) for batch in planned[:_SHAPES]]
        usual, eight = products(model.config, sum(len(ids) + overhead for ids in planned[0]), dtype)
        taken: dict[str, list[float]] = {name: [] for name in ("pass", "compiled", "products", "int8")}
        for _ in range(given.rounds):
            for name, run, some in (
                ("pass", lambda some: [shared.rewards(batch) for batch in some], planned[:1]), ("compiled", all_compiled, planned[:1]),
                ("products", usual, None), ("int8", eight, None),
            ):  # fmt: skip
                taken[name].append(min(seconds_of(run, some) for _ in range(2)))
        of_compiled = np.concatenate([each.numpy() for each in all_compiled(planned[:_SHAPES])])
    truth = reference_rewards(model, encoder, records[:_TRUTHS])
    in_eight = cast(PreTrainedModel, quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8))
    of_eight = reference_rewards(in_eight, encoder, records[:_TRUTHS])
    of_pass = np.concatenate([shared.rewards(batch).numpy() for batch in planned[:_SHAPES]])

    def differs(one_B2: np.ndarray, other_B2: np.ndarray) -> float:
        p, its = (1 / (1 + np.exp(each[:, 1] - each[:, 0])) for each in (one_B2, other_B2))
        return round(float(np.abs(p - its).max()), 6)

    return {
        "records": len(records), "threads": given.threads, "precision": str(dtype), "budget_tokens": budget,
        "compiled_vs_pass": _ratio(taken["pass"], taken["compiled"]),
        "compile_seconds": [round(each - later, 1) for each, later in zip(first, again, strict=True)],
        "compiled_max_abs_diff_p": differs(of_compiled, of_pass),
        "int8_products_vs_products": _ratio(taken["products"], taken["int8"]), "int8_max_abs_diff_p": differs(of_eight, truth),
    }  # fmt: skip


def _ratio(seconds: Sequence[float], its: Sequence[float]) -> float:
    """Return how many times as fast the second is, the median over rounds."""
    return round(float(np.median(np.divide(seconds, its))), 3)


if __name__ == "__main__":
    main()
