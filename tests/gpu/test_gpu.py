"""What runs otherwise on a GPU: passes without padding, our kernels compiled, budgets, the version in service, its memory told."""

import math
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from model_registry.config import RegistrySettings
from model_registry.registry import CHAMPION, Registry
from stream.config import GateSettings
from stream.device import gpu_of
from stream.encode import Encoder
from stream.live_model import budgets, load_live_model
from stream.packed_pass import PackedPass
from stream.score import Scorer, reference_rewards
from tests.conftest import WORDS
from tests.trunks import KNOWN, trunks

pytest.importorskip("triton")
from stream.kernels import CompiledBetween  # noqa: E402
from tests.kernels_run import TOLERANCES, differences  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")]
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def models(starter_directory: Path) -> dict[str, PreTrainedModel]:
    return trunks(starter_directory)


@pytest.fixture(scope="module")
def encoder(starter_directory: Path) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(starter_directory / "reward"), WORDS, "chat@1", 512)


def _records(seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(5, 560, length).tolist() for length in [0, 1, 40, 41, 90, 300, *random.integers(0, 200, 30)]]


def _p(rewards_B2: np.ndarray) -> np.ndarray:
    p: np.ndarray = 1 / (1 + np.exp(rewards_B2[:, 1] - rewards_B2[:, 0]))
    return p


@pytest.mark.parametrize("head", [(), tuple(range(20, 45))])
@pytest.mark.parametrize("name", KNOWN)
def test_a_pass_without_padding_is_two_plain_chats(
    models: dict[str, PreTrainedModel], encoder: Encoder, name: str, head: tuple[int, ...]
) -> None:
    encoder = copy(encoder)
    encoder.template = encoder.template._replace(head=head)
    records = _records(0)
    truth = reference_rewards(models[name], encoder, records)
    rough = Scorer(models[name], encoder, 700, torch.bfloat16, GPU)
    assert isinstance(rough._pass, PackedPass) and isinstance(rough._pass._between, CompiledBetween)
    assert np.abs(_p(rough.rewards(records)) - _p(truth)).max() <= 5e-3
    assert np.abs(Scorer(models[name], encoder, 700, torch.float32, GPU).rewards(records) - truth).max() <= 1e-5


def test_a_trunk_of_another_shape_runs_as_transformers_runs_it(models: dict[str, PreTrainedModel], encoder: Encoder) -> None:
    records = _records(1)
    truth = reference_rewards(models["biased"], encoder, records)
    scorer = Scorer(models["biased"], encoder, 700, torch.bfloat16, GPU)
    assert scorer._pass is None and scorer._plain.device.type == "cuda"
    assert np.abs(_p(scorer.rewards(records)) - _p(truth)).max() <= 2e-2, "all of it in bfloat16, the residual stream too"
    exact = scorer.in_precision(torch.float32)
    assert np.abs(exact.rewards(records) - truth).max() <= 1e-5, "rounded from the model itself"


def test_rewards_do_not_depend_on_neighbours(models: dict[str, PreTrainedModel], encoder: Encoder) -> None:
    records = _records(2)
    scorer = Scorer(models["starter"], encoder, 100_000, torch.bfloat16, GPU)
    together = scorer.rewards(records)
    alone = np.concatenate([scorer.rewards([record]) for record in records])
    assert np.abs(_p(together) - _p(alone)).max() <= 5e-3


def test_kernels_as_compiled() -> None:
    for name, (difference, greatest) in differences("cuda").items():
        assert difference <= greatest * TOLERANCES[name.rpartition(" ")[2]], name


def test_the_version_in_service_runs_on_the_gpu(registry_url: str) -> None:
    registry = Registry(RegistrySettings(url=registry_url))
    model = load_live_model(registry.verified(CHAMPION), GateSettings())
    scorer = model.scorer
    assert scorer.device.type == "cuda" and scorer.precision == torch.bfloat16
    assert scorer.budget_tokens in budgets(GPU, None)
    again = load_live_model(registry.verified(CHAMPION), GateSettings(), model)
    assert again.scorer.budget_tokens == scorer.budget_tokens, "a swap measures nothing"
    plain = load_live_model(registry.verified(CHAMPION), GateSettings(device="cpu", precision="float32"))
    rewards, its = (each.scorer.rewards(_records(3)) for each in (model, plain))
    assert np.abs(_p(rewards) - _p(its)).max() <= 5e-3
    told = gpu_of(scorer.device)
    assert 0 < told.used_bytes < told.total_bytes
    assert math.isnan(told.utilisation) or 0 <= told.utilisation <= 1


def test_a_budget_that_does_not_fit_is_not_tried_further(models: dict[str, PreTrainedModel], encoder: Encoder) -> None:
    from stream.live_model import fastest_budget

    class Small(Scorer):
        def rewards(self, records: list[list[int]]) -> np.ndarray:
            if self.budget_tokens > 16_384:
                raise torch.OutOfMemoryError("no room")
            return super().rewards(records)

    scorer = Small(models["starter"], encoder, 8_192, torch.bfloat16, GPU)
    budget, _ = fastest_budget(scorer, None)
    assert budget <= 16_384
