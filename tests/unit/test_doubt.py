"""The starter's doubt about its own stream: it finds hidden wrong records, and what it learns from them."""

from random import Random

import numpy as np
import pytest
import torch

from demo.twins import take
from stream.decode import decode_value
from stream.encode import Encoder
from stream.records import Content
from stream.render import Rendered, render
from tests.conftest import WORDS
from trainer import joint, starter_steps
from trainer.calibrate import auroc_of
from trainer.doubt import doubts, look
from trainer.joint import JointModel, PairSource
from trainer.starter import Plan, Shape, train_starter
from trainer.starter_steps import learn

STEPS = 100


@pytest.fixture(scope="module")
def hidden() -> tuple[list[Rendered], np.ndarray]:
    """Records of a stream in which one in eight is wrong, and which are right."""
    twins = take(600, 11, unreadable_share=0.0)
    contents = [decode_value(twin.value, "auto") for twin in twins]
    return [render(c) for c in contents if isinstance(c, Content)], np.array([not twin.truth.is_wrong for twin in twins])


@pytest.fixture(scope="module")
def learned(hidden: tuple[list[Rendered], np.ndarray]) -> tuple[JointModel, Encoder]:
    made = train_starter(hidden[0], WORDS, Plan(steps=STEPS, seed=1), Shape(hidden=64, layers=3, heads=2, inner=128, vocabulary=800))
    return made.model, made.encoder


def test_wrong_records_are_doubted_more(hidden: tuple[list[Rendered], np.ndarray], learned: tuple[JointModel, Encoder]) -> None:
    records, is_right = hidden
    model, encoder = learned
    found = np.array(doubts(model, PairSource(records, encoder, 4, 0)))
    assert len(found) == len(records)
    assert ((found >= 0) & (found <= 1)).all()
    assert auroc_of(1 - found, is_right) > 0.6
    assert found.mean() < 0.5, "most of a stream is right"


def test_doubts_are_the_same_again(hidden: tuple[list[Rendered], np.ndarray], learned: tuple[JointModel, Encoder]) -> None:
    model, encoder = learned
    assert doubts(model, PairSource(hidden[0], encoder, 4, 3)) == doubts(model, PairSource(hidden[0], encoder, 4, 3))


def test_features_do_not_depend_on_neighbours(hidden: tuple[list[Rendered], np.ndarray], learned: tuple[JointModel, Encoder]) -> None:
    model, encoder = learned
    rows = [ids for ids in encoder.encode([record.text for record in hidden[0][:20]]) if ids is not None]
    assert model.lm.training is False
    together = look(model, encoder, [*rows, []])
    alone = np.concatenate([look(model, encoder, [ids]) for ids in [*rows, []]])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert (together[:-1, 1] >= together[:-1, 2]).all(), "the highest surprise is no lower than the mean of the four highest"
    assert (together[:-1, 2] >= together[:-1, 3]).all()


def test_those_in_doubt_come_more_often_and_are_called_wrong(
    hidden: tuple[list[Rendered], np.ndarray], learned: tuple[JointModel, Encoder]
) -> None:
    _, encoder = learned
    source = PairSource(hidden[0], encoder, 8, 0)
    assert float(source.next().doubt_N.sum()) == 0.0
    chosen = Random(0).sample(range(len(source)), 30)
    source.doubt([0.9 if place in chosen else 0.1 for place in range(len(source))])
    drawn = torch.cat([source.next().doubt_N for _ in range(60)])
    share = float((drawn > joint.DOUBTFUL).float().mean())
    assert share == pytest.approx(joint.SUSPECT_SHARE + 0.05 * (1 - joint.SUSPECT_SHARE), abs=0.08)


def test_a_doubted_record_pulls_the_other_way(hidden: tuple[list[Rendered], np.ndarray], learned: tuple[JointModel, Encoder]) -> None:
    """What believing a record costs rises with its d when it is doubted, and falls when it is not."""
    model, encoder = learned
    given = PairSource(hidden[0], encoder, 4, 0).next()
    head = model.reward.get_parameter("score.weight")
    before = head.detach().clone()
    contrastive = []
    for doubt in (0.0, 1.0):
        for scale in (1.0, 1.5):  # the head alone, so that every |d| grows by half
            with torch.no_grad():
                head.copy_(before * scale)
            _, losses = model.loss(given._replace(doubt_N=torch.full((4,), doubt)))
            contrastive.append(losses.contrastive)
    with torch.no_grad():
        head.copy_(before)
    half = len(given.doubt_N)
    rewards = look_at_d(model, given)
    expected = [
        (np.logaddexp(0, -sign * s * rewards[:half]).mean() + np.logaddexp(0, s * rewards[half:]).mean()) / 2
        for sign in (1, -1)
        for s in (1.0, 1.5)
    ]
    np.testing.assert_allclose(contrastive, expected, rtol=1e-4)


def look_at_d(model: JointModel, given: joint.PairBatch) -> np.ndarray:
    """Return raw d of every row of a batch."""
    batch = given.batch
    with torch.inference_mode():
        hidden = model.lm.model(
            input_ids=batch.ids_BT, attention_mask=batch.mask_B1TT, position_ids=batch.positions_BT, use_cache=False
        ).last_hidden_state
        rewards_B2 = joint.read_rewards(model.reward, hidden, batch.pooled_B2)
    d: np.ndarray = (rewards_B2[:, 0] - rewards_B2[:, 1]).numpy()
    return d


def test_learning_doubts_once_on_the_way(hidden: tuple[list[Rendered], np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    made = train_starter(hidden[0][:80], WORDS, Plan(steps=1), Shape(hidden=32, layers=2, heads=2, inner=64, vocabulary=600))
    source = PairSource(hidden[0][:80], made.encoder, 2, 0)
    monkeypatch.setattr(starter_steps, "doubts", lambda _model, of: asked.append(len(of)) or [0.5] * len(of))
    learn(made.model, source, 20, 1e-3)
    assert asked == [80]
