"""Tests the ops, then times them: see ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import cuda, harness

SKIPPED = 77  # what test drivers take for it
EXAMPLES = """examples:
  python -m benchmarks                         every op
  python -m benchmarks gru item_topk           two of them
  python -m benchmarks gru --quick             a rough answer within seconds
  python -m benchmarks gru --out rows.jsonl    also append the numbers, one JSON object a line
  python -m benchmarks --device cuda           on a GPU; exit status 77, skipped, where there is none
  python -m benchmarks --device cuda --replay  there, without the processor's time to launch

Every row gives the median time of a call, its 20th and 80th percentile, the rate of useful work and its
share of the peak probed in the same run, the extra memory of a call, and the time over ours: a provider at
2.00 x takes twice as long as chronorec. `python -m benchmarks.table rows.jsonl` makes the table of ratios."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Run the tests of the ops and, if they pass, time the ops against their rivals.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "ops", nargs="*", metavar="OP", help=f"one of {', '.join(harness.op_names())}; default: all"
    )
    parser.add_argument("--out", type=Path, help="file to which the rows are appended as JSON lines")
    parser.add_argument(
        "--quick", action="store_true", help="0.1 s instead of 1 s for each provider of a case"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument("--replay", action="store_true", help="on a GPU: time replays of captured graphs")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.ops) - set(harness.op_names()))
    if unknown:
        parser.error(f"no benchmark for {', '.join(unknown)}; there are {', '.join(harness.op_names())}")
    if options.replay and options.device == "cpu":
        parser.error("--replay: wanted with --device cuda")
    options.ops = options.ops or harness.op_names()
    return options


def tests_pass(ops: list[str], device: str) -> bool:
    """Runs the tests of these ops, on a GPU those of all kernels; a fast wrong kernel is worth nothing."""
    files = sorted({str(path) for op in ops for path in harness.ROOT.glob(f"tests/ops/test_{op}*.py")})
    if device == "cuda":
        files = ["--device=cuda", "tests/gpu", "tests/simt", "tests/triton"]
    command = [sys.executable, "-m", "pytest", "-x", *files]
    return subprocess.run(command, cwd=harness.ROOT, check=False).returncode == 0


def cases_on(device: str, op: str) -> list[harness.Case]:
    """The cases of an op that can be run there."""
    return [case for case in harness.cases_of(op) if device == "cpu" or case.cuda]


def main(arguments: list[str]) -> int:
    """Returns the exit status: 1 if a test failed and nothing was timed, 77 without the device."""
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch sees no GPU here")
        return SKIPPED
    if not tests_pass(options.ops, options.device):
        print("The tests fail: nothing was timed.", file=sys.stderr)
        return 1
    on_gpu = options.device == "cuda"
    machine: harness.Machine = (cuda.Replay() if options.replay else cuda) if on_gpu else harness
    if options.replay:
        torch.cuda.set_stream(torch.cuda.Stream())  # the default one cannot be captured
    torch.set_default_device(options.device)
    facts = harness.header() | (cuda.header() | {"replay": options.replay} if on_gpu else {})
    print(harness.header_lines(facts))
    if os.getloadavg()[0] > 0.5:
        print("The machine is busy: other libraries' threads wait for each other, and the ratios flatter us.")
    for op in options.ops:
        cases = cases_on(options.device, op)
        if not cases:
            print(f"\n{op}: nothing of it runs on a GPU")
            continue
        peaks = cuda.probe() if on_gpu else harness.probe()
        print(f"\npeaks: {', '.join(f'{rate:.0f} {name}' for name, rate in peaks.items())}")
        for rows in harness.run(cases, peaks, machine, 0.1 if options.quick else 1.0):
            print(harness.table_lines(rows), flush=True)
            if options.out:
                with options.out.open("a") as file:
                    file.writelines(harness.json_line(row, facts | peaks) + "\n" for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
