"""Checkpoints: one safetensors file, replaced atomically, from which a killed run goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from chronorec.atomic import new_file
from chronorec.nn import SegmentMemory

FORMAT = "chronorec.checkpoint.1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed; the message says what to do."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    state: dict[str, Any],
    memory: SegmentMemory | None = None,
) -> None:
    """Writes weights, optimiser moments, the best weights so far, torch's generators and ``state`` (JSON).

    Where training is on segments in order, what they remember is written too.
    A kill at any moment leaves either the old or the new file.
    """
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    if memory is not None:
        tensors |= {f"memory.{name}": value for name, value in memory.state_dict().items()}
    tensors["generator"] = torch.get_rng_state()
    if next(model.parameters()).is_cuda:
        tensors["gpu_generator"] = torch.cuda.get_rng_state()
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value.detach()
    content = save(
        {name: value.contiguous().clone() for name, value in tensors.items()},
        metadata={"format": FORMAT, "state": json.dumps(state)},
    )
    with new_file(path, draft=path.with_name(path.name + ".partial")) as file:
        file.write(content)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    memory: SegmentMemory | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restores model, optimiser, generator and memory in place; returns the best weights and the state.

    Raises:
        CheckpointError: the file is damaged or belongs to another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error}); delete it to start again") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this version; delete it to start again")
    try:
        model.load_state_dict(_group(tensors, "model."))
        if memory is not None:
            memory.load_state_dict(_group(tensors, "memory."), next(model.parameters()).device)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: belongs to another model; delete it to start again") from error
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if (value := tensors.get(f"optimizer.{key}.{name}")) is not None:
                optimizer.state[parameter][key] = value.to(parameter.device)
    torch.set_rng_state(tensors["generator"])
    if "gpu_generator" in tensors:
        torch.cuda.set_rng_state(tensors["gpu_generator"])
    return _group(tensors, "best."), json.loads(metadata["state"])


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
