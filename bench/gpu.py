"""The scorer on a GPU against what an operator could put in its place: Qwen2-0.5B's real shape with random weights.

Records of 30, 100, 300 and 1,000 tokens of real text, and twins as they come. Peers read the same model, and every round runs
each once: (b) two chats a record, padded in batches of like length, in bfloat16 and float32; (a) the same one at a time; (c)
CrossEncoder, from texts; (d) ONNX Runtime; (e) vLLM and SGLang. `peak_share` is what is reached of the best square bf16 product, in the
operations that the records need; `vs_padded_pass` is what kernels of our own and no padding give over our pass of CPUs. The last line is
one JSON object.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForSequenceClassification

from bench.constant import WORDS
from bench.machine import keep
from bench.scoring import best_matmul, cross_encoder, fastest_padding, operations, padded, seconds_of
from bench.starters import readable
from stream.batching import batches
from stream.decode import decode_value
from stream.encode import Encoder
from stream.live_model import budgets, fastest_budget
from stream.records import Content
from stream.render import render
from stream.score import Scorer, reference_rewards
from stream.shared_pass import SharedPass
from stream.tokenise import Ids
from trainer.starter import Shape, train_tokenizer

LENGTHS = (30, 100, 300, 1_000)
QWEN2: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4_864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "max_position_embeddings": 32_768, "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6, "num_labels": 1,
}  # fmt: skip
# as Qwen2's own: a system line that every record shares, and lines that end
CHATML = (
    "{% for message in messages %}{% if loop.first %}{{ '<|system|>You are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
)
PADDED_TOKENS = (16_384, 65_536, 131_072)
SECONDS_OF_WORK, TRUTHS, SINGLE, CROSSED = 1.5, 100, 20, 256
SPREAD = 0.02  # of random weights, as Qwen2 is initialised
PUBLISHED_TFLOPS = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H200": 989}  # dense bfloat16, by NVIDIA's data sheets


def texts_of(count: int, seed: int) -> list[str]:
    """Return so many twins as the gate would show them to a model."""
    readings = [decode_value(twin.value, "auto") for twin in readable(count, seed)]
    return [render(reading).text for reading in readings if isinstance(reading, Content)]


def records_of(flat: Sequence[int], tokens: int, count: int) -> list[list[int]]:
    """Cut so many records of so many tokens out of one long text, each beginning elsewhere."""
    starts = np.random.default_rng(tokens).integers(0, len(flat) - tokens, count)
    return [list(flat[start : start + tokens]) for start in starts.tolist()]


def qwen2(pad_id: int) -> Any:
    """Return a model of Qwen2-0.5B's shape; gains and biases have values that show when they are left out."""
    torch.manual_seed(0)
    model = Qwen2ForSequenceClassification(Qwen2Config(**QWEN2, pad_token_id=pad_id))
    for name, each in model.named_parameters():
        if each.dim() == 1:
            torch.nn.init.normal_(each, 1.0 if "norm" in name else 0.0, 0.1)
    torch.nn.init.normal_(model.get_parameter("score.weight"), 0.0, SPREAD * 5)
    return model.eval()


def main() -> None:
    """Run all and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench.gpu needs an NVIDIA GPU; torch sees none here")
    with tempfile.TemporaryDirectory() as name:
        keep("gpu", measured(Path(name), given.rounds, given.lengths))


def measured(place: Path, rounds: int, lengths: Sequence[int]) -> dict[str, Any]:
    """Return the figures of every length."""
    device = torch.device("cuda")
    texts = texts_of(3_000, 0)
    tokenizer = train_tokenizer(texts, WORDS, Shape())
    tokenizer.chat_template = CHATML
    encoder = Encoder(tokenizer, WORDS, "chat@1", 2_048)
    model = qwen2(encoder.pad_id)
    begun = time.perf_counter()
    scorer = Scorer(model, encoder, budgets(device, None)[-1], torch.bfloat16, device)
    packed_seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    scorer.budget_tokens, _ = fastest_budget(scorer, None)
    warm_seconds = time.perf_counter() - begun
    print(f"budget {scorer.budget_tokens}, packed in {packed_seconds:.1f} s, warm in {warm_seconds:.1f} s", flush=True)
    best = best_matmul(torch.bfloat16, "cuda")
    chip = torch.cuda.get_device_name()
    flat = [token for ids in encoder.encode(texts) for token in ids or []]
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    peers, missing, rough = peers_of(place, encoder, tokenizer)
    peers = {"padded_pass": padded_pass(model, encoder), **peers}
    found: dict[str, Any] = {}
    for tokens in lengths:
        found[str(tokens)] = of_length(scorer, peers, records_of(flat, tokens, 4_096), rounds, best)
        print(tokens, found[str(tokens)], flush=True)
    as_they_come = [ids for ids in encoder.encode(texts) if ids is not None]
    found["twins"] = of_length(scorer, {}, as_they_come, rounds, best)
    head, overhead = len(encoder.template.head), encoder.template.shared_overhead_tokens
    return {
        "gpu": chip, "torch": torch.__version__, "best_tflops": round(best / 1e12), "published_tflops": PUBLISHED_TFLOPS.get(chip),
        "budget_tokens": scorer.budget_tokens, "pack_seconds": round(packed_seconds, 1), "warm_seconds": round(warm_seconds, 1),
        "head_tokens": head, "tokens_beside_a_record": overhead - head, "lengths": found,
        **{f"{peer}_reason": why for peer, why in missing.items()}, **differences(scorer, model, rough, records_of(flat, 60, TRUTHS)),
        "where_time_goes": where_time_goes(scorer, records_of(flat, 300, 200)),
    }  # fmt: skip


class Peer(NamedTuple):
    """What runs, what it is given for records, and for how many at most."""

    run: Callable[[Any], Any]
    given: Callable[[Sequence[Sequence[int]]], Any]
    most: int


def padded_pass(model: Any, encoder: Encoder) -> Callable[[Sequence[Sequence[int]]], Peer]:
    """Return our own pass of CPUs on this GPU: records of like length, padded, in torch's operations."""
    shared = SharedPass(model, encoder.template, encoder.pad_id, torch.bfloat16, torch.device("cuda"))

    def run(records: Sequence[Sequence[int]]) -> list[np.ndarray]:
        planned = batches([len(ids) + encoder.template.shared_overhead_tokens for ids in records], PADDED_TOKENS[0])
        found = [shared.rewards([records[place] for place in places]) for places in planned]
        return [each.cpu().numpy() for each in found]

    return lambda records: Peer(run, list, max(32, 2 * PADDED_TOKENS[-1] // len(records[0])))


def peers_of(
    place: Path, encoder: Encoder, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, Callable[..., Peer]], dict[str, str], Any]:
    """Return what makes each peer that runs here of records to be tuned on, why others do not run, and the model in bfloat16."""

    def load(dtype: torch.dtype) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(place, dtype=dtype, attn_implementation="sdpa").eval().to("cuda")

    rough, exact = load(torch.bfloat16), load(torch.float32)

    def of_padding(model: Any, most_tokens: int) -> Callable[[Sequence[Sequence[int]]], Peer]:
        def make(records: Sequence[Sequence[int]]) -> Peer:
            count = min(len(records), max(32, most_tokens // (2 * len(records[0]))))
            run = fastest_padding(lambda budget: padded(model, encoder, budget), records[:count], PADDED_TOKENS)
            return Peer(run, list, count)

        return make

    found: dict[str, Callable[..., Peer]] = {
        "padded_bf16": of_padding(rough, 2 * PADDED_TOKENS[-1]),
        "padded_fp32": of_padding(exact, PADDED_TOKENS[1]),
        "two_chat_bf16": lambda records: Peer(lambda some: reference_rewards(rough, encoder, some), list, SINGLE),
    }
    missing = {}
    try:
        crossed = cross_encoder(place, "cuda", torch.bfloat16)
        found["cross_encoder"] = lambda records: Peer(crossed, lambda some: [tokenizer.decode(list(ids)) for ids in some], CROSSED)
    except Exception as error:  # noqa: BLE001 - a peer that does not run here is said to be missing, with its own reason
        missing["cross_encoder"] = f"{type(error).__name__}: {str(error)[:200]}"
    for peer in ("vllm", "sglang"):
        missing[peer] = "not installed" if importlib.util.find_spec(peer) is None else "installed, but no run is written"
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
        missing["onnx"] = (
            "installed, but no run is written" if "CUDAExecutionProvider" in providers else f"it has {', '.join(providers)} alone"
        )
    except ImportError:
        missing["onnx"] = "not installed"
    return found, missing, rough


def of_length(scorer: Scorer, peers: dict[str, Callable[..., Peer]], records: list[list[int]], rounds: int, best: float) -> dict[str, Any]:
    """Time the scorer and every peer in turns on records of one length."""
    many = _enough(scorer, [np.array(ids, dtype=np.int32) for ids in records])
    made = {peer: make(records) for peer, make in peers.items()}
    inputs = {peer: each.given(records[: each.most]) for peer, each in made.items()}
    speed: dict[str, list[float]] = {peer: [] for peer in ("winnow", *made)}
    for peer, each in made.items():
        each.run(inputs[peer])
    for _ in range(rounds):
        speed["winnow"].append(len(many) / seconds_of(scorer.rewards, many))
        for peer, each in made.items():
            speed[peer].append(len(inputs[peer]) / seconds_of(each.run, inputs[peer]))
    medians = {peer: float(np.median(taken)) for peer, taken in speed.items()}
    overhead = scorer.encoder.template.shared_overhead_tokens - len(scorer.encoder.template.head)
    tokens = float(np.mean([len(ids) for ids in many])) + overhead
    reached = operations(many, scorer.encoder, scorer.model.config) / len(many) * medians["winnow"]
    return {
        "records_per_second": {peer: round(rate, 1) for peer, rate in medians.items()},
        "tokens_per_second": round(tokens * medians["winnow"]), "reached_tflops": round(reached / 1e12, 1),
        "peak_share": round(reached / best, 3),
        **{f"vs_{peer}": round(medians["winnow"] / medians[peer], 2) for peer in made},
    }  # fmt: skip


def _enough(scorer: Scorer, records: list[Ids]) -> list[Ids]:
    """Return records, as the gate has them, for a second or two of work."""
    scorer.rewards(records)
    taken = seconds_of(scorer.rewards, records)
    return records * max(1, round(SECONDS_OF_WORK / taken))


def differences(scorer: Scorer, model: Any, rough: Any, records: list[list[int]]) -> dict[str, float]:
    """Return how far P is from two plain chats in float32, ours and transformers' in bfloat16, and how far d spreads over these records."""
    truth = reference_rewards(model.to("cuda"), scorer.encoder, records)
    every = (truth, scorer.rewards(records), reference_rewards(rough, scorer.encoder, records))
    d_truth, *_ = d = [each[:, 0] - each[:, 1] for each in every]
    p_truth, p, p_rough = (1 / (1 + np.exp(-each)) for each in d)
    return {
        "max_abs_diff_p_bf16": float(np.abs(p - p_truth).max()), "max_abs_diff_p_transformers_bf16": float(np.abs(p_rough - p_truth).max()),
        "d_spread": float(d_truth.std()), "d_mean": float(d_truth.mean()),
    }  # fmt: skip


def where_time_goes(scorer: Scorer, records: list[list[int]]) -> dict[str, float]:
    """Return the share of a batch's time on the GPU that each kernel of our own takes, matrix products and the rest."""
    scorer.rewards(records)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        scorer.rewards(records)
        torch.cuda.synchronize()
    taken = {"products": 0.0, "_attention": 0.0, "_turn": 0.0, "_gated": 0.0, "_add_normed": 0.0, "rest": 0.0}
    for each in seen.key_averages():
        name = next((ours for ours in taken if each.key.startswith(ours)), None)
        is_product = any(mark in each.key for mark in ("nvjet", "gemm", "cutlass"))
        taken[name or ("products" if is_product else "rest")] += each.self_device_time_total
    return {name.strip("_"): round(each / sum(taken.values()), 3) for name, each in taken.items()}


if __name__ == "__main__":
    main()
