"""Training on a GPU: every kind of model, the same losses as on the CPU where no dropout is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from chronorec.engine import Engine
from chronorec.training import load_config, train
from chronorec.training.checkpoint import load_checkpoint, save_checkpoint
from tests.support.logs import cycle_log, gap_log, histories_of

SMALL = ["training.epochs=2", "training.batch_tokens=256", "training.warmup_steps=5", "model.width=16"]
KINDS = {
    "sasrec": ["model.kind=sasrec"],
    "sasrec sampled": ["model.kind=sasrec", "loss.kind=sampled"],
    "gru4rec": ["model.kind=gru4rec"],
    "lstm": ["model.kind=gru4rec", "model.cell=lstm"],
    "hstu": ["model.kind=hstu"],
    "hstu gbce": ["model.kind=hstu", "loss.kind=gbce"],
    "times and copy": [
        "model.kind=gru4rec",
        *(f"model.{x}=true" for x in ("time_features", "request_time", "copy")),
    ],
}


def losses(name: str, *more: str) -> list[float]:
    config = load_config(overrides=[*SMALL, *KINDS[name], "model.dropout=0", *more])
    histories = histories_of(gap_log() if "times" in name or "hstu" in name else cycle_log())
    return [entry["loss"] for entry in train(config, histories, quiet=True).curve]


@pytest.mark.parametrize("name", KINDS)
def test_as_on_the_cpu(name: str) -> None:
    np.testing.assert_allclose(losses(name, "training.device=cuda"), losses(name), rtol=2e-3)


@pytest.mark.parametrize("name", KINDS)
def test_in_bfloat16(name: str) -> None:
    options = "training.device=cuda", "training.precision=bf16"
    np.testing.assert_allclose(losses(name, *options), losses(name), rtol=3e-2)


def test_masked_model_learns_and_answers() -> None:
    config = load_config(
        overrides=[*SMALL, "model.kind=bert4rec", "training.device=cuda", "training.epochs=6"]
    )
    run = train(config, histories_of(cycle_log()), quiet=True)
    assert run.curve[-1]["loss"] < run.curve[0]["loss"]
    history = run.artifact.items.column(0)[:3].to_pylist()
    assert len(Engine(run.artifact).recommend(history, k=3).items) == 3


def test_checkpoint_goes_on(tmp_path: Path) -> None:
    """Steps after a checkpoint are those of the run that wrote it, dropout and all."""

    def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).cuda()
        return model, torch.optim.AdamW(model.parameters(), fused=True)

    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 8, device="cuda")).square().sum().backward()
            optimizer.step()
        return next(model.parameters()).detach().clone()

    model, optimizer = parts()
    steps(model, optimizer)
    save_checkpoint(tmp_path / "checkpoint", model, optimizer, {}, {})
    expected = steps(model, optimizer)
    model, optimizer = parts()
    load_checkpoint(tmp_path / "checkpoint", model, optimizer)
    assert torch.equal(steps(model, optimizer), expected)
