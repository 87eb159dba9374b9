"""Training: configuration, the gradient loop, checkpoints, and the run that ties them to an artifact."""

from chronorec.training.config import Config, ConfigError, load_config, to_toml
from chronorec.training.run import TrainingRun, train

__all__ = ["Config", "ConfigError", "TrainingRun", "load_config", "to_toml", "train"]
