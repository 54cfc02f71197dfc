"""The last layer of a trunk only where somebody reads it: above its attention no token looks at another.

Elsewhere its states are then of no use, and finite. Of a starter's four layers this leaves out three quarters of one.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from stream.trunk import KNOWN


def read_at(read_B2: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
    """Return read_BT, true at the two places of each row."""
    return torch.zeros_like(ids_BT, dtype=torch.bool).scatter(1, read_B2, value=True)


@contextmanager
def last_layer_at(model: PreTrainedModel, read_BT: torch.Tensor) -> Iterator[None]:
    """Run the output projection and the MLP of the last layer of a model's trunk at the places read_BT (bool) alone.

    A trunk that is not of the known ones runs whole, and so does one whose layers are run again in the backward: they must do there what
    they did before, when this is over.
    """
    is_run_again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    places = read_BT.flatten().nonzero().squeeze(-1)

    def gathered(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (given[0].flatten(0, 1).index_select(0, places)[None], *given[1:])

    def spread(_: nn.Module, __: object, out_1NH: torch.Tensor) -> torch.Tensor:
        whole_NH = out_1NH.new_zeros(read_BT.numel(), out_1NH.shape[-1]).index_copy(0, places, out_1NH[0])
        return whole_NH.view(*read_BT.shape, -1)

    with ExitStack() as hooks:
        for module in _modules_of(model) if model.config.model_type in KNOWN and not is_run_again else ():
            for hook in (module.register_forward_pre_hook(gathered), module.register_forward_hook(spread)):
                hooks.callback(hook.remove)
        yield


def _modules_of(model: nn.Module) -> list[nn.Module]:
    """Return the last layer's output projection and MLP, also below what a LoRA wraps around them."""
    layers = next(module for name, module in model.named_modules() if name == "layers" or name.endswith(".layers"))
    last = list(layers.children())[-1]
    return [last.get_submodule("self_attn.o_proj"), last.get_submodule("mlp")]
