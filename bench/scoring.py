"""The scorer against what an operator could put in its place, on the same records, threads and machine, in turns.

Peers read the same model: (a) two plain chats a record, one at a time; (b) the same, padded in batches of like length, in
float32 and bfloat16; (c) sentence-transformers' CrossEncoder, from texts; (d) ONNX Runtime and OpenVINO on exports of it,
padded as (b). Every round runs each of them once, ratios are medians over rounds. `peak_share` is what a model of hidden
384 × 6 reaches of the best square bf16 matrix product of this machine, in the operations that its records need. A peer that
is not installed is null with the reason. The last line is one JSON object.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification

from bench.constant import WORDS
from bench.machine import keep
from bench.starters import readable, starter_in, tables_in
from stream.batching import batches
from stream.config import GateSettings
from stream.decode import decode_value
from stream.encode import Encoder
from stream.live_model import fastest_budget, has_bfloat16_products
from stream.records import Content
from stream.render import text_of
from stream.score import Scorer, reference_rewards
from stream.tokenise import Ids
from trainer.config import TrainSettings

PADDED_TOKENS = (2_048, 4_096, 8_192)
LARGE: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1_024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
SQUARES, REPETITIONS = (1_024, 2_048, 4_096, 8_192), 20
_SINGLE, _TRUTHS = 60, 200

Rewards = Callable[[Sequence[Sequence[int]]], np.ndarray]


def padded(model: Any, encoder: Encoder, budget_tokens: int) -> Rewards:
    """Return (b): both chats of every record, batches of like length padded to the longest, as transformers runs them."""

    def run(ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> np.ndarray:
        logits_B1 = model(input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device)).logits
        found: np.ndarray = logits_B1[:, 0].float().cpu().numpy()
        return found

    @torch.inference_mode()
    def rewards(records: Sequence[Sequence[int]]) -> np.ndarray:
        return _in_batches(records, encoder, budget_tokens, run)

    return rewards


def _in_batches(
    records: Sequence[Sequence[int]], encoder: Encoder, budget_tokens: int, run: Callable[[torch.Tensor, torch.Tensor], np.ndarray]
) -> np.ndarray:
    chats = [chat for ids in records for chat in encoder.chats(ids)]
    found = np.empty(len(chats), dtype=np.float32)
    for places in batches([len(chat) for chat in chats], budget_tokens):
        width = max(len(chats[place]) for place in places)
        ids_BT = torch.tensor([[*chats[place], *[encoder.pad_id] * (width - len(chats[place]))] for place in places])
        mask_BT = torch.tensor([[1] * len(chats[place]) + [0] * (width - len(chats[place])) for place in places])
        found[places] = run(ids_BT, mask_BT)
    return found.reshape(-1, 2)


def fastest_padding(
    make: Callable[[int], Rewards], records: Sequence[Sequence[int]], budgets_tokens: Sequence[int] = PADDED_TOKENS
) -> Rewards:
    """Return (b) with the batch size that suits it best."""
    timed = []
    for budget in budgets_tokens:
        run = make(budget)
        run(records[:64])
        timed.append((seconds_of(run, records), budget))
    return make(min(timed)[1])


def seconds_of(run: Callable[[Any], Any], records: Any) -> float:
    """Return how long one run takes, to its end on a GPU."""
    begun = time.perf_counter()
    run(records)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


class _Plain(torch.nn.Module):
    """ids and mask in, rewards out, as exporters want a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def onnx_runner(model: Any, place: Path, threads: int) -> Callable[[torch.Tensor, torch.Tensor], np.ndarray]:
    """Export to ONNX and return what runs it."""
    import onnxruntime

    ids = torch.ones(2, 24, dtype=torch.int64)
    batch, width = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    torch.onnx.export(
        _Plain(model), (ids, ids), str(place / "model.onnx"), dynamo=True, verbose=False,
        dynamic_shapes={"input_ids": {0: batch, 1: width}, "attention_mask": {0: batch, 1: width}},
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(place / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda ids, mask: session.run(None, dict(zip(names, (ids.numpy(), mask.numpy()), strict=True)))[0][:, 0]


def openvino_runner(model: Any, threads: int) -> Callable[[torch.Tensor, torch.Tensor], np.ndarray]:
    """Convert for OpenVINO, in the precision that it takes by itself, and return what runs it."""
    import openvino

    ids = torch.ones(2, 24, dtype=torch.int64)
    converted = openvino.convert_model(_Plain(model), example_input=(ids, ids), input=[([-1, -1], np.int64), ([-1, -1], np.int64)])
    compiled = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1})
    return lambda ids, mask: np.asarray(compiled([ids.numpy(), mask.numpy()])[0])[:, 0]


def cross_encoder(directory: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Callable[[Sequence[str]], Any]:
    """Return (c), which reads texts and pads by itself."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(directory), num_labels=1, device=device, model_kwargs={"dtype": dtype})
    return lambda texts: encoder.predict([(text, word) for text in texts for word in WORDS], batch_size=64, show_progress_bar=False)


def best_matmul(dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the operations per second of the best square matrix product."""
    best = 0.0
    for size in SQUARES:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        a @ b
        taken = min(seconds_of(lambda pair: pair[0] @ pair[1], (a, b)) for _ in range(REPETITIONS))
        best = max(best, 2 * size**3 / taken)
    return best


def operations(records: Sequence[Sequence[int] | Ids], encoder: Encoder, config: Any) -> float:
    """Return the operations that both rewards of these records need at least: no padding, no head, the last layer where it is read."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    key_value = 2 * hidden * config.num_key_value_heads / config.num_attention_heads
    rest = 2 * hidden * hidden + 3 * hidden * inner  # queries, output, MLP
    head = len(encoder.template.head)
    total = 0.0
    for ids in records:
        tokens = len(ids) + encoder.template.shared_overhead_tokens - head
        total += 2 * (layers - 1) * tokens * (hidden * key_value + rest) + 2 * (tokens * hidden * key_value + 2 * rest)
        total += 2 * (layers - 1) * tokens * (tokens + 1 + 2 * head) * hidden + 2 * 2 * 2 * (tokens + head) * hidden
    return total


def peak_share(encoder: Encoder, records: Sequence[Sequence[int]], dtype: torch.dtype) -> dict[str, Any]:
    """Return the share of the best matrix product of a type that a model of hidden 384 × 6 reaches."""
    torch.manual_seed(0)
    config = Qwen2Config(**LARGE, vocab_size=2_000, pad_token_id=encoder.pad_id, max_position_embeddings=2_048)
    config.num_labels = 1
    scorer = Scorer(Qwen2ForSequenceClassification(config).eval(), encoder, 8_192, dtype)
    scorer.budget_tokens, _ = fastest_budget(scorer, 8_192)
    best = best_matmul(dtype)
    reached = operations(records, encoder, config) / min(seconds_of(scorer.rewards, records) for _ in range(5))
    return {
        "peak_type": str(dtype).removeprefix("torch."),
        "best_gflops": round(best / 1e9),
        "reached_gflops": round(reached / 1e9),
        "peak_share": round(reached / best, 3),
    }


def main() -> None:
    """Run all and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        twins = readable(3_000, 0)
        starter, _ = starter_in(place, tables_in(place, GateSettings(), TrainSettings()), twins, steps=given.steps)
        keep("scoring", compare(starter / "reward", place, [twin.value for twin in twins], given))


def compare(directory: Path, place: Path, twins: Sequence[bytes], given: argparse.Namespace) -> dict[str, Any]:
    """Time the scorer and every peer in turns; return ratios and the differences from the truth."""
    contents = [reading for value in twins if isinstance(reading := decode_value(value, "auto"), Content)]
    texts = [text_of(content) for content in contents][: given.records]
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 2_048)
    records = [ids for ids in encoder.encode(texts) if ids is not None]

    def load(dtype: torch.dtype) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa").eval()

    model, model_bf16 = load(torch.float32), load(torch.bfloat16)
    ours = {str(dtype).removeprefix("torch."): Scorer(model, encoder, 8_192, dtype) for dtype in (torch.float32, torch.bfloat16)}
    # without instructions for it bfloat16 is emulated, in minutes for what float32 does in seconds: nobody would run it, here or in a peer
    fast = ours if has_bfloat16_products() else {"float32": ours["float32"]}
    for scorer in fast.values():
        scorer.budget_tokens, _ = fastest_budget(scorer, 8_192)
    contenders: dict[str, tuple[Callable[[Any], Any], Any]] = {f"winnow_{name}": (scorer.rewards, records) for name, scorer in fast.items()}
    contenders["winnow_from_text"] = (lambda some: fastest_of(ours).rewards([ids or [] for ids in encoder.encode(some)]), texts)
    contenders["two_chat"] = (lambda some: reference_rewards(model, encoder, some), records[:_SINGLE])
    contenders["padded_fp32"] = (fastest_padding(lambda budget: padded(model, encoder, budget), records), records)
    missing: dict[str, str] = {}
    if "bfloat16" in fast:
        contenders["padded_bf16"] = (fastest_padding(lambda budget: padded(model_bf16, encoder, budget), records), records)
    else:
        missing["padded_bf16"] = "this processor has no bfloat16 products"
    for peer, make in (
        ("cross_encoder", lambda: (cross_encoder(directory), texts)),
        ("onnx", lambda: (_padded_by(onnx_runner(model, place, given.threads), encoder, records), records)),
        ("openvino", lambda: (_padded_by(openvino_runner(model, given.threads), encoder, records), records)),
    ):
        try:
            contenders[peer] = make()
        except Exception as error:  # noqa: BLE001 - a peer that does not run here is said to be missing, with its own reason
            missing[peer] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    speed: dict[str, list[float]] = {peer: [] for peer in contenders}
    for run, some in contenders.values():
        run(some)  # warm
    for _ in range(given.rounds):
        for peer, (run, some) in contenders.items():
            speed[peer].append(len(some) / seconds_of(run, some))
    medians = {peer: float(np.median(each)) for peer, each in speed.items()}
    mine = max(medians[f"winnow_{name}"] for name in fast)
    against = {"cross_encoder": medians["winnow_from_text"]}  # it reads texts, so tokenising counts for both
    truth = reference_rewards(model, encoder, records[:_TRUTHS])

    def p_of(rewards: np.ndarray) -> np.ndarray:
        p: np.ndarray = 1 / (1 + np.exp(-(rewards[:, 0] - rewards[:, 1])))
        return p

    found = {name: scorer.rewards(records if name in fast else records[:_TRUTHS])[:_TRUTHS] for name, scorer in ours.items()}
    large = peak_share(encoder, records[:400], torch.bfloat16 if "bfloat16" in fast else torch.float32)
    peers = ("two_chat", "padded_fp32", "padded_bf16", "cross_encoder", "onnx", "openvino")
    return {
        "records": len(records),
        "tokens_mean": round(float(np.mean([len(ids) + encoder.template.shared_overhead_tokens for ids in records])), 1),
        "threads": given.threads,
        "records_per_second": {peer: round(each, 1) for peer, each in medians.items()},
        **{f"vs_{peer}": round(against.get(peer, mine) / medians[peer], 2) if peer in medians else None for peer in peers},
        "float32_vs_padded_fp32": round(medians["winnow_float32"] / medians["padded_fp32"], 2),
        **{f"{peer}_reason": why for peer, why in missing.items()},
        **large,
        "max_abs_diff_fp32": float(np.abs(found["float32"] - truth).max()),
        "max_abs_diff_p_bf16": float(np.abs(p_of(found["bfloat16"]) - p_of(truth)).max()),
    }


def fastest_of(ours: dict[str, Scorer]) -> Scorer:
    """Return the scorer that a gate would take here."""
    return ours["bfloat16"] if has_bfloat16_products() else ours["float32"]


def _padded_by(
    run: Callable[[torch.Tensor, torch.Tensor], np.ndarray], encoder: Encoder, records: Sequence[Sequence[int]]
) -> Callable[[Any], Any]:
    return fastest_padding(lambda budget: lambda some: _in_batches(some, encoder, budget, run), records)


if __name__ == "__main__":
    main()
