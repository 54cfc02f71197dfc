"""Training for real, small: starter determinism, full and LoRA with TRL, stock TRL on our files, adoption of its checkpoint."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from demo.twins import take
from foundation.errors import DataRefused, FingerprintDiffers, ModelRefused, SettingInvalid
from model_registry.config import RegistrySettings
from model_registry.manifest import Calibration, Threshold
from model_registry.registry import CHALLENGER, CHAMPION, Registry
from model_registry.report import REPORT_JSON
from stream.config import GateSettings, KafkaSettings
from stream.decode import decode_value
from stream.evidence import EVIDENCE_FILE
from stream.judge import Judge
from stream.live_model import load_live_model, load_scorer
from stream.records import Content
from stream.render import Rendered, render
from stream.rules import Rules
from stream.score import reference_rewards
from stream.score_file import judge_values
from tests.conftest import WORDS
from trainer import train as training
from trainer.bases import encoder_of, load_base
from trainer.calibrate import cold_threshold, fit, right_held_threshold
from trainer.config import TrainSettings
from trainer.data import convert
from trainer.datasets import Labelled, write_labelled
from trainer.joint import changed_range
from trainer.one_pass import OnePassRewardTrainer, PairCollator
from trainer.pairs import RENDERING, encode_labelled, text_of_content, verdict_pairs
from trainer.publish import Facts, publish, save
from trainer.reward import train_reward
from trainer.starter import Plan, Shape, save_starter, train_starter
from trainer.starter_files import digest_of
from trainer.train import import_checkpoint, learn_from, scorer_of, train_and_publish
from trainer.unlabelled import unlabelled_of

pytestmark = pytest.mark.integration
TINY = Shape(hidden=32, layers=3, heads=2, inner=64, vocabulary=600, max_length=512)


@pytest.fixture
def tables(tmp_path: Path) -> Any:
    return SimpleNamespace(kafka=KafkaSettings(), gate=GateSettings(), registry=RegistrySettings(url=str(tmp_path / "registry")))


@pytest.fixture
def verdicts(tmp_path: Path) -> Path:
    path = tmp_path / "verdicts.jsonl"
    twins = take(60, 9, wrong_share=0.5, unreadable_share=0.0)
    write_labelled([Labelled(twin.value.decode(), not twin.truth.is_wrong) for twin in twins], path, "preference", WORDS)
    return path


def test_same_seed_and_steps_give_the_same_digest(twin_texts: list[Rendered], tmp_path: Path) -> None:
    digests = []
    for run, seed in enumerate((1, 1, 2)):
        made = train_starter(twin_texts, WORDS, Plan(steps=6, seed=seed, pairs_per_batch=4), TINY)
        save_starter(made, [record.text for record in twin_texts], tmp_path / str(run), {})
        digests.append(digest_of(tmp_path / str(run)))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert digests[0].startswith("sha256:")


def test_minutes_become_steps_and_steps_alone_decide(twin_texts: list[Rendered], tmp_path: Path) -> None:
    said: list[int] = []
    timed = train_starter(twin_texts, WORDS, Plan(minutes=0.1, pairs_per_batch=4), TINY, started=said.append)
    assert said == [timed.steps]
    fixed = train_starter(twin_texts, WORDS, Plan(steps=timed.steps, pairs_per_batch=4), TINY)
    assert save_starter(timed, [], tmp_path / "a", {}) == save_starter(fixed, [], tmp_path / "b", {})


@pytest.mark.parametrize("held_out", [10, 60])
def test_held_out_verdicts_are_weighed_only_where_nothing_is_compared_on_them_later(
    tables: Any, starter_directory: Path, tmp_path: Path, held_out: int
) -> None:
    twins = take(50 + held_out, 9, wrong_share=0.5, unreadable_share=0.0)
    labelled = [Labelled(twin.value.decode(), not twin.truth.is_wrong) for twin in twins]
    settings, found = TrainSettings(epochs=0.2), {}
    for is_measured_once in (False, True):
        base = load_base(str(starter_directory))
        stream = unlabelled_of(base, None, tables)
        encoder = encoder_of(base, WORDS, settings.max_length)
        work = tmp_path / str(is_measured_once)
        work.mkdir()
        learned = learn_from(base, encoder, labelled[:50], labelled[50:], stream, settings, work, is_measured_once=is_measured_once)
        assert learned.evidence is not None
        found[is_measured_once] = learned
    assert np.array_equal(found[False].d_test, found[True].d_test), "what is measured has not seen them"
    assert found[False].metrics == found[True].metrics
    assert np.array_equal(found[False].p_test, found[True].p_test), "nor has what the report says"
    assert found[True].measured_with == found[False].calibration != Calibration()
    if held_out > 50:
        assert found[True].calibration == found[False].calibration, "that of verdicts which had taught nothing stays"
    assert found[False].evidence.text != found[True].evidence.text
    assert np.array_equal(found[False].judged(found[False].test_set).d, found[False].d_test), (
        "a version of a cycle is the one that was measured"
    )


def test_what_happened_to_a_record_called_wrong_reaches_pairs_and_evidence(
    tables: Any, starter_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = [twin for twin in take(200, 9, unreadable_share=0.0) if not twin.truth.is_wrong and not twin.value.startswith(b"{")]
    right = [twin.value.decode() for twin in twins[:40]]
    wrong = [Labelled(f"{content}☃", False, correction=content) for content in right[:10]]
    told = dict[str, Any]()
    for name in ("contrastive_pairs", "weigh"):
        monkeypatch.setattr(f"trainer.train.{name}", partial(_told, told, name, getattr(training, name)))
    base, settings = load_base(str(starter_directory)), TrainSettings(epochs=0.2)
    encoder = encoder_of(base, WORDS, settings.max_length)
    said = [*wrong[:9], *(Labelled(content, True) for content in right[10:]), wrong[9]._replace(doubt=0.3)]
    learn_from(base, encoder, said, [wrong[9]], unlabelled_of(base, None, tables), settings, tmp_path)
    edits = told["weigh"][4]
    assert set(edits) == {text_of_content(each.content) for each in wrong[:9]}, "what is doubted teaches nothing"
    assert {(edit.old, edit.new) for each in edits.values() for edit in each} == {("", "☃")}
    assert told["contrastive_pairs"][4] == list(edits.values())


def _told(told: dict[str, Any], name: str, really: Callable[..., Any], *given: Any) -> Any:
    told[name] = given
    return really(*given)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_one_pass_over_a_pair_has_the_loss_and_gradient_of_two_plain_chats(attention: str, starter_directory: Path, tmp_path: Path) -> None:
    directory = starter_directory / "reward"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    random = np.random.default_rng(3)

    def ids(count: int) -> list[int]:
        return [int(each) for each in random.integers(5, 500, count)]

    pad = tokenizer.pad_token_id
    pairs = [([*(same := ids(n)), *ids(a)], [*same, *ids(b)]) for n, a, b in ((30, 2, 3), (1, 1, 1), (0, 4, 9), (57, 1, 2))]
    pairs.append(([9, 8, 7, pad], [9, 8, 7, 6, pad]))  # the first is read at a token that both share
    columns = {"chosen_ids": [c for c, _ in pairs], "rejected_ids": [r for _, r in pairs], "margin": [0.0, 1.0, 0.5, 0.2, 0.0]}
    found = []
    for ours in (False, True):
        model = AutoModelForSequenceClassification.from_pretrained(directory, attn_implementation=attention)
        config = RewardConfig(
            output_dir=str(tmp_path / str(ours)), use_cpu=True, bf16=False, max_length=None, report_to="none",
            center_rewards_coefficient=0.01, gradient_checkpointing=False, dataloader_pin_memory=False, remove_unused_columns=True,
        )  # fmt: skip
        more = {"weight": [1.0] * len(pairs), "doubt": [0.0] * len(pairs)} if ours else {}
        kind, collator = (OnePassRewardTrainer, {"data_collator": PairCollator(pad)}) if ours else (RewardTrainer, {})
        trainer = kind(
            model=model, args=config, train_dataset=Dataset.from_dict({**columns, **more}), processing_class=tokenizer, **collator
        )
        trainer.model.eval()
        batch = trainer.data_collator(
            [{**dict(zip(columns, row, strict=True)), "weight": 1.0, "doubt": 0.0} for row in zip(*columns.values(), strict=True)]
        )
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        found.append((loss.item(), {name: each.grad.clone() for name, each in trainer.model.named_parameters() if each.grad is not None}))
    (plain, of_plain), (one, of_one) = found
    assert one == pytest.approx(plain, abs=1e-6)
    assert of_plain.keys() == of_one.keys()
    for name, gradient in of_plain.items():
        assert torch.allclose(gradient, of_one[name], atol=1e-6), name


def test_layers_that_are_run_again_learn_the_same(starter_directory: Path, tmp_path: Path) -> None:
    twins = take(12, 4, unreadable_share=0.0)
    found = []
    for is_run_again in (False, True):
        base = load_base(str(starter_directory))
        encoder = encoder_of(base, WORDS, 512)
        said = encode_labelled([Labelled(twin.value.decode(), not twin.truth.is_wrong) for twin in twins], encoder, RENDERING)
        settings = TrainSettings(epochs=1, batch_size=4, gradient_checkpointing=is_run_again)
        train_reward(base, verdict_pairs(said, encoder), [], settings, tmp_path / str(is_run_again))
        found.append({name: each.detach().clone() for name, each in base.model.named_parameters()})
    before = dict(load_base(str(starter_directory)).model.named_parameters())
    assert any(not torch.equal(before[name], each) for name, each in found[0].items()), "it has learned"
    for name, each in found[0].items():
        torch.testing.assert_close(found[1][name], each, atol=1e-5, rtol=1e-4, msg=name)


def test_what_other_records_say_is_part_of_the_rewards(tables: Any, starter_directory: Path, verdicts: Path) -> None:
    settings = TrainSettings(epochs=1, contrastive_per_verdict=2)
    told = train_and_publish(tables, settings, str(starter_directory), str(verdicts), None)
    alone = train_and_publish(tables, settings.model_copy(update={"evidence": False}), str(starter_directory), str(verdicts), None)
    registry = Registry(tables.registry)
    assert EVIDENCE_FILE in told.manifest.files
    assert EVIDENCE_FILE not in alone.manifest.files
    gate = GateSettings(explain=False, precision="float32")
    live, text_alone = (load_live_model(registry.verified(version.label), gate) for version in (told, alone))
    values = [twin.value for twin in take(60, 77, unreadable_share=0.0)]
    contents = [content for value in values if isinstance(content := decode_value(value, "auto"), Content)]
    evidence = [live.evidence.of(render(content)) for content in contents]  # type: ignore[union-attr]
    assert live.d_of(contents) == pytest.approx([d + e for d, e in zip(text_alone.d_of(contents), evidence, strict=True)], abs=1e-3)  # type: ignore[operator]
    rows = [decision for _, _, decision in judge_values(values, Judge(gate, Rules(), live))]
    assert [row.rewards.d for row in rows] == pytest.approx(live.d_of(contents), abs=1e-3)  # type: ignore[union-attr]
    assert [row.p_chosen for row in rows] == [live.calibration.p_chosen(row.rewards.d) for row in rows]  # type: ignore[union-attr]


def test_two_processes_share_one_training(tables: Any, starter_directory: Path, verdicts: Path) -> None:
    settings = TrainSettings(epochs=1, batch_size=4, contrastive_per_verdict=2)
    alone, shared = (
        train_and_publish(tables, settings.model_copy(update={"processes": count}), str(starter_directory), str(verdicts), None)
        for count in (1, 2)
    )
    registry = Registry(tables.registry)
    steps = [json.loads(registry.read(version, REPORT_JSON) or b"")["losses"][-1][0] for version in (alone, shared)]
    assert abs(steps[0] - 2 * steps[1]) <= 10, "each step has the pairs of two"  # noted every ten steps
    assert steps[1] >= 10
    assert shared.manifest.data_counts == alone.manifest.data_counts
    assert abs(shared.manifest.metrics["eval_loss"] - alone.manifest.metrics["eval_loss"]) < 0.2
    load_live_model(registry.verified("2"), GateSettings())


def test_the_starter_is_two_ordinary_directories(starter_directory: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(starter_directory / "lm")
    tokenizer = AutoTokenizer.from_pretrained(starter_directory / "lm")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "北京"}], add_generation_prompt=True, return_tensors="pt")
    assert lm.generate(**asked, max_new_tokens=3, do_sample=False).shape[1] > asked["input_ids"].shape[1]
    reward = AutoModelForSequenceClassification.from_pretrained(starter_directory / "reward")
    assert reward.config.num_labels == 1
    for name, weight in reward.model.state_dict().items():
        assert np.array_equal(weight.numpy(), lm.model.state_dict()[name].numpy())


def test_too_few_records_are_refused(twin_texts: list[Rendered]) -> None:
    with pytest.raises(DataRefused, match="10 records are too few"):
        train_starter(twin_texts[:10], WORDS, Plan(steps=1), TINY)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_publishes_a_version_that_serves(method: str, tables: Any, starter_directory: Path, verdicts: Path) -> None:
    settings = TrainSettings(method=method, epochs=1, batch_size=8)  # type: ignore[arg-type]
    first = train_and_publish(tables, settings, str(starter_directory), None, None)
    second = train_and_publish(tables, settings, str(starter_directory), str(verdicts), None)
    registry = Registry(tables.registry)
    assert registry.aliases() == {CHAMPION: 1, CHALLENGER: 2}
    assert first.manifest.threshold.certified is False
    assert first.manifest.threshold.reason == "no verdicts"
    manifest = second.manifest
    assert manifest.method == method
    assert 0 <= manifest.metrics["eval_accuracy"] <= 1
    assert manifest.data_counts["contrastive"] == settings.contrastive_per_verdict * manifest.data_counts["train"]
    assert manifest.data_counts["train"] + manifest.data_counts["held_out"] == 60
    assert any(name.startswith("adapter/") for name in manifest.files) == (method == "lora")
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in manifest.files)
    live = load_live_model(registry.verified("2"), GateSettings(precision="float32"))
    ids = [i for i in live.scorer.encoder.encode(["name: 北京", "phone: ddee"]) if i is not None]
    whole = load_scorer(registry.verified("2"), torch.device("cpu"), 8_192)
    assert np.abs(live.scorer.rewards(ids) - reference_rewards(whole.model, whole.encoder, ids)).max() <= 1e-5


def test_a_model_that_comes_back_with_other_rewards_is_not_published(tables: Any, starter_directory: Path, tmp_path: Path) -> None:
    base = load_base(str(starter_directory))
    scorer = scorer_of(base.model, encoder_of(base, WORDS, 512))
    off = SimpleNamespace(encoder=scorer.encoder, rewards=lambda ids: scorer.rewards(ids) + 0.5)
    saved = save(base.model, base.tokenizer, off, tmp_path)  # type: ignore[arg-type]
    facts = Facts(base.name, "starter", "fields@1", Calibration(), Threshold(p_chosen=0.5, chosen_by="the middle", reason=""), {}, {})
    registry = Registry(tables.registry)
    with pytest.raises(FingerprintDiffers, match=r"in a fresh process: they differ by 0\.5"):
        publish(registry, saved, facts)
    assert registry.versions() == []


def test_a_base_without_a_head_needs_data(tables: Any, starter_directory: Path) -> None:
    with pytest.raises(ModelRefused, match="no trained reward head"):
        train_and_publish(tables, TrainSettings(), str(starter_directory / "lm"), None, None)
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        train_and_publish(tables, TrainSettings(), str(starter_directory / "nothing"), None, None)
    with pytest.raises(SettingInvalid, match="starter sha256.* was made with"):
        train_and_publish(tables, TrainSettings(verdict_words=("1", "0")), str(starter_directory), None, None)


def test_stock_trl_trains_on_our_files_and_we_adopt_what_it_saves(
    tables: Any, starter_directory: Path, verdicts: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in verdicts.read_text().splitlines()]
    columns = {name: [row[name] for row in rows] for name in ("chosen", "rejected")}
    base = starter_directory / "reward"
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(base),
        args=RewardConfig(output_dir=str(tmp_path / "trl"), max_steps=2, use_cpu=True, bf16=False, report_to="none",
                          gradient_checkpointing=False, dataloader_pin_memory=False, disable_tqdm=True, save_strategy="no"),
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(tmp_path / "adopt"))
    version = import_checkpoint(tables, TrainSettings(), tmp_path / "adopt", "chat")
    assert version.manifest.method == "imported"
    assert "training_args.bin" not in version.manifest.files
    live = load_live_model(Registry(tables.registry).verified("1"), GateSettings(precision="float32"))
    text = "南京市玄武区"
    chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": word}] for word in WORDS]
    tokenizer = trainer.processing_class
    encoded = [tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), return_tensors="pt") for chat in chats]
    with torch.no_grad():
        stock = [float(trainer.model.eval()(**each).logits) for each in encoded]
    [ids] = live.scorer.encoder.encode([text])
    assert ids is not None
    assert np.abs(live.scorer.rewards([ids])[0] - np.array(stock)).max() <= 1e-4
    joined = import_checkpoint(tables, TrainSettings(), tmp_path / "adopt", "joined")
    assert joined.manifest.encoding == "joined@1"
    with pytest.raises(SettingInvalid, match="--template xml is not one of chat, joined"):
        import_checkpoint(tables, TrainSettings(), tmp_path / "adopt", "xml")
    with pytest.raises(SettingInvalid, match="none is no directory"):
        import_checkpoint(tables, TrainSettings(), tmp_path / "none", "chat")
    (tmp_path / "none").mkdir()
    with pytest.raises(ModelRefused, match="cannot be imported"):
        import_checkpoint(tables, TrainSettings(), tmp_path / "none", "chat")


def test_ranked_answers_train_a_reward_that_orders_them_with_trl_itself(starter_directory: Path, tmp_path: Path) -> None:
    best_first = ["B", "A", "C", "D"]
    names = sorted({twin.value.decode()[:30] for twin in take(60, 9, unreadable_share=0.0)})
    held_out = names[::6]
    for part, prompts in (("train", [name for name in names if name not in held_out]), ("test", held_out)):
        ranked = tmp_path / f"{part}.jsonl"
        ranked.write_text("".join(json.dumps({"prompt": name, "answers": best_first}) + "\n" for name in prompts))
        assert convert(str(ranked), tmp_path / "parts" / f"{part}.jsonl", "preference", WORDS) == 6 * len(prompts)
    trl = Path(sys.executable).with_name("trl")
    done = subprocess.run(
        [trl, "reward", "--dataset_name", tmp_path / "parts", "--model_name_or_path", starter_directory / "reward",
         "--output_dir", tmp_path / "out", "--use_cpu", "true", "--bf16", "false", "--gradient_checkpointing", "false",
         "--max_steps", "60", "--learning_rate", "3e-3", "--report_to", "none", "--save_strategy", "no"],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert len(held_out) >= 5
    for name in held_out:
        chats = [[{"role": "user", "content": name}, {"role": "assistant", "content": answer}] for answer in best_first]
        with torch.no_grad():
            said = [float(model(**tokenizer(tokenizer.apply_chat_template(c, tokenize=False), return_tensors="pt")).logits) for c in chats]
        assert said == sorted(said, reverse=True), name


def test_changed_range() -> None:
    assert changed_range([1, 2, 3], [1, 9, 3]) == (1, 2)
    assert changed_range([1, 2, 3], [1, 3]) == (1, 2)
    assert changed_range([1, 2], [1, 2, 2]) == (2, 3)
    assert changed_range([1, 2, 3], [1, 2]) == (1, 2)


def test_calibration_and_thresholds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(4_000) < 0.7
    d = np.where(truth, 3.0, -3.0) * 2 + rng.normal(0, 6, 4_000)
    calibration = fit(d, truth, np.ones(len(d)))
    assert 2 < calibration.temperature < 5
    assert fit(d[:5], truth[:5], np.ones(5)).temperature == 1.0
    p = np.linspace(0, 1, 1_000)
    assert cold_threshold(p, 0.05).p_chosen == pytest.approx(0.05, abs=0.002)
    held = p < right_held_threshold(p, 0.05).p_chosen
    assert p[held].sum() / p.sum() == pytest.approx(0.05, abs=0.005)
