"""Steps of a program, as :mod:`chronorec.artifact` describes them."""

from __future__ import annotations

from typing import Any

from chronorec.nn import CopyHead, GapBias
from chronorec.nn.copy import SCALE
from chronorec.nn.time_features import CALENDAR

Step = dict[str, Any]


def norm_step(weights: str, source: str, out: str) -> Step:
    """A ``LayerNorm`` named ``weights``."""
    names = {"weight": f"{weights}.weight", "bias": f"{weights}.bias"}
    return {"call": "layer_norm", "in": source, **names, "epsilon": 1e-5, "out": out}


def dense_step(weights: str, source: str, out: str, **more: str) -> Step:
    """A ``Linear`` named ``weights``; ``more`` may name an activation and a residual."""
    names = {"weight": f"{weights}.weight", "bias": f"{weights}.bias"}
    return {"call": "dense", "in": source, **names, "out": out, **more}


def multiply_step(source: str, by: str, out: str, **more: str) -> Step:
    """An elementwise product; ``more`` may name a residual."""
    return {"call": "multiply", "in": source, "by": by, "out": out, **more}


def attention_step(source: str, out: str, heads: int, bias: GapBias, weights: str, **form: Any) -> Step:
    """Attention over packed query, key and value, with the tables that the bias named ``weights`` has."""
    tables = ("position", "time_table", "time_boundaries")
    named = {name: f"{weights}.{name}" for name in tables if getattr(bias, name) is not None}
    return {"call": "attention", "in": source, "heads": heads, **form, **named, "out": out}


def time_steps(weights: str, source: str, out: str, *, gap: str, moment: str) -> list[Step]:
    """A ``TimeTables`` named ``weights``, over a gap and a moment of the call ``add_time``."""
    steps: list[Step] = [
        {"of": gap, "table": f"{weights}.gap", "boundaries": f"{weights}.boundaries"},
        *(
            {"of": moment, "table": f"{weights}.{name}", "period": period, "zone": f"{weights}.zone"}
            for name, (_, period) in CALENDAR.items()
        ),
    ]
    sources = [source, *[out] * (len(steps) - 1)]
    return [
        {"call": "add_time", "in": read, **step, "out": out}
        for read, step in zip(sources, steps, strict=True)
    ]


def category_step(weights: str, source: str, out: str, *, of: str, **more: int) -> Step:
    """A ``Category`` whose table is named ``weights``, by the category ``of`` a token or a history."""
    return {"call": "add_category", "in": source, "of": of, **more, "table": weights, "out": out}


def profile_steps(weights: str, columns: int) -> list[Step]:
    """A ``UserProfile`` named ``weights``, from the states in register "x" to "x"."""
    steps = [
        category_step(
            f"{weights}.columns.{column}.table", "y" if column else "x", "y", of="profile", column=column
        )
        for column in range(columns)
    ]
    steps.append(dense_step(f"{weights}.expand", "y", "y", activation="silu"))
    return [*steps, dense_step(f"{weights}.contract", "y", "x", residual="x")]


def copy_adjustment(weights: str, head: CopyHead) -> dict[str, Any]:
    """A ``CopyHead`` named ``weights`` as an adjustment of the scores."""
    return {"kind": "copy", "weights": weights, "timed": head.timed, "scale": SCALE}
