"""The command line that the scripts of peers share; ``benchmarks.quality --peer`` writes it."""

from __future__ import annotations

import argparse


def peer_parser(description: str | None, epochs: int) -> argparse.ArgumentParser:
    """Log, its order, how often an item must occur, and epochs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--order", default="timestamp")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--min-item-events", type=int, default=5)
    return parser
