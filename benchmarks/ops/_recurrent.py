"""gru, lstm and rnn against torch.nn (padded; packed where lengths differ), onnxruntime and openvino."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence

from benchmarks.harness import Case, on_gpu
from benchmarks.lengths import movielens_lengths
from chronorec import _core, ops

Provider = Callable[[], object]

LAYER_SHAPES = [(128, 50, 64, 128), (128, 200, 64, 64), (64, 50, 256, 256)]


@dataclass(frozen=True)
class Recurrent:
    """One of the three ops.

    Attributes:
        gates: blocks of H rows in a weight.
        onnx: the operator's name, and the order of its gates in terms of torch's.
    """

    op: str
    gates: int
    layer: type[torch.nn.RNNBase]
    torch_cell: type[torch.nn.RNNCellBase]
    onnx: tuple[str, list[int]]

    @property
    def states(self) -> int:
        return 2 if self.op == "lstm" else 1


GRU = Recurrent("gru", 3, torch.nn.GRU, torch.nn.GRUCell, ("GRU", [1, 0, 2]))
LSTM = Recurrent("lstm", 4, torch.nn.LSTM, torch.nn.LSTMCell, ("LSTM", [0, 3, 1, 2]))
RNN = Recurrent("rnn", 1, torch.nn.RNN, torch.nn.RNNCell, ("RNN", [0]))


def work_of(kind: Recurrent, events: int, inputs: int, hidden: int, backward: bool) -> int:
    """FLOPs of the matrix products."""
    return 2 * events * kind.gates * hidden * (inputs + hidden) * (3 if backward else 1)


class Layer:
    """One layer, one batch of sequences, and what every provider does with them."""

    def __init__(
        self,
        kind: Recurrent,
        lengths: list[int],
        inputs: int,
        hidden: int,
        dtype: torch.dtype,
        backward: bool,
    ) -> None:
        torch.manual_seed(0)
        self.kind, self.lengths, self.backward, self.dtype = kind, lengths, backward, dtype
        self.layer = kind.layer(inputs, hidden, batch_first=True)
        self.values = torch.randn(sum(lengths), inputs)
        self.grad_output = torch.randn(sum(lengths), hidden)
        self.offsets = torch.cumsum(torch.tensor([0, *lengths]), 0)

    def provider(self, run: Callable[[], Tensor], gradient: Tensor, inputs: list[Tensor]) -> Provider:
        if self.backward:
            return lambda: torch.autograd.grad(run(), inputs, gradient)
        return torch.no_grad()(run)

    def chronorec(self) -> Provider:
        op = getattr(ops, self.kind.op)
        values = self.values.to(self.dtype).requires_grad_(self.backward)
        weights = [p.detach().to(self.dtype).requires_grad_(self.backward) for p in self.layer.parameters()]
        gradient = self.grad_output.to(self.dtype)
        return self.provider(lambda: op(values, self.offsets, *weights).output, gradient, [values, *weights])

    def padded(self, dtype: torch.dtype) -> Provider:
        layer = self.kind.layer(self.layer.input_size, self.layer.hidden_size, batch_first=True).to(dtype)
        layer.load_state_dict(self.layer.state_dict())
        rows = list(self.values.to(dtype).split(self.lengths))
        values = pad_sequence(rows, batch_first=True).requires_grad_(self.backward)
        gradient = pad_sequence(list(self.grad_output.to(dtype).split(self.lengths)), batch_first=True)
        return self.provider(lambda: layer(values)[0], gradient, [values, *layer.parameters()])

    def packed(self) -> Provider:
        with torch.device("cpu"):  # where torch wants the lengths
            packed = pack_sequence(list(self.values.split(self.lengths)), enforce_sorted=False)
            gradient = pack_sequence(list(self.grad_output.split(self.lengths)), enforce_sorted=False).data
        data = packed.data.detach().requires_grad_(self.backward)
        whole = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return self.provider(lambda: self.layer(whole)[0].data, gradient, [data, *self.layer.parameters()])

    def bucketed(self) -> Provider:
        """The padded layer in four batches of similar lengths, as a sorting loader makes them."""
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        rows, grads = self.values.split(self.lengths), self.grad_output.split(self.lengths)
        providers = []
        for quarter in np.array_split(order, 4):
            values = pad_sequence([rows[i] for i in quarter], batch_first=True).requires_grad_(self.backward)
            gradient = pad_sequence([grads[i] for i in quarter], batch_first=True)
            inputs = [values, *self.layer.parameters()]
            providers.append(self.provider(lambda v=values: self.layer(v)[0], gradient, inputs))
        return lambda: [run() for run in providers]

    def providers(self) -> dict[str, Provider]:
        found = {"chronorec": self.chronorec()}
        jagged = len(set(self.lengths)) > 1
        if self.dtype == torch.bfloat16:
            found |= {"torch": self.padded(torch.bfloat16), "torch float32": self.padded(torch.float32)}
            return found
        found["torch padded" if jagged else "torch"] = self.padded(torch.float32)
        if on_gpu():  # cuDNN's products are in TF32 unless told otherwise
            found["torch without TF32"] = without_tf32(self.padded(torch.float32))
        if jagged:
            found |= {"torch packed": self.packed(), "torch bucketed": self.bucketed()}
        elif not self.backward and not on_gpu():
            rows = self.values.unflatten(0, (len(self.lengths), -1)).transpose(0, 1).contiguous().numpy()
            zeros = np.zeros((1, len(self.lengths), self.layer.hidden_size), np.float32)
            feed = {"X": rows, "H": zeros} | ({"C": zeros} if self.kind.states == 2 else {})
            found |= exported_providers(self.kind, self.layer, feed)
        return found


def without_tf32(run: Provider) -> Provider:
    """The same in full float32, as ours is."""

    def call() -> object:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return run()

    return call


def onnx_model(kind: Recurrent, layer: torch.nn.RNNBase, feed: dict[str, np.ndarray]) -> bytes:
    """The layer as one ONNX operator over X [T, B, I] and the initial states."""
    from onnx import TensorProto, helper, numpy_helper

    name, order = kind.onnx
    weight_ih, weight_hh, bias_ih, bias_hh = (p.detach() for p in layer.parameters())
    hidden = layer.hidden_size

    def gates(weight: Tensor) -> np.ndarray:
        return torch.cat([weight.split(hidden)[g] for g in order])[None].numpy()

    initial = {
        "W": gates(weight_ih),
        "R": gates(weight_hh),
        "B": np.concatenate([gates(bias_ih), gates(bias_hh)], 1),
    }
    states = list(feed)[1:]
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(states)]
    options = {"linear_before_reset": 1} if name == "GRU" else {}
    node = helper.make_node(name, ["X", "W", "R", "B", "", *states], outputs, hidden_size=hidden, **options)
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info(key, float32, x.shape) for key, x in feed.items()],
        [helper.make_tensor_value_info(key, float32, None) for key in outputs],
        [numpy_helper.from_array(x, key) for key, x in initial.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def exported_providers(
    kind: Recurrent, layer: torch.nn.RNNBase, feed: dict[str, np.ndarray]
) -> dict[str, Provider]:
    """onnxruntime and openvino, whichever is installed, on as many threads as we have."""
    found: dict[str, Provider] = {}
    try:
        model = onnx_model(kind, layer, feed)
    except ImportError:
        return found
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _core.num_threads()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        found["onnxruntime"] = lambda: session.run(None, feed)
    except ImportError:
        pass
    try:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": _core.num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(
            openvino.Core().read_model(model), "CPU", settings | {"INFERENCE_PRECISION_HINT": "f32"}
        )
        request = compiled.create_infer_request()
        found["openvino"] = lambda: request.infer(feed)
    except ImportError:
        pass
    return found


def step_providers(
    kind: Recurrent, sequences: int, inputs: int, hidden: int, precision: str
) -> dict[str, Provider]:
    """One step with weights packed once: the core on numpy arrays, as a service runs it, and its rivals in
    float32."""
    torch.manual_seed(0)
    layer, cell = kind.layer(inputs, hidden), kind.torch_cell(inputs, hidden)
    values = torch.randn(sequences, inputs)
    states = [torch.randn(sequences, hidden) for _ in range(kind.states)]
    packed = getattr(ops, f"pack_{kind.op}_weights")(*layer.parameters(), precision=precision)
    arrays = [None if x is None else x.numpy() for x in (*states, None)][:2]
    new = [None if x is None else np.empty_like(x) for x in arrays]
    scratch = np.empty(getattr(_core, f"{kind.op}_step_scratch")(hidden) + 64, np.uint8)
    start = -scratch.ctypes.data % 64
    step = getattr(_core, "rnn_tanh_step" if kind.op == "rnn" else f"{kind.op}_step")
    weights = [(x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy() for x in packed[:3]]
    arguments = (values.numpy(), *arrays, *weights, *new, scratch[start:])

    def torch_cell() -> object:
        with torch.no_grad():
            return cell(values, tuple(states) if kind.states == 2 else states[0])

    public = getattr(ops, f"{kind.op}_step")
    feed = dict(zip(("X", "H", "C"), (x.numpy()[None] for x in (values, *states)), strict=False))
    return {
        "chronorec": lambda: step(*arguments),
        "chronorec torch op": lambda: public(values, *states, packed),
        "torch cell": torch_cell,
        **exported_providers(kind, layer, feed),
    }


def layer_cases(kind: Recurrent, name: str, lengths: list[int], inputs: int, hidden: int) -> list[Case]:
    cases = []
    for dtype in ("float32", "bfloat16"):
        for mode in ("forward", "forward+backward"):
            backward = mode != "forward"
            cases.append(
                Case(
                    op=kind.op,
                    name=name,
                    mode=mode,
                    dtype=dtype,
                    work=work_of(kind, sum(lengths), inputs, hidden, backward),
                    unit="GF/s",
                    setup=lambda dtype=dtype, backward=backward: Layer(
                        kind, lengths, inputs, hidden, getattr(torch, dtype), backward
                    ).providers(),
                )
            )
    return cases


def step_case(kind: Recurrent, sequences: int, inputs: int, hidden: int, precision: str = "float32") -> Case:
    weights = "" if precision == "float32" else f" {precision} weights"
    return Case(
        op=kind.op,
        name=f"B{sequences} I{inputs} H{hidden}{weights}",
        mode="step",
        dtype="float32",
        work=work_of(kind, sequences, inputs, hidden, False),
        unit="GF/s",
        setup=lambda: step_providers(kind, sequences, inputs, hidden, precision),
        cuda=False,
    )


def cases(kind: Recurrent) -> list[Case]:
    """The cases of one op."""
    found = []
    for sequences, steps, inputs, hidden in LAYER_SHAPES:
        name = f"B{sequences} T{steps} I{inputs} H{hidden}"
        found += layer_cases(kind, name, [steps] * sequences, inputs, hidden)
    found += layer_cases(kind, "B128 MovieLens I64 H128", movielens_lengths(128), 64, 128)
    found += layer_cases(kind, "B8 T50 I64 H128", [50] * 8, 64, 128)
    found += [step_case(kind, 1, 128, 128, precision) for precision in ("float32", "bfloat16", "int8")]
    return [*found, step_case(kind, 64, 128, 128)]
