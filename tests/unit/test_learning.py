"""Learning honestly: certificates hold in simulated worlds, only what is not worse takes over, mistakes are found."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.honesty import World, coverage
from bench.starters import tables_in
from model_registry.report import Report, as_html
from stream import wire
from stream.config import GateSettings
from stream.decide import Lotteries
from stream.missed import wrong_passed
from stream.records import Decision, Route, Verdict
from trainer.calibrate import auroc_of, fit
from trainer.certify import Certificate, Refused, certify, drawn_alike, fewest_draws, upper_bound
from trainer.check import check
from trainer.config import TrainSettings
from trainer.datasets import Labelled, is_held_out
from trainer.evaluate import Judged, bounds_of, compare, may_promote
from trainer.metrics import TrainMetrics
from trainer.noise import of_all, treat
from trainer.pairs import RENDERING, Encoded, rendered, wrong_of
from trainer.sort import sort
from trainer.verdicts import settle, weights_of
from trainer.watch import Watcher, is_due

STREAM = np.linspace(0, 1, 1_001)


def verdict(decision: int = 0, *, is_right: bool = True, **more: object) -> Verdict:
    said = {
        "decision_id": f"t:0:{decision}", "topic_id": "", "is_right": is_right, "reviewer": "mei", "time_ms": 1, "key": None,
        "value": b"record %d" % decision, "content_type": "text", "p_chosen": 0.5, "threshold": 0.5, "model_digest": None,
        "reason": "model", "source": "quarantine", "propensity": 1.0, "lottery": None, "blind": False, **more,
    }  # fmt: skip
    return Verdict(**said)  # type: ignore[arg-type]


def test_299_draws_without_a_wrong_one_certify_one_percent() -> None:
    assert fewest_draws(0.01, 0.05) == 299
    assert upper_bound(0, 299, 0.05) <= 0.01 < upper_bound(0, 298, 0.05)
    found = certify(np.full(299, 0.9), np.zeros(299, dtype=bool), STREAM, 0.01, 0.05)
    assert found == Certificate(0.01, 0.05, 299, 0, 0.0)
    refused = certify(np.full(298, 0.9), np.zeros(298, dtype=bool), STREAM, 0.01, 0.05)
    assert refused == Refused("298 audit draws are too few: 1.00% at 95% needs 299 that pass, without one wrong")
    assert certify(np.zeros(0), np.zeros(0, dtype=bool), STREAM, 0.01, 0.05) == Refused("no audit draws")


def test_the_certified_threshold_is_where_the_wrong_begin() -> None:
    p = np.linspace(0, 1, 2_000)
    is_wrong = p < 0.1
    found = certify(p, is_wrong, STREAM, 0.01, 0.05)
    assert isinstance(found, Certificate)
    assert 0.08 <= found.threshold <= 0.12
    all_over = np.arange(2_000) % 20 == 0
    assert isinstance(certify(p, all_over, STREAM, 0.01, 0.05), Refused)


def test_within_what_may_be_held_the_strictest_certified_threshold_serves() -> None:
    p = np.linspace(0, 1, 2_000)
    is_wrong = p < 0.01
    least, within, none = (certify(p, is_wrong, p, 0.02, 0.05, wanted) for wanted in (0.0, 0.1, 0.005))
    assert isinstance(least, Certificate)
    assert least.threshold == 0.0
    assert isinstance(within, Certificate)
    assert within.threshold == pytest.approx(0.1)
    assert within.wrong == 0
    assert none == least


def test_draws_of_a_raised_rate_are_thinned_to_the_chance_of_all_others() -> None:
    propensity, tickets = [0.01] * 300 + [0.03] * 600, np.random.default_rng(0).random(900)
    alike = drawn_alike(propensity, tickets.tolist())
    assert alike[:300].all()
    assert alike[300:].tolist() == (tickets[300:] < 1 / 3).tolist()
    assert 160 < alike[300:].sum() < 240
    trial = drawn_alike([0.001, *propensity], [0.0005, *tickets])
    assert not trial[0], "a short trial at a lower rate does not thin all others"
    assert trial[1:].tolist() == alike.tolist()
    assert drawn_alike([0.01] * 5, [0.999] * 5).all()
    assert drawn_alike([], []).tolist() == []


def test_a_miss_rate_is_weighted_by_how_likely_each_draw_was() -> None:
    passes, is_wrong = np.ones(100, dtype=bool), np.arange(100) < 10
    assert wrong_passed(passes, is_wrong, np.full(100, 0.1)) == pytest.approx((0.1, 0.049, 0.176), abs=1e-3)
    weighted = wrong_passed(passes, is_wrong, np.where(is_wrong, 0.5, 0.1))
    assert weighted is not None
    assert weighted[0] == pytest.approx(20 / 920)
    assert wrong_passed(~passes, is_wrong, np.ones(100)) is None


def test_bounds_hold_in_simulated_worlds() -> None:
    found = coverage(World(audits=1_000, wrong=0.004), worlds=80, seed=1, alpha=0.01, delta=0.05)
    assert found.holds >= 0.93
    assert found.interval_covers >= 0.91
    rare = coverage(World(audits=1_000, wrong=0.002, separation=0.0), worlds=60, seed=2, alpha=0.01, delta=0.05)
    assert rare.certified >= 0.8


def test_a_weight_counts_as_so_many_records() -> None:
    random = np.random.default_rng(4)
    d, is_right, weight = random.normal(size=60), random.random(60) < 0.6, random.integers(1, 5, 60)
    repeated = np.repeat(np.arange(60), weight)
    assert auroc_of(d, is_right, weight.astype(float)) == pytest.approx(auroc_of(d[repeated], is_right[repeated]))
    assert auroc_of(np.zeros(60), is_right) == pytest.approx(0.5)
    assert auroc_of(is_right.astype(float), is_right) == 1.0
    held = fit(d, is_right, weight.astype(float))
    same = fit(d[repeated], is_right[repeated], np.ones(len(repeated)))
    assert held.temperature == pytest.approx(same.temperature, rel=0.1)


def test_each_bound_has_its_95_percent_for_itself() -> None:
    low, high = bounds_of(np.stack([np.arange(101.0), -np.arange(101.0)], axis=1))
    assert low.tolist() == pytest.approx([5.0, -95.0])
    assert high.tolist() == pytest.approx([95.0, -5.0])


def test_only_what_is_not_worse_takes_over() -> None:
    random = np.random.default_rng(0)
    is_right = np.arange(400) % 4 != 0
    good = random.normal(size=400) + 3 * is_right
    bad = random.normal(size=400) + 0.5 * is_right

    def judged(d: np.ndarray) -> Judged:
        return Judged(d, 1 / (1 + np.exp(-d)), 0.6)

    better = compare(judged(good), judged(bad), is_right, np.ones(400), 0)
    assert better is not None
    assert better.auroc == pytest.approx(auroc_of(good, is_right))
    assert better.auroc_low > 0
    assert may_promote(better).promoted
    worse = may_promote(compare(judged(bad), judged(good), is_right, np.ones(400), 0))
    assert not worse.promoted
    assert "may be worse" in worse.why
    assert may_promote(compare(judged(good), judged(good), is_right, np.ones(400), 0)).promoted
    lenient = compare(judged(good), judged(good)._replace(threshold=0.95), is_right, np.ones(400), 0)
    assert "holds fewer wrong records" in may_promote(lenient).why
    few = compare(judged(good[:20]), judged(bad[:20]), is_right[:20], np.ones(20), 0)
    assert "cannot be compared" in may_promote(few).why


def test_the_check_says_what_is_odd() -> None:
    two = check(["a", "b"] * 10_000, [True, False] * 10_000, [False] * 20_000)
    assert [(f.name, f.is_error) for f in two] == [("duplicates", False), ("diversity", True)]
    assert "say only 2 different things" in two[1].sentence
    texts = [f"record {n}" for n in range(100)]
    assert check(texts, [n % 3 > 0 for n in range(100)], [False] * 100) == []
    said = check([*texts, "record 1"], [True] * 100 + [False], [False] * 101)
    assert {f.name for f in said} == {"duplicates", "contradictions", "balance"}
    assert [f.name for f in check([*texts, "record 1"], [n % 2 == 0 for n in range(101)], [False] * 100 + [True])][-1] == "leakage"


def test_a_watching_trainer_trains_when_enough_is_answered_or_what_serves_is_old() -> None:
    settings = TrainSettings(retrain_verdicts=100, retrain_hours=2)
    assert is_due(100, 0, 0.0, settings)
    assert not is_due(99, 0, 0.0, settings)
    assert is_due(1, 0, 7_201.0, settings)
    assert not is_due(0, 0, 1e9, settings), "nothing new is to be learned"
    assert not is_due(150, 150, 1e9, settings), "refused with the same verdicts before"
    assert is_due(151, 150, 7_201.0, settings)


def test_a_watching_trainer_outlives_too_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_little(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand so on")

    monkeypatch.setattr("trainer.watch.finish_interrupted", too_little)
    metrics, tables = TrainMetrics(), tables_in(tmp_path, GateSettings(), TrainSettings())
    watcher = Watcher(tables, tables.train, None, None, metrics)
    assert [watcher.look(), watcher.look()] == [10, 20]
    assert metrics.registry.get_sample_value("winnow_train_cycles_total", {"outcome": "failed"}) == 2
    assert vars(caplog.records[0])["detail"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB"


def test_suspects_are_left_out_softened_or_turned_round() -> None:
    records = [Labelled(str(n), True) for n in range(4)]
    probability = np.array([0.9, 0.01, 0.1, 0.8])
    assert treat(records, probability, "review").suspects == [1, 2]
    assert [r.content for r in treat(records, probability, "drop").records] == ["0", "3"]
    assert [r.is_right for r in treat(records, probability, "flip").records] == [True, False, True, True]
    assert [r.doubt for r in treat(records, probability, "smooth").records] == [0.0, 0.495, 0.45, 0.0]
    assert treat(records, None, "drop").records == records


def test_who_confirms_a_wrong_takes_no_correction_from_it() -> None:
    said = [verdict(1, is_right=False, correction=b"better", kind="phone"), verdict(1, is_right=False, reviewer="li")]
    [settled] = settle(said)
    assert (settled.correction, settled.kind, settled.reviewer) == ("better", "phone", "li")
    [taken_back] = settle([said[0], verdict(1, is_right=False)])
    assert taken_back.correction is None, "who says it again without one has taken it back"
    [right] = settle([*said, verdict(1, reviewer="chen"), verdict(1, reviewer="wu")])
    assert right.correction is None
    found = sort(settle(said), TrainSettings(held_out_share=0.01))
    assert (found.agreed, found.is_correction) == ([True, False], [False, True])


def test_what_cannot_be_read_and_what_two_have_said_is_not_doubted() -> None:
    probability = of_all(np.array([0.01, 0.02, 0.9]), [0, 2, 3], [False, False, True, False])
    assert probability.tolist() == [0.01, 1.0, 1.0, 0.9]
    said = [verdict(1), verdict(3), verdict(3, reviewer="li"), verdict(4), verdict(4, is_right=False, reviewer="li")]
    found = sort(settle(said), TrainSettings(held_out_share=0.01))
    assert dict(zip(found.learn_ids, found.agreed, strict=True)) == {"t:0:1": False, "t:0:3": True}


def test_the_last_verdict_counts_and_each_goes_where_it_belongs() -> None:
    audit = {"source": "audit", "propensity": 0.01, "lottery": "flat", "blind": True}
    said = [
        verdict(0), verdict(0, is_right=False, reviewer="li"),
        verdict(1, is_right=False, correction=b"better still"),
        verdict(2, is_right=False, **audit),
        verdict(3, is_right=False, source="audit", propensity=0.05, lottery="extra"),
        verdict(4, is_right=False, source="audit", propensity=0.5, lottery="extra"),
        verdict(4, is_right=False, source="audit", propensity=0.5, lottery="extra", reviewer="li"),
    ]  # fmt: skip
    settled = {each.decision_id: each for each in settle(said)}
    assert (settled["t:0:0"].is_right, settled["t:0:0"].reviewers) == (False, 2)
    assert settled["t:0:2"].is_flat
    assert [name for name, each in settled.items() if each.is_pending] == ["t:0:0", "t:0:2", "t:0:3"]
    assert settled["t:0:0"].counts_as_wrong
    found = sort(list(settled.values()), TrainSettings())
    assert [each.decision_id for each in found.flat] == ["t:0:2"]
    contents = {r.content: (r.is_right, r.weight) for r in [*found.learn, *found.hold_out]}
    assert contents == {"record 1": (False, 1.0), "better still": (True, 1.0), "record 4": (False, 2.0)}
    assert all(is_held_out(r.content, 0.2) for r in found.hold_out)
    assert len(found.learn) == len(found.learn_ids)
    assert {r.content: r.correction for r in found.learn if r.correction} == {"record 1": "better still"}


def test_weights_count_the_stream_with_both_lotteries_and_a_queue_that_is_not_done() -> None:
    random = np.random.default_rng(3)
    lotteries = Lotteries(b"", 0.1, 0.3, 1.0)
    p, threshold = 1 / (1 + np.exp(-random.normal(1.5, 1.5, 20_000))), 0.4
    said = []
    for n, each in enumerate(p):
        [draw] = lotteries.draws([f"t:0:{n}"], [Decision(Route.CLEAN, "model", p_chosen=float(each))], threshold)
        is_held = each < threshold
        if draw is None and (not is_held or n % 2):  # half of what is held has not been answered yet
            continue
        drawn = {} if draw is None else {"lottery": draw.lottery.value, "propensity": draw.propensity}
        said.append(verdict(n, p_chosen=float(each), threshold=threshold, source="quarantine" if is_held else "audit", **drawn))
    settled = settle(said)
    weights = weights_of(settled)
    near = {each.decision_id for each in settled if each.distance is not None and each.distance <= 1.0 and each.source == "audit"}
    far = {each.decision_id for each in settled if each.source == "audit"} - near
    distance = np.abs(np.log(p / (1 - p)) - np.log(threshold / (1 - threshold)))
    assert sum(weights[name] for name in near) == pytest.approx(((p >= threshold) & (distance <= 1.0)).sum(), rel=0.05)
    assert sum(weights[name] for name in far) == pytest.approx(((p >= threshold) & (distance > 1.0)).sum(), rel=0.08)
    assert sum(weights[each.decision_id] for each in settled if each.source != "audit") == pytest.approx((p < threshold).sum(), rel=0.08)


def test_a_correction_of_a_flat_draw_or_of_what_waits_teaches_nothing() -> None:
    flat = verdict(1, is_right=False, lottery="flat", source="audit", propensity=0.1, blind=True, correction=b"corrected 1")
    waits = verdict(3, is_right=False, lottery="extra", source="audit", propensity=0.1, correction=b"corrected 3")
    found = sort(settle([flat, waits]), TrainSettings())
    assert found.learn == []
    assert [each.decision_id for each in found.flat] == ["t:0:1"]


def test_a_correction_that_reads_like_a_flat_draw_or_a_held_out_record_teaches_nothing() -> None:
    held_out = next(text for text in (f"record {n}" for n in range(100)) if is_held_out(text, 0.2))
    drawn = verdict(1, lottery="flat", propensity=0.1, blind=True)
    a, b, c = [n for n in range(2, 40) if not is_held_out(f"record {n}", 0.2)][:3]
    said = [drawn, verdict(a, is_right=False, correction=drawn.value), verdict(b, is_right=False, correction=held_out.encode())]
    found = sort(settle([*said, verdict(c, is_right=False, correction=b"better still")]), TrainSettings())
    corrections = {record.content: record.correction for record in found.learn}
    assert corrections == {f"record {a}": "", f"record {b}": "", f"record {c}": "better still", "better still": ""}


def test_what_is_doubted_or_right_is_not_called_wrong_and_a_correction_that_cannot_be_read_is_none() -> None:
    said = [
        Labelled("a,b", False), Labelled("a,c", False, correction="a,b"), Labelled("a,d", True), Labelled("a,e", False, doubt=0.3),
        Labelled("a,f", False, correction='{"a":'),
    ]  # fmt: skip
    encoded = Encoded([[1]] * len(said), rendered([each.content for each in said], RENDERING), said, list(range(len(said))), 0, 0)
    found = {each.record.text: None if each.correction is None else each.correction.text for each in wrong_of(encoded)}
    assert found == {"a,b": None, "a,c": "a,b", "a,f": None}


def test_nothing_that_reads_like_a_flat_draw_is_learned_from() -> None:
    drawn = verdict(1, lottery="flat", propensity=0.1, blind=True)
    twice = verdict(2, value=drawn.value)
    found = sort(settle([drawn, twice, verdict(3)]), TrainSettings())
    assert [each.decision_id for each in found.flat] == ["t:0:1"]
    assert [record.content for record in [*found.learn, *found.hold_out]] == ["record 3"]


def test_a_verdict_event_comes_back_as_it_went() -> None:
    whole = verdict(7, is_right=False, key=b"\x00k", correction="更正".encode(), kind="phone", field="tel", note="备注")
    assert wire.read_verdict(wire.verdict_event(whole)) == whole
    event = json.loads(wire.verdict_event(whole))
    assert wire.read_verdict(json.dumps({**event, "later": 1}).encode()) == whole
    for bad in (b"", b"[]", b"{", json.dumps({**event, "v": 2}).encode(), json.dumps({**event, "value_b64": "?"}).encode(), None):
        assert wire.read_verdict(bad) is None


def test_a_report_is_one_file_whose_figures_cannot_end_its_script() -> None:
    report = Report(
        losses=[(1, 0.7)], p_test=[0.5], is_right=[True], test_weight=[1.0], p_before=None, threshold=0.5, threshold_before=None,
        p_stream=[], p_stream_before=None, p_flat=[], p_flat_before=None, flat_is_wrong=[], flat_weight=[], kinds=[], certificate=None,
        certificate_reason="</script><b>", wrong_passed=None, comparison=None, findings=[], suspects=[], counts={"train": 1},
        snapshot="sha256:0", decision=None,
    )  # fmt: skip
    html = as_html(report, "<winnow>")
    assert html.count("</script>") == 2
    assert "&lt;winnow&gt;" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
