"""What makes a training step cheap changes nothing of what it learns: the last layer where it is read, batches of like length."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, PreTrainedModel

from demo.twins import take
from stream.encode import Encoder
from stream.render import Rendered
from stream.score import SharedBatch, pooled_rewards, shared_batch, trunk_of
from tests.conftest import WORDS
from tests.trunks import KNOWN, trunks
from trainer import joint
from trainer.joint import PairSource
from trainer.last_layer import last_layer_at, read_at
from trainer.noise import features_of
from trainer.one_pass import SORTED_BATCHES, ByLength
from trainer.starter import Plan, Shape, train_starter


@pytest.fixture(scope="module")
def encoder(starter_directory: Path) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(starter_directory / "reward"), WORDS, "chat@1", 512)


def rows_of(encoder: Encoder) -> list[list[int]]:
    return [ids for ids in encoder.encode([twin.value.decode() for twin in take(24, 3, unreadable_share=0.0)]) if ids is not None]


def batch_of(encoder: Encoder) -> tuple[SharedBatch, torch.Tensor]:
    batch = shared_batch(rows_of(encoder), encoder.template, encoder.pad_id, torch.float32)
    return batch, read_at(batch.pooled_B2, batch.ids_BT)


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def assert_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("name", KNOWN)
def test_the_last_layer_where_it_is_read_gives_the_same_rewards_and_gradients(name: str, starter_directory: Path, encoder: Encoder) -> None:
    model = trunks(starter_directory)[name]
    batch, read_BT = batch_of(encoder)
    seen: list[int] = []
    mlp = list(model.get_submodule("model.layers").children())[-1].get_submodule("mlp")
    mlp.get_submodule("down_proj").register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1].numel()))
    whole = pooled_rewards(model, batch)
    before = gradients(model, whole.square().sum())
    with last_layer_at(model, read_BT):
        found = pooled_rewards(model, batch)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)
    assert_alike(before, gradients(model, found.square().sum()))
    assert seen == [read_BT.numel(), int(read_BT.sum())]
    assert pooled_rewards(model, batch).shape == whole.shape
    assert seen[-1] == read_BT.numel(), "afterwards all runs whole again"


def test_a_lora_is_trained_in_the_last_layer_as_well(starter_directory: Path, encoder: Encoder) -> None:
    torch.manual_seed(0)
    given = LoraConfig(r=4, lora_alpha=8, task_type="SEQ_CLS", target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(trunks(starter_directory)["starter"], given)
    batch, read_BT = batch_of(encoder)

    def states() -> torch.Tensor:
        inner: PreTrainedModel = model.get_base_model()
        out = trunk_of(inner)(input_ids=batch.ids_BT, attention_mask=batch.mask_B1TT == 0, position_ids=batch.positions_BT, use_cache=False)
        return out.last_hidden_state[read_BT]

    whole = states()
    before = gradients(model, whole.square().sum())
    assert any("layers.1.mlp" in name and "lora" in name for name in before)
    with last_layer_at(model, read_BT):
        found = states()
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)
    assert_alike(before, gradients(model, found.square().sum()))


@pytest.mark.parametrize("step", ["loss", "next_token_loss"])
def test_the_joint_objective_is_the_same(step: str, twin_texts: list[Rendered], monkeypatch: pytest.MonkeyPatch) -> None:
    made = train_starter(twin_texts[:80], WORDS, Plan(steps=2), Shape(hidden=32, layers=3, heads=2, inner=64, vocabulary=600))
    source = PairSource(twin_texts[:80], made.encoder, 4, 0)
    given: tuple[Any, ...] = (source.next(),) if step == "loss" else source.next_right()
    run: Callable[..., tuple[torch.Tensor, Any]] = getattr(made.model, step)
    found = []
    for is_whole in (True, False):
        if is_whole:
            monkeypatch.setattr(joint, "last_layer_at", lambda *_: nullcontext())
        else:
            monkeypatch.undo()
        torch.manual_seed(5)
        loss, parts = run(*given)
        found.append((loss.item(), parts, gradients(made.model.lm, loss)))
    (whole, its_parts, before), (one, parts, after) = found
    assert one == pytest.approx(whole, rel=1e-5)
    assert parts == pytest.approx(its_parts, rel=1e-5)
    assert_alike(before, after)


def test_what_finds_mistaken_verdicts_reads_two_plain_chats(starter_directory: Path, encoder: Encoder) -> None:
    rows = rows_of(encoder)
    for name in (*KNOWN, "biased"):
        model = trunks(starter_directory)[name]
        found = features_of(model, encoder, rows)
        states = []
        with torch.inference_mode():
            for chat in (chat for ids in rows for chat in encoder.chats(ids)):
                states.append(trunk_of(model)(input_ids=torch.tensor([chat])).last_hidden_state[0, -1])
        difference_NH = torch.stack(states[0::2]) - torch.stack(states[1::2])
        np.testing.assert_allclose(found[:, :-1], difference_NH.numpy(), atol=1e-5)
        head_H = model.get_parameter("score.weight").detach()[0]
        np.testing.assert_allclose(found[:, -1], (difference_NH @ head_H).numpy(), atol=1e-4)


def test_batches_are_of_like_length_and_up_to_chance() -> None:
    lengths = np.random.default_rng(0).integers(40, 120, 16 * SORTED_BATCHES + 103)
    sampler = ByLength(lengths.tolist(), 16, seed=3)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(len(lengths)))
    assert first != second
    assert first == list(ByLength(lengths.tolist(), 16, seed=3))

    def padded(order: list[int]) -> float:
        batches = [lengths[order[at : at + 16]] for at in range(0, len(order), 16)]
        return sum(len(batch) * int(batch.max()) for batch in batches) / int(lengths.sum()) - 1

    assert padded(first) < 0.06
    assert padded(list(range(len(lengths)))) > 0.3
    longest = [int(lengths[first[at : at + 16]].max()) for at in range(0, 16 * SORTED_BATCHES, 16)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True)), "a training must not end with the short ones"
    assert list(ByLength([], 16, 0)) == []
    assert sorted(ByLength([5, 6, 7], 16, 0)) == [0, 1, 2]
