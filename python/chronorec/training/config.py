"""Configuration of a training run: frozen dataclasses, read from TOML, changed by ``--set key=value``."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from chronorec.training.counting_config import CountingConfig
from chronorec.training.counting_config import limited as _limited

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
        protocol: "leave-one-out", "temporal-event" (next event after a cut) or "temporal-basket",
            "user-fold-event" or "user-fold-basket" (the last event or basket of held-out users), or
            "given-users" (every event of the users whose ``split`` in the user table is "test").
        cut: ISO date or time, or a share such as "90%" of all events in the order of time; events at or after
            it test. Temporal protocols only.
        validation_cut: the same for validation; must lie before ``cut``.
        end: the same; test targets lie before it. By default all after the cut.
        exclude_seen: whether a user's earlier items leave the candidates.
        folds, fold, fold_seed: of user folds: how many, which one from 1, and the seed that draws them.
    """

    protocol: Literal[
        "leave-one-out",
        "temporal-event",
        "temporal-basket",
        "user-fold-event",
        "user-fold-basket",
        "given-users",
    ] = "leave-one-out"
    cut: str = ""
    validation_cut: str = ""
    end: str = ""
    exclude_seen: bool = False
    folds: int = _limited(5, 3)
    fold: int = _limited(1, 1)
    fold_seed: int = _limited(0, 0)


@dataclass(frozen=True)
class _SequenceConfig:
    """What every :class:`chronorec.models.SequenceModel` takes; the zone of its calendar is that of the log.

    ``time_features``, ``request_time``, ``time_bias`` and ``time_gate`` need a log with the time of every
    event, ``type_features`` one with event types; ``user_columns`` are features of the user table.
    """

    width: int = _limited(64, 1)
    max_length: int = _limited(200, 1)
    dropout: float = _limited(0.2, 0, 0.99)
    item_bias: bool = False
    tied: bool = True
    time_features: bool = False
    request_time: bool = False
    type_features: bool = False
    user_columns: tuple[str, ...] = ()
    copy: bool = False


@dataclass(frozen=True)
class SASRecConfig(_SequenceConfig):
    """See :class:`chronorec.models.SASRec`."""

    kind: ClassVar[str] = "sasrec"
    blocks: int = _limited(2, 1)
    heads: int = _limited(2, 1)
    inner_factor: int = _limited(4, 1)
    block: Literal["sasrec", "swiglu", "ligr"] = "sasrec"
    position: Literal["absolute", "relative"] = "absolute"
    time_bias: bool = False
    memory: bool = False

    def __post_init__(self) -> None:
        _check_memory(self)
        if self.memory and self.position == "absolute":
            raise ConfigError("model.memory: wanted model.position = 'relative' beside it, got 'absolute'")


@dataclass(frozen=True)
class BERT4RecConfig(SASRecConfig):
    """See :class:`chronorec.models.BERT4Rec`."""

    kind: ClassVar[str] = "bert4rec"
    position: Literal["absolute", "relative"] = "relative"
    mask_share: float = _limited(0.3, 0, 1)

    def __post_init__(self) -> None:
        if self.request_time:
            raise ConfigError("model.request_time: bert4rec knows it with model.time_features; set that")
        if self.user_columns:
            raise ConfigError("model.user_columns: bert4rec has no state of a user; take another model.kind")
        if self.copy:
            raise ConfigError("model.copy: bert4rec has none, since it sees the history as a whole")
        if self.memory:
            raise ConfigError("model.memory: bert4rec has none, since it sees the history as a whole")


@dataclass(frozen=True)
class GRU4RecConfig(_SequenceConfig):
    """See :class:`chronorec.models.GRU4Rec`."""

    kind: ClassVar[str] = "gru4rec"
    item_bias: bool = True
    cell: Literal["gru", "lstm", "rnn"] = "gru"
    hidden_size: int = _limited(128, 1)
    layers: int = _limited(1, 1)
    time_gate: bool = False


@dataclass(frozen=True)
class HSTUConfig(_SequenceConfig):
    """See :class:`chronorec.models.HSTU`."""

    kind: ClassVar[str] = "hstu"
    blocks: int = _limited(2, 1)
    heads: int = _limited(2, 1)
    time_bias: bool = True
    memory: bool = False

    def __post_init__(self) -> None:
        _check_memory(self)


def _check_memory(model: SASRecConfig | HSTUConfig) -> None:
    if model.memory and model.copy:
        raise ConfigError("model.memory: wanted without model.copy, which reads the history as a whole")


@dataclass(frozen=True)
class LogBilinearConfig(_SequenceConfig):
    """See :class:`chronorec.models.LogBilinear`."""

    kind: ClassVar[str] = "log-bilinear"
    item_bias: bool = True


@dataclass(frozen=True)
class DualEncoderConfig(_SequenceConfig):
    """See :class:`chronorec.models.DualEncoder`; needs features in the item table."""

    kind: ClassVar[str] = "dual-encoder"
    item_bias: bool = True
    hidden_size: int = _limited(64, 1)
    heads: int = _limited(2, 1)
    candidates: int = _limited(500, 1)


SequenceConfig = (
    SASRecConfig | BERT4RecConfig | GRU4RecConfig | HSTUConfig | LogBilinearConfig | DualEncoderConfig
)
ModelConfig = SequenceConfig | CountingConfig
MODEL_CONFIGS: dict[str, type[ModelConfig]] = {config.kind: config for config in get_args(ModelConfig)}


@dataclass(frozen=True)
class LossConfig:
    """What training minimises; see :func:`chronorec.ops.item_cross_entropy`.

    Attributes:
        kind: "full" cross entropy over the catalogue, or against negatives that a batch shares: "sampled"
            cross entropy with the logQ correction, "gbce" or "bpr".
        negatives: how many of them.
        popularity_exponent: they are drawn with probability proportional to (count + 1) ** this.
        calibration: of gbce.
    """

    kind: Literal["full", "sampled", "gbce", "bpr"] = "full"
    negatives: int = _limited(1024, 1)
    popularity_exponent: float = _limited(0.75, 0, 2)
    calibration: float = _limited(0.75, 0, 1)


@dataclass(frozen=True)
class HeadsConfig:
    """What sequence models of next events predict beside the next item; see :mod:`chronorec.models.heads`.

    Attributes:
        behaviour: weight of the loss of the next event's type (the log's column of event types) beside that
            of the items; 0: it is not predicted. With 1 both together are the likelihood of item and type.
        value: the same for its value (the log's column of values).
        steps: how many events ahead are predicted, each by a head of its own; 1: only the next.
        steps_weight: of the mean loss of the steps after the first.
        value_as: whether a value is a "number" or a "class", one of a few numbers such as ratings.
    """

    behaviour: float = _limited(0.0, 0, 1e6)
    value: float = _limited(0.0, 0, 1e6)
    value_as: Literal["number", "class"] = "number"
    steps: int = _limited(1, 1, 100)
    steps_weight: float = _limited(0.5, 0, 1e6)

    @property
    def any(self) -> bool:
        """Whether there are heads at all."""
        return self.behaviour > 0 or self.value > 0 or self.steps > 1


@dataclass(frozen=True)
class TrainingConfig:
    """The gradient loop.

    Attributes:
        epochs: at most so many passes over the training events.
        batch_tokens: tokens (events or baskets) of a batch; at least ``model.max_length``.
        learning_rate: peak rate of AdamW.
        weight_decay: of weight matrices; embeddings, biases and norms are not decayed.
        warmup_steps: the rate rises linearly over so many steps.
        final_rate: share of the peak rate at the last epoch; falls on a cosine. 1 keeps it constant.
        clip_norm: gradients are scaled down to this norm.
        patience: stop after so many validations without a better ndcg@10.
        validate_every: epochs between validations.
        seed: of initialisation, batches, dropout and negatives.
        item2vec: start from item vectors of gensim's Word2Vec; see
            :func:`chronorec.training.item2vec.item2vec`.
        device: "cpu", or "cuda" for torch's current GPU; validation runs on the CPU all the same.
        precision: "fp32", or "bf16" for products and kernels with fp32 weights and states.
        recent_days: time constant of the recent past, whose popularity is what users of whom nothing is known
            are answered with: an event of so many days ago weighs 1/e.
        refit: when validation has chosen the epochs, train again on training and validation events.
        checkpoint_seconds: time between checkpoints.
        tensorboard: folder for TensorBoard scalars, or "".
    """

    epochs: int = _limited(100, 1)
    batch_tokens: int = _limited(8192, 1)
    learning_rate: float = _limited(1e-3, 1e-12, 10)
    weight_decay: float = _limited(0.0, 0, 10)
    warmup_steps: int = _limited(100, 0)
    final_rate: float = _limited(0.1, 0, 1)
    clip_norm: float = _limited(5.0, 1e-6, 1e6)
    patience: int = _limited(5, 1)
    validate_every: int = _limited(1, 1)
    seed: int = _limited(0, 0, 2**63 - 1)
    item2vec: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    recent_days: float = _limited(30.0, 1e-3)
    refit: bool = False
    checkpoint_seconds: float = _limited(60.0, 0)
    tensorboard: str = ""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=SASRecConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if getattr(self.model, "copy", False) and self.loss.kind != "full":
            raise ConfigError(f"loss.kind: wanted 'full' beside model.copy, got {self.loss.kind!r}")
        self._check_heads()
        longest = getattr(self.model, "max_length", 1)
        if self.training.batch_tokens < longest:
            raise ConfigError(
                f"training.batch_tokens: wanted at least model.max_length = {longest}, "
                f"got {self.training.batch_tokens}"
            )

    def _check_heads(self) -> None:
        if not self.heads.any:
            return
        if isinstance(self.model, BERT4RecConfig) or not isinstance(self.model, SequenceConfig):
            raise ConfigError(f"heads: {self.model.kind} has none; leave [heads] out")
        if self.split.protocol.endswith("basket"):
            raise ConfigError("heads: they are of next events; take another split.protocol or no heads")
        if self.heads.behaviour > 0 and self.loss.kind not in ("full", "sampled"):
            raise ConfigError(
                "loss.kind: wanted 'full' or 'sampled' beside heads.behaviour, whose items need "
                f"probabilities, got {self.loss.kind!r}"
            )


def load_config(path: str | Path | None = None, overrides: Sequence[str] = (), *, text: str = "") -> Config:
    """Reads a TOML file (or ``text``, or the defaults) and applies ``section.key=value`` overrides.

    Raises:
        ConfigError: unknown section or key (names the nearest), or a value of the wrong type or range.
    """
    values = _parse_toml(text, "the configuration")
    if path is not None:
        try:
            values = _parse_toml(Path(path).read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return config_from(with_overrides(values, overrides))


def with_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Nested plain values with ``section.key=value`` texts put into them."""
    values = {name: dict(inside) if isinstance(inside, dict) else inside for name, inside in values.items()}
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {override}: wanted section.key=value, such as training.epochs=3")
        values.setdefault(section, {})[name] = _parse_value(text.strip())
    return values


def config_from_text(text: str, name: str) -> Config:
    """Reads a configuration from TOML text; ``name`` says in errors whose it is."""
    return config_from(_parse_toml(text, name))


def config_from(values: dict[str, Any]) -> Config:
    """Builds a :class:`Config` from nested plain values, as TOML gives them."""
    _refuse_unknown(values, [f.name for f in dataclasses.fields(Config)], "section")
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
        heads=_build(HeadsConfig, values.get("heads", {}), "heads"),
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
        # JSON and TOML write strings, finite numbers and booleans alike
        values = dataclasses.asdict(content)
        lines += [f"{k} = {json.dumps(v, ensure_ascii=False, allow_nan=False)}" for k, v in values.items()]
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
    fields = {f.name: f for f in dataclasses.fields(cls)}
    _refuse_unknown(values, list(fields), f"key in [{section}]")
    checked = {}
    for name, value in values.items():
        checked[name] = _of_type(value, hints[name], f"{section}.{name}")
        least, most = fields[name].metadata.get("limits", (None, None))
        if least is not None and not (least <= checked[name] <= most and math.isfinite(checked[name])):
            wanted = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise ConfigError(f"{section}.{name}: wanted {wanted}, got {value!r}")
    return cls(**checked)


def _of_type(value: Any, wanted: Any, name: str) -> Any:
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            choices = ", ".join(map(repr, get_args(wanted)))
            raise ConfigError(f"{name}: wanted one of {choices}, got {value!r}")
        return value
    if wanted == tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
            raise ConfigError(f"{name}: wanted a list of texts, got {value!r}")
        return tuple(value)
    if wanted is str and isinstance(value, datetime.date):  # TOML writes dates without quotes
        return value.isoformat()
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ConfigError(f"{name}: wanted {wanted.__name__}, got {value!r}")
    return value
