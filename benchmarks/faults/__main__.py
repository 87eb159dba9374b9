"""Runs the faults, prints what was done and that nothing was lost."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.faults import FAULTS


def main(arguments: list[str]) -> int:
    """Returns the exit status: 1 where something went wrong."""
    parser = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="of each fault (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    wrong = 0
    for name, fault in FAULTS.items():
        begin = time.monotonic()
        try:
            counts = fault(options.count, options.seed)
            said = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        except AssertionError as error:
            wrong, said = wrong + 1, f"WRONG: {error}"
        print(f"{name}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
