from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """All of this needs a GPU."""
    return None if config.getoption("device") == "cuda" else True
