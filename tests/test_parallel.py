"""The thread pool as Python sees it: thread counts, several callers, fork, exit, Ctrl-C, environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from chronorec import _core

# A call of many seconds on little memory: 64 rows are one task, and all rows are the same one.
LONG_CALL = """
import numpy as np
from chronorec import _core
input = np.broadcast_to(np.ones(65536, np.float32), (1_000_000, 65536))
weight, output = np.ones((1, 65536, 16), np.float32), np.empty((1_000_000, 1), np.float32)
def long_call():
    _core.dense(input, weight, None, None, 0, output)
"""


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = _core.num_threads()
    yield
    _core.set_num_threads(before)


def work(seed: int = 0, rows: int = 700) -> bytes:
    draw = np.random.default_rng(seed)
    input = draw.standard_normal((rows, 40)).astype(np.float32)
    weight = np.empty((2, 40, 16), np.float32)
    _core.pack_panels(draw.standard_normal((20, 40)).astype(np.float32), weight)
    output = np.full((rows, 20), np.nan, np.float32)
    _core.dense(input, weight, None, None, 5, output)
    return output.tobytes()


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 30) -> tuple[str, str]:
    try:
        return process.communicate(timeout=timeout)
    finally:
        process.kill()


def test_result_does_not_depend_on_thread_count() -> None:
    _core.set_num_threads(1)
    alone = work()
    for threads in (2, 5, 3, 16, 1, 2):
        _core.set_num_threads(threads)
        assert _core.num_threads() == threads
        for _ in range(20):
            assert work() == alone


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_bad_thread_count(threads: int) -> None:
    with pytest.raises(ValueError, match=f"num_threads: wanted 1 to 256, got {threads}"):
        _core.set_num_threads(threads)


def test_many_python_threads_at_once() -> None:
    _core.set_num_threads(3)
    wanted = [work(seed) for seed in range(4)]
    wrong: list[int] = []

    def caller(seed: int) -> None:
        for _ in range(100):
            if work(seed) != wanted[seed]:
                wrong.append(seed)

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


def test_gil_is_released() -> None:
    """Python goes on while another thread is inside the core."""
    code = LONG_CALL + (
        "import threading, time, os\n"
        "threading.Thread(target=long_call, daemon=True).start()\n"
        "time.sleep(0.3); start = time.monotonic()\n"
        "for _ in range(20): time.sleep(0.001)\n"
        "print(time.monotonic() - start, flush=True); os._exit(0)"
    )
    out, err = finish(python(code))
    assert float(out) < 1, err


def test_fork_then_compute() -> None:
    _core.set_num_threads(3)
    wanted = work()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0 if work() == wanted and work() == wanted else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert work() == wanted


def test_fork_while_another_thread_computes() -> None:
    code = LONG_CALL + (
        "import os, threading, time\n"
        "_core.set_num_threads(2)\n"
        "threading.Thread(target=long_call, daemon=True).start(); time.sleep(0.2)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    _core.dense(input[:256], weight, None, None, 0, output[:256])\n"
        "    os._exit(int(output[255, 0] != 65536))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True); os._exit(0)"
    )
    out, err = finish(python(code))
    assert out == "0\n", err


def test_exit_while_workers_sleep() -> None:
    code = (
        "from chronorec import _core; _core.set_num_threads(8)\n"
        "import numpy as np; x = np.ones((999, 8), np.float32)\n"
        "_core.layer_norm(x, x[0], None, 1.0, np.empty_like(x)); print('done')"
    )
    process = python(code)
    assert finish(process) == ("done\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("threads", ["1", "3"])
def test_exit_while_a_daemon_thread_computes(threads: str) -> None:
    code = LONG_CALL + (
        "import threading, time; threading.Thread(target=long_call, daemon=True).start(); time.sleep(0.3)"
    )
    process = python(code, CHRONOREC_THREADS=threads)
    assert finish(process) == ("", "")
    assert process.returncode == 0


def test_exit_while_daemon_threads_call() -> None:
    """They come back from the core while the interpreter shuts down."""
    code = (
        "import threading, time, numpy as np; from chronorec import _core\n"
        "x = np.ones((2000, 64), np.float32)\n"
        "def calls():\n"
        "    y = np.empty_like(x)\n"
        "    while True: _core.layer_norm(x, x[0], None, 1e-5, y)\n"
        "for _ in range(3): threading.Thread(target=calls, daemon=True).start()\n"
        "time.sleep(0.1)"
    )
    for _ in range(3):
        process = python(code)
        assert finish(process) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize("threads", ["1", "2"])
def test_interrupt_stops_a_long_call(threads: str) -> None:
    code = LONG_CALL + (
        "import os, signal, time\n"
        "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "for _ in range(2):\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.3); start = time.monotonic()\n"
        "    try: long_call()\n"
        "    except KeyboardInterrupt: print(time.monotonic() - start - 0.3)\n"
        "small = np.empty((64, 1), np.float32)\n"
        "_core.dense(input[:64], weight, None, None, 0, small); assert (small == 65536).all()"
    )
    process = python(code, CHRONOREC_THREADS=threads)
    out, err = finish(process)
    assert process.returncode == 0, err
    assert all(float(seconds) < 1 for seconds in out.split()), out
    assert len(out.split()) == 2


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_interrupt_stops_one_long_sequence(threads: str, backward: bool) -> None:
    """It is one task, and on two threads perhaps not that of the thread that hears the signal."""
    code = (
        "import os, signal, time, torch; from chronorec.ops import gru\n"
        f"n, h = {400_000 if backward else 1_500_000}, 64\n"
        "values = torch.zeros(n, 1); offsets = torch.tensor([0, 0, n])\n"
        f"w, u = torch.zeros(3 * h, 1), torch.zeros(3 * h, h, requires_grad={backward})\n"
        f"work = gru(values, offsets, w, u).output.sum().backward if {backward} else "
        "lambda: gru(values, offsets, w, u)\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.3); start = time.monotonic()\n"
        "try: work()\n"
        "except KeyboardInterrupt: print(time.monotonic() - start - 0.3)"
    )
    out, err = finish(python(code, CHRONOREC_THREADS=threads))
    assert len(out.split()) == 1, err
    assert float(out) < 1


def test_interrupt_ends_the_process_as_python_does() -> None:
    process = python(LONG_CALL + "print('go', flush=True); long_call()", CHRONOREC_THREADS="2")
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, err = finish(process)
    assert time.monotonic() - start < 2
    assert "KeyboardInterrupt" in err
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "257", "2 ", "99999999999999999999"])
def test_bad_thread_variable_is_refused_at_import(value: str) -> None:
    process = python("import chronorec._core", CHRONOREC_THREADS=value)
    _, err = finish(process)
    assert process.returncode == 1
    assert f"CHRONOREC_THREADS: wanted a whole number from 1 to 256, got '{value}'" in err


def test_bad_level_variable_is_refused_at_import() -> None:
    process = python("import chronorec._core", CHRONOREC_ISA="sse9")
    _, err = finish(process)
    assert process.returncode == 1
    assert "CHRONOREC_ISA: wanted baseline, avx2 or avx512, got 'sse9'" in err


def test_variables_are_obeyed() -> None:
    levels = ["baseline", "avx2", "avx512"]
    best = levels.index(_core.best_level)
    show = "from chronorec import _core; print(_core.level, _core.num_threads())"
    for asked, level in enumerate(levels):
        out, _ = finish(python(show, CHRONOREC_ISA=level, CHRONOREC_THREADS="7"))
        assert out == f"{levels[min(asked, best)]} 7\n"
    available = len(os.sched_getaffinity(0))
    out, _ = finish(python(show, CHRONOREC_ISA="", CHRONOREC_THREADS=""))
    assert out.split()[0] == _core.best_level
    assert 1 <= int(out.split()[1]) <= available


def test_default_follows_the_affinity_mask() -> None:
    show = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from chronorec import _core; print(_core.num_threads())"
    )
    assert finish(python(show, CHRONOREC_THREADS=""))[0] == "1\n"
