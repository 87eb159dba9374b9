"""The SIMT layer itself: right kernels run, and every planted mistake is seen."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.simt.build import FOLDER, SANITIZED, build

Array = npt.NDArray[np.float32]
Run = Callable[..., Array]
BLOCK = 96
SEEDS = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(name, in, seed) -> out of a planted kernel; raises RuntimeError with the layer's error."""
    sources = [FOLDER / "planted.cu", FOLDER / "planted_entry.cc"]
    function = build(tmp_path_factory.mktemp("planted"), "planted", sources).simt_planted
    function.restype = ctypes.c_char_p

    def call(name: str, x: Array, seed: int = 0) -> Array:
        out = torch.full((len(x),), torch.nan).numpy()  # torch aligns to 64 bytes; wmma wants 32
        pointers = (ctypes.c_void_p(a.ctypes.data) for a in (x, out))
        error = function(name.encode(), *pointers, ctypes.c_int64(len(x)), ctypes.c_uint64(seed))
        if error is not None:
            raise RuntimeError(error.decode())
        return out

    return call


def numbers(n: int) -> Array:
    return np.random.default_rng(0).integers(-9, 10, n).astype(np.float32)


@pytest.mark.parametrize("seed", SEEDS)
def test_barriers_and_shared_memory(run: Run, seed: int) -> None:
    x = numbers(4 * BLOCK)
    blocks = x.reshape(4, BLOCK)
    np.testing.assert_array_equal(run("reverse", x, seed), blocks[:, ::-1].reshape(-1))
    np.testing.assert_array_equal(run("rotate", x, seed), np.roll(blocks, -2, 1).reshape(-1))


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_calls(run: Run, seed: int) -> None:
    x = numbers(2 * BLOCK)
    x[BLOCK : BLOCK + 32] = 1 + np.abs(x[BLOCK : BLOCK + 32])
    lane = np.arange(32)
    expected = []
    for warp in x.reshape(-1, 32):
        down = warp[np.where(lane % 8 + 3 < 8, lane + 3, lane) % 32]
        up = warp[np.maximum(lane - 1, 0)]
        source = warp[lane // 16 * 16 + lane // 2 % 16]
        ballot = int(((warp > 0) * 2**lane).sum()) & 0xFFF
        votes = 0.5 * (warp > 0).any() + 0.25 * (warp > 0).all()
        expected.append(warp.sum() + 2 * down + 4 * up + 8 * source + ballot + warp.max() + 496 + votes)
    np.testing.assert_array_equal(run("warp calls", x, seed), np.concatenate(expected))


@pytest.mark.parametrize("dtype", ["bfloat16", "half"])
@pytest.mark.parametrize("seed", SEEDS)
def test_tensor_cores(run: Run, dtype: str, seed: int) -> None:
    x = numbers(32 * 32)
    a = x.reshape(32, 32)
    expected = a @ x[: 32 * 32].reshape(32, 32)[:, :16]
    np.testing.assert_array_equal(run(f"{dtype} product", x, seed)[: 32 * 16], expected.reshape(-1))


@pytest.mark.parametrize("seed", SEEDS)
def test_grid_barrier(run: Run, seed: int) -> None:
    x = numbers(12)
    np.testing.assert_array_equal(run("grid", x, seed)[:6], x[:6] + 2 * x[:6].sum())


def test_shared_memory_is_poisoned(run: Run) -> None:
    assert np.isnan(run("read unwritten", numbers(3 * BLOCK))).all()


@pytest.mark.parametrize("name", ["reverse", "rotate", "grid"])
@pytest.mark.parametrize("seed", SEEDS)
def test_missing_barrier_is_seen(run: Run, name: str, seed: int) -> None:
    x = numbers(2 * BLOCK)
    assert not np.array_equal(run(name, x, seed), run(f"{name} without barrier", x, seed))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("barrier in one branch", r"meet at different __syncthreads\(\): thread .* is at planted.cu:\d+"),
        ("barrier after return", r"thread \(5, 0, 0\) has ended before this|ended while thread .* waits"),
        ("shuffle in branch", r"wait for each other:\n  __shfl_xor_sync 0xffffffff at planted.cu|has ended"),
        ("shuffle from outside", "reads a lane that is not in its mask"),
        ("shuffle in half a warp", "lane 16 of the mask does not exist"),
        ("grid barrier in an ordinary launch", "a grid barrier in a launch that is not cooperative"),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_broken_rule_is_refused(run: Run, name: str, message: str, seed: int) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(name, numbers(BLOCK), seed)
    np.testing.assert_array_equal(run("reverse", numbers(BLOCK), seed), numbers(BLOCK)[::-1])  # goes on


@pytest.mark.skipif(SANITIZED, reason="the sanitizer ends the process instead")
def test_write_past_dynamic_shared_memory_is_seen(run: Run) -> None:
    with pytest.raises(RuntimeError, match="a write outside the dynamic shared memory"):
        run("write past dynamic", numbers(BLOCK))


@pytest.mark.skipif(not SANITIZED, reason="for a process with the address sanitizer")
@pytest.mark.parametrize("memory", ["dynamic", "static", "global"])
def test_address_sanitizer_sees_write_past(run: Run, memory: str) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # ends with the sanitizer's report
        os.dup2(writer, 2)
        run(f"write past {memory}", numbers(BLOCK))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        report = pipe.read()
    assert os.waitpid(child, 0)[1] != 0
    # the compiler knows the size of a static array, so its undefined-behaviour sanitizer may come first
    assert re.search("buffer-overflow on address|insufficient space for an object", report), report
