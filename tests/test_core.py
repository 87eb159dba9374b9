"""The border of the compiled core: which arrays come in, and what an error says."""

from __future__ import annotations

import array
import ctypes
import gc
import sys
from typing import Any

import numpy as np
import pytest
import torch

from chronorec import _core

ROWS, WIDTH = 3, 5


def norm(input: Any, output: Any, weight: Any = None, bias: Any = None, epsilon: Any = 0.0) -> None:
    _core.layer_norm(input, np.ones(WIDTH, np.float32) if weight is None else weight, bias, epsilon, output)


def sample() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)


class OnlyDLPack:
    """An exporter of today: DLPack 1.0, with the read-only flag."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class OldDLPack(OnlyDLPack):
    """An exporter from before DLPack 1.0."""

    def __dlpack__(self, stream: int | None = None) -> Any:  # type: ignore[override]
        return self.array.__dlpack__()


class BrokenDLPack:
    def __dlpack__(self, **options: Any) -> Any:
        raise RuntimeError("no data today")


def as_memoryview(x: np.ndarray) -> memoryview:
    return memoryview(array.array("f", x.ravel())).cast("B").cast("f", x.shape)


def as_ctypes(x: np.ndarray) -> Any:
    return (ctypes.c_float * x.shape[1] * x.shape[0]).from_buffer_copy(x.tobytes())


READERS = [np.asarray, torch.from_numpy, as_memoryview, as_ctypes, OnlyDLPack, OldDLPack]


@pytest.mark.parametrize("wrap", READERS, ids=lambda f: f.__name__)
def test_every_kind_of_array_is_read(wrap: Any) -> None:
    x, output = sample(), np.empty((ROWS, WIDTH), np.float32)
    norm(wrap(x), output)
    np.testing.assert_allclose(output, expected(x), atol=1e-6)


@pytest.mark.parametrize(
    "wrap", [np.asarray, torch.from_numpy, OnlyDLPack, OldDLPack], ids=lambda f: f.__name__
)
def test_every_kind_of_array_is_written(wrap: Any) -> None:
    x, output = sample(), np.empty((ROWS, WIDTH), np.float32)
    norm(x, wrap(output))
    np.testing.assert_allclose(output, expected(x), atol=1e-6)


def test_array_module_is_written() -> None:
    x, output = sample()[:1], array.array("f", [0] * WIDTH)
    norm(x, memoryview(output).cast("B").cast("f", (1, WIDTH)))
    np.testing.assert_allclose([output], expected(x), atol=1e-6)


def test_parameter_and_subclass_are_read() -> None:
    x, output = sample(), torch.empty(ROWS, WIDTH)
    norm(torch.nn.Parameter(torch.from_numpy(x)), output)
    np.testing.assert_allclose(output.numpy(), expected(x), atol=1e-6)


@pytest.mark.parametrize(
    "wrap", [OnlyDLPack, OldDLPack, np.asarray, torch.from_numpy], ids=lambda f: f.__name__
)
def test_nothing_leaks(wrap: Any) -> None:
    x, output = sample(), np.empty((ROWS, WIDTH), np.float32)
    wrapped = wrap(x)
    norm(wrapped, output)
    gc.collect()
    before = sys.getrefcount(x), sys.getrefcount(wrapped)
    for _ in range(100):
        norm(wrapped, output)
    assert (sys.getrefcount(x), sys.getrefcount(wrapped)) == before


def pack(rows: Any) -> np.ndarray:
    packed = np.full((1, rows.shape[1], 16), np.nan, np.float32)
    _core.pack_panels(rows, packed)
    return packed[0, :, : rows.shape[0]].T


@pytest.mark.parametrize(
    "view",
    [lambda x: x[::2, 1:4], lambda x: x[::-1, :4], lambda x: np.broadcast_to(x[:1], (4, 6))],
    ids=["step and offset", "negative stride", "zero stride"],
)
def test_leading_strides_are_free(view: Any) -> None:
    x = view(np.arange(36, dtype=np.float32).reshape(6, 6))
    np.testing.assert_array_equal(pack(x), x)


def test_torch_views_are_read() -> None:
    x = torch.arange(36, dtype=torch.float32).reshape(6, 6)[1::2, 2:]
    np.testing.assert_array_equal(pack(x), x.numpy())


def test_bfloat16_comes_from_torch_and_as_bits() -> None:
    x = torch.arange(12).reshape(3, 4).bfloat16()
    for rows in (x, x.view(torch.uint16).numpy(), OnlyDLPack(x)):
        packed = np.full((1, 4, 16), np.nan, np.float32)
        _core.pack_panels(rows, packed)
        np.testing.assert_array_equal(packed[0, :, :3].T, x.float().numpy())


@pytest.mark.parametrize("empty", [lambda *s: np.empty(s, np.float32), torch.empty], ids=["numpy", "torch"])
def test_zero_size(empty: Any) -> None:
    norm(empty(0, WIDTH), empty(0, WIDTH))
    _core.pack_panels(empty(0, 4), empty(0, 4, 16))
    _core.pack_panels(empty(4, 0), empty(1, 0, 16))
    output = np.full((ROWS, 2), np.nan, np.float32)
    _core.dense(empty(ROWS, 0), empty(1, 0, 16), np.ones(2, np.float32), None, 0, output)
    np.testing.assert_array_equal(output, 1)  # a product over nothing is zero


def unaligned() -> np.ndarray:
    raw = np.zeros(ROWS * WIDTH * 4 + 1, np.uint8)
    return raw[1:].view(np.float32).reshape(ROWS, WIDTH)


def odd_strides() -> np.ndarray:
    return np.zeros((ROWS, WIDTH), np.dtype([("flag", "u1"), ("value", "f4")]))["value"]


BAD_INPUTS = [
    (None, ValueError, "input: .*got None"),
    ("text", TypeError, "layer_norm argument 1: wanted an array .* got str"),
    (1.5, TypeError, "layer_norm argument 1: wanted an array .* got float"),
    ([1.0], TypeError, "layer_norm argument 1: wanted an array .* got list"),
    (np.zeros((ROWS, WIDTH)), TypeError, "input: wanted float32, got float64"),
    (torch.zeros(ROWS, WIDTH, dtype=torch.float64), TypeError, "input: wanted float32, got float64"),
    (torch.zeros(ROWS, WIDTH, dtype=torch.complex64), TypeError, "layer_norm argument 1: .*type code 5"),
    (torch.zeros(ROWS, WIDTH, dtype=torch.float16), TypeError, "layer_norm argument 1: .*16 bits"),
    (np.zeros((ROWS, WIDTH), np.float16), TypeError, "layer_norm argument 1: .*format 'e'"),
    (np.zeros((ROWS, WIDTH), ">f4"), TypeError, "layer_norm argument 1: .*format '>f'"),
    (np.zeros((ROWS, WIDTH), "f4,f4"), TypeError, "layer_norm argument 1: .*format 'T"),
    (torch.zeros(ROWS, WIDTH, device="meta"), TypeError, "layer_norm argument 1: "),
    (torch.zeros(ROWS, WIDTH).to_sparse(), TypeError, "layer_norm argument 1: "),
    (np.zeros((1, 1, 1, 1, 1), np.float32), ValueError, "layer_norm argument 1: wanted at most 4 dim.*got 5"),
    (torch.zeros(1, 1, 1, 1, 1), ValueError, "layer_norm argument 1: wanted at most 4 dimensions, got 5"),
    (np.zeros(WIDTH, np.float32), ValueError, r"input: wanted shape \[any, any\], got \[5\]"),
    (np.zeros((WIDTH, ROWS), np.float32).T, ValueError, "input: the last dimension must be contiguous"),
    (np.zeros((ROWS, 2 * WIDTH), np.float32)[:, :WIDTH], ValueError, "input: wanted a contiguous array"),
    (unaligned(), ValueError, "layer_norm argument 1: wanted data aligned to 4 bytes"),
    (odd_strides(), ValueError, "layer_norm argument 1: wanted strides in whole elements"),
    (BrokenDLPack(), TypeError, "layer_norm argument 1: cannot be read"),
]


@pytest.mark.parametrize(("value", "error", "text"), BAD_INPUTS, ids=lambda v: type(v).__name__)
def test_bad_input_is_named(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        norm(value, np.empty((ROWS, WIDTH), np.float32))


def read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


BAD_OUTPUTS = [
    (np.empty((ROWS, WIDTH - 1), np.float32), ValueError, r"output: wanted shape \[3, 5\], got \[3, 4\]"),
    (read_only(np.empty((ROWS, WIDTH), np.float32)), ValueError, "output: wanted a writable array"),
    (
        OnlyDLPack(read_only(np.empty((ROWS, WIDTH), np.float32))),
        ValueError,
        "output: wanted a writable array",
    ),
    (memoryview(bytes(60)).cast("f", (ROWS, WIDTH)), ValueError, "output: wanted a writable array"),
    (None, ValueError, "output: .*got None"),
]


@pytest.mark.parametrize(("value", "error", "text"), BAD_OUTPUTS, ids=lambda v: type(v).__name__)
def test_bad_output_is_named(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        norm(sample(), value)


def test_cause_of_a_failed_export_is_kept() -> None:
    with pytest.raises(TypeError) as caught:
        norm(BrokenDLPack(), np.empty((ROWS, WIDTH), np.float32))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("epsilon", ["0.1", None, [1.0]])
def test_bad_scalar_is_named(epsilon: Any) -> None:
    with pytest.raises(TypeError, match="layer_norm argument 4: wanted a number, got "):
        norm(sample(), np.empty((ROWS, WIDTH), np.float32), epsilon=epsilon)


def test_fractional_integer_is_refused() -> None:
    packed, output = np.zeros((1, WIDTH, 16), np.float32), np.empty((ROWS, 2), np.float32)
    with pytest.raises(TypeError, match=r"dense argument 5: wanted an integer, got 1\.5"):
        _core.dense(sample(), packed, None, None, 1.5, output)  # type: ignore[arg-type]


def test_wrong_number_of_arguments() -> None:
    with pytest.raises(TypeError, match="layer_norm takes 5 arguments, got 2"):
        _core.layer_norm(sample(), sample())  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        _core.layer_norm(input=sample())  # type: ignore[call-arg]


def test_many_types_in_turn() -> None:
    """More array types than the cache of exchange APIs holds, again and again."""
    x = sample()
    kinds = [type(f"Kind{i}", (OnlyDLPack,), {}) for i in range(6)]
    for _ in range(3):
        for kind in kinds:
            output = torch.empty(ROWS, WIDTH)
            norm(kind(x), output, weight=torch.nn.Parameter(torch.ones(WIDTH)))
            np.testing.assert_allclose(output.numpy(), expected(x), atol=1e-6)
