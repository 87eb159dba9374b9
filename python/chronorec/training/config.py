"""Configuration of a training run: frozen dataclasses, read from TOML, changed by ``--set key=value``."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what to write instead."""


@dataclass(frozen=True)
class SplitConfig:
    """How events are held out.

    Attributes:
        protocol: "leave-one-out", "temporal-event" (next event after a cut) or "temporal-basket".
        cut: ISO date or time; events at or after it test. Temporal protocols only.
        validation_cut: the same for validation; must lie before ``cut``.
        exclude_seen: whether a user's earlier items leave the candidates.
    """

    protocol: Literal["leave-one-out", "temporal-event", "temporal-basket"] = "leave-one-out"
    cut: str = ""
    validation_cut: str = ""
    exclude_seen: bool = False


@dataclass(frozen=True)
class SASRecConfig:
    """See :class:`chronorec.models.SASRec`."""

    kind: ClassVar[str] = "sasrec"
    width: int = 64
    blocks: int = 2
    heads: int = 2
    inner_factor: int = 4
    dropout: float = 0.2
    max_length: int = 200
    item_bias: bool = False


@dataclass(frozen=True)
class GRU4RecConfig:
    """See :class:`chronorec.models.GRU4Rec`."""

    kind: ClassVar[str] = "gru4rec"
    width: int = 64
    hidden_size: int = 128
    layers: int = 1
    dropout: float = 0.2
    max_length: int = 200
    item_bias: bool = True


ModelConfig = SASRecConfig | GRU4RecConfig
MODEL_CONFIGS: dict[str, type[SASRecConfig] | type[GRU4RecConfig]] = {
    config.kind: config for config in (SASRecConfig, GRU4RecConfig)
}


@dataclass(frozen=True)
class LossConfig:
    """Softmax cross entropy over the catalogue.

    Attributes:
        kind: "full", or "sampled" with shared negatives drawn by popularity and the logQ correction.
        negatives: negatives per batch of the sampled loss.
        popularity_exponent: negatives are drawn with probability proportional to (count + 1) ** this.
    """

    kind: Literal["full", "sampled"] = "full"
    negatives: int = 1024
    popularity_exponent: float = 0.75


@dataclass(frozen=True)
class TrainingConfig:
    """The gradient loop.

    Attributes:
        epochs: at most so many passes over the training events.
        batch_tokens: tokens (events or baskets) of a batch.
        learning_rate: peak rate of AdamW.
        weight_decay: of weight matrices; embeddings, biases and norms are not decayed.
        warmup_steps: the rate rises linearly over so many steps.
        final_rate: share of the peak rate at the last epoch; falls on a cosine. 1 keeps it constant.
        clip_norm: gradients are scaled down to this norm.
        patience: stop after so many validations without a better ndcg@10.
        validate_every: epochs between validations.
        seed: of initialisation, batches, dropout and negatives.
        precision: "fp32", or "bf16" for products and kernels with fp32 weights and states.
        refit: when validation has chosen the epochs, train again on training and validation events.
        checkpoint_seconds: time between checkpoints.
        tensorboard: folder for TensorBoard scalars, or "".
    """

    epochs: int = 100
    batch_tokens: int = 8192
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 100
    final_rate: float = 0.1
    clip_norm: float = 5.0
    patience: int = 5
    validate_every: int = 1
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    refit: bool = False
    checkpoint_seconds: float = 60.0
    tensorboard: str = ""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=SASRecConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file (or the defaults) and applies ``section.key=value`` overrides.

    Raises:
        ConfigError: unknown section or key (names the nearest), or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = _parse_toml(Path(path).read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {override}: wanted section.key=value, such as training.epochs=3")
        values.setdefault(section, {})[name] = _parse_value(text.strip())
    return config_from(values)


def config_from_text(text: str, name: str) -> Config:
    """Reads a configuration from TOML text; ``name`` says in errors whose it is."""
    return config_from(_parse_toml(text, name))


def config_from(values: dict[str, Any]) -> Config:
    """Builds a :class:`Config` from nested plain values, as TOML gives them."""
    sections = {f.name: f for f in dataclasses.fields(Config)}
    _refuse_unknown(values, list(sections), "section")
    for section, content in values.items():
        if not isinstance(content, dict):
            raise ConfigError(f"{section}: wanted a section [{section}], got {content!r}")
    model = dict(values.get("model", {}))
    kind = model.pop("kind", SASRecConfig.kind)
    if kind not in MODEL_CONFIGS:
        raise ConfigError(f"model.kind: wanted one of {', '.join(MODEL_CONFIGS)}, got {kind!r}")
    return Config(
        split=_build(SplitConfig, values.get("split", {}), "split"),
        model=_build(MODEL_CONFIGS[kind], model, "model"),
        loss=_build(LossConfig, values.get("loss", {}), "loss"),
        training=_build(TrainingConfig, values.get("training", {}), "training"),
    )


def to_toml(config: Config) -> str:
    """The resolved configuration as TOML text that :func:`load_config` reads back."""
    lines = []
    for section in dataclasses.fields(config):
        content = getattr(config, section.name)
        lines.append(f"[{section.name}]")
        if section.name == "model":
            lines.append(f'kind = "{content.kind}"')
        # JSON and TOML write strings, numbers and booleans alike
        lines += [f"{k} = {json.dumps(v)}" for k, v in dataclasses.asdict(content).items()]
        lines.append("")
    return "\n".join(lines)


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _refuse_unknown(values: dict[str, Any], known: list[str], what: str) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"unknown {what} {name!r}{hint}")


def _build(cls: Any, values: dict[str, Any], section: str) -> Any:
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    _refuse_unknown(values, names, f"key in [{section}]")
    checked = {name: _checked(value, hints[name], f"{section}.{name}") for name, value in values.items()}
    return cls(**checked)


def _checked(value: Any, wanted: Any, name: str) -> Any:
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            choices = ", ".join(map(repr, get_args(wanted)))
            raise ConfigError(f"{name}: wanted one of {choices}, got {value!r}")
        return value
    if wanted is str and isinstance(value, datetime.date):  # TOML writes dates without quotes
        return value.isoformat()
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ConfigError(f"{name}: wanted {wanted.__name__}, got {value!r}")
    return value
