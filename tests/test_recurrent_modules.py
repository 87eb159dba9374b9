"""chronorec.nn.RNN, LSTM and GRU against their twins in torch.nn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from chronorec import nn
from tests.support.jagged import offsets_of

MODULES = [
    (nn.GRU, torch.nn.GRU, {}),
    (nn.LSTM, torch.nn.LSTM, {}),
    (nn.RNN, torch.nn.RNN, {"nonlinearity": "tanh"}),
    (nn.RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
]
LENGTHS = [7, 3, 12, 1]


def rows_of(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(LENGTHS)


@pytest.mark.parametrize(("ours", "theirs", "options"), MODULES)
@pytest.mark.parametrize(
    ("layers", "bidirectional", "bias"), [(1, False, True), (2, True, True), (3, True, False)]
)
def test_a_torch_state_dict_gives_the_same(
    ours: type, theirs: type, options: dict[str, Any], layers: int, bidirectional: bool, bias: bool
) -> None:
    torch.manual_seed(0)
    twin = theirs(5, 12, layers, bidirectional=bidirectional, bias=bias, **options)
    module = ours(5, 12, layers, bidirectional=bidirectional, bias=bias, **options)
    module.load_state_dict(twin.state_dict(), strict=True)
    values = torch.randn(sum(LENGTHS), 5)
    states = [torch.randn(layers * (1 + bidirectional), 4, 12) for _ in range(2 if ours is nn.LSTM else 1)]
    initial = states[0] if len(states) == 1 else tuple(states)
    packed = torch.nn.utils.rnn.pack_sequence(list(rows_of(values)), enforce_sorted=False)
    padded, wanted_final = twin(packed, initial)
    wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(padded, batch_first=True)
    output, final = module(values, offsets_of(LENGTHS), initial)
    for i, row in enumerate(rows_of(output)):
        torch.testing.assert_close(row, wanted[i, : LENGTHS[i]])
    torch.testing.assert_close(final, wanted_final)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    sum((wanted[i, : LENGTHS[i]] * w).sum() for i, w in enumerate(rows_of(weights))).backward()
    gradients = dict(twin.named_parameters())
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ours", "_", "options"), MODULES)
def test_dropout_only_in_training(ours: type, _: type, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    values, offsets = torch.randn(sum(LENGTHS), 5), offsets_of(LENGTHS)
    plain = ours(5, 12, 2, **options)
    for drop in ({"dropout": 0.5}, {"recurrent_dropout": 0.5}):
        module = ours(5, 12, 2, **drop, **options)
        module.load_state_dict(plain.state_dict())
        assert not torch.equal(module(values, offsets)[0], plain(values, offsets)[0])
        assert torch.equal(module.eval()(values, offsets)[0], plain(values, offsets)[0])


@pytest.mark.parametrize(("ours", "_", "options"), MODULES)
def test_zoneout_keeps_states_in_training_and_blends_in_evaluation(
    ours: type, _: type, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    values = torch.randn(200, 5)
    module = ours(5, 12, zoneout=0.25, **options)
    output = module(values, torch.tensor([0, 200]))[0].detach()
    kept = (output[1:] == output[:-1]).double().mean().item()
    assert 0.2 < kept < (0.9 if options.get("nonlinearity") == "relu" else 0.3)
    blended = module.eval()(values, torch.tensor([0, 200]))[0]
    assert torch.equal(blended, module(values, torch.tensor([0, 200]))[0])


@pytest.mark.parametrize(("ours", "_", "options"), MODULES)
def test_autocast_runs_in_bfloat16(ours: type, _: type, options: dict[str, Any]) -> None:
    module = ours(5, 12, 2, bidirectional=True, **options)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = module(torch.randn(sum(LENGTHS), 5), offsets_of(LENGTHS))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())
