"""The tests that gru, lstm and rnn have alike: ``class TestX(RecurrentSuite): cell = ...``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from tests.support.jagged import EDGE_LENGTHS, LONG_LENGTHS, jagged_lengths, offsets_of
from tests.support.recurrent import FLOATS, Cell, assert_same

MASKED_LENGTHS = [5, 0, 1, 17, 40, 2]


class RecurrentSuite:
    cell: Cell

    @pytest.fixture(autouse=True)
    def restored_threads(self) -> Iterator[None]:
        threads = _core.num_threads()
        yield
        _core.set_num_threads(threads)

    # --- within budget -----------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (5, 3), (16, 16), (17, 33), (64, 100)])
    def test_edge_lengths(self, inputs: int, hidden: int, dtype: torch.dtype) -> None:
        self.cell.assert_correct(EDGE_LENGTHS, inputs, hidden, dtype)

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_long_sequences(self, dtype: torch.dtype) -> None:
        self.cell.assert_correct(LONG_LENGTHS, 6, 20, dtype, draws=2)

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_many_sequences_take_the_large_tiles(self, dtype: torch.dtype) -> None:
        self.cell.assert_correct([(7 * i) % 19 for i in range(75)], 9, 48, dtype)

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_many_tiles_share_a_gradient(self, dtype: torch.dtype) -> None:
        self.cell.assert_correct([i % 4 for i in range(700)], 3, 9, dtype, draws=1)

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_depths_beyond_a_slice(self, dtype: torch.dtype) -> None:
        self.cell.assert_correct([3, 9, 5, 8, 2, 7, 6, 1, 4, 9, 9, 3], 150, 270, dtype)

    # From 8 on: with one or two units the reference may be exact by luck; those sizes stand above.
    @settings(max_examples=10, suppress_health_check=[HealthCheck.differing_executors])
    @given(jagged_lengths, st.integers(8, 40), st.integers(8, 40), st.sampled_from(FLOATS), st.booleans())
    def test_drawn_shapes(
        self, lengths: list[int], inputs: int, hidden: int, dtype: torch.dtype, reverse: bool
    ) -> None:
        self.cell.assert_correct(lengths, inputs, hidden, dtype, reverse=reverse)

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("which", ["recurrent_mask", "zoneout_mask", "both"])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_masks(self, which: str, reverse: bool, dtype: torch.dtype) -> None:
        masks = self.cell.masks(MASKED_LENGTHS, 21, dtype)
        chosen = masks if which == "both" else {which: masks[which]}
        self.cell.assert_correct(MASKED_LENGTHS, 11, 21, dtype, reverse=reverse, **chosen)

    def test_extreme_values_saturate_and_nan_stays_in_its_sequence(self) -> None:
        if self.cell.options != {"nonlinearity": "relu"}:
            self.cell.assert_correct([4, 4], 6, 10, scale=1e4)
        arguments = self.cell.inputs([4, 4], 6, 10)
        arguments[0][5, 2] = torch.nan
        output = self.cell.run(*arguments)[0]
        assert torch.isfinite(output[:5]).all()
        assert torch.isnan(output[5:]).all()

    @pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
    def test_no_events_at_all(self, lengths: list[int]) -> None:
        arguments = self.cell.inputs(lengths, 5, 9)
        output, *final = self.cell.run(*arguments)
        assert output.shape == (0, 9)
        for last, initial in zip(final, arguments[6:], strict=True):
            assert torch.equal(last, initial)
        self.cell.assert_correct(lengths, 5, 9)

    # --- what equals what --------------------------------------------------------------------------

    @pytest.mark.parametrize("absent", [(4,), (5,), (6,), (4, 5, 6)])
    def test_optional_inputs_mean_zero(self, absent: tuple[int, ...]) -> None:
        arguments = self.cell.inputs([3, 0, 17, 8], 10, 12)
        zeros = [torch.zeros_like(a) if i in absent else a for i, a in enumerate(arguments)]
        without = [None if i in absent else a for i, a in enumerate(arguments)]
        for left, right in zip(self.cell.run(*without), self.cell.run(*zeros), strict=True):
            assert torch.equal(left, right)
        gradients = []
        for inputs in (without, zeros):
            weight = inputs[2].clone().requires_grad_()
            self.cell.run(*inputs[:2], weight, *inputs[3:])[0].sum().backward()
            gradients.append(weight.grad)
        assert torch.equal(*gradients)

    def test_masks_of_ones_and_zeros_change_nothing_or_everything(self) -> None:
        lengths = [5, 0, 9]
        arguments = self.cell.inputs(lengths, 6, 13)
        plain = self.cell.run(*arguments)
        ones, no_zoneout = torch.ones(3, 13), torch.zeros(14, 13)
        masked = self.cell.run(*arguments, recurrent_mask=ones, zoneout_mask=no_zoneout)
        for left, right in zip(plain, masked, strict=True):
            assert torch.equal(left, right)
        _, *final = self.cell.run(*arguments, zoneout_mask=1 - no_zoneout)
        for last, initial in zip(final, arguments[6:], strict=True):
            assert torch.equal(last, initial)

    def test_reverse_runs_the_flipped_sequences(self) -> None:
        lengths = [5, 0, 19, 1]
        arguments = self.cell.inputs(lengths, 6, 13)
        order = torch.cat([r.flip(0) for r in torch.arange(25).split(lengths)])
        flipped = self.cell.run(arguments[0][order], *arguments[1:])
        output, *final = self.cell.run(*arguments, reverse=True)
        assert torch.equal(output[order], flipped[0])
        for left, right in zip(final, flipped[1:], strict=True):
            assert torch.equal(left, right)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_matches_torch(self, reverse: bool) -> None:
        values, offsets, *weights = self.cell.inputs([20] * 6, 10, 24)
        initial = [x[None] for x in weights[4:]]
        layer = self.cell.torch_layer(10, 24, batch_first=True)
        rows = values.view(6, 20, 10)
        with torch.no_grad():
            for parameter, weight in zip(layer.parameters(), weights[:4], strict=True):
                parameter.copy_(weight)
            wanted, last = layer(
                rows.flip(1) if reverse else rows, initial[0] if len(initial) == 1 else tuple(initial)
            )
        output, *final = self.cell.run(values, offsets, *weights, reverse=reverse)
        torch.testing.assert_close(output.view(6, 20, 24), wanted.flip(1) if reverse else wanted)
        for left, right in zip(final, last if isinstance(last, tuple) else (last,), strict=True):
            torch.testing.assert_close(left, right[0])

    def test_an_empty_sequence_keeps_its_initial_state(self) -> None:
        arguments = self.cell.inputs([0, 4, 0], 5, 9)
        for last, initial in zip(self.cell.run(*arguments)[1:], arguments[6:], strict=True):
            assert torch.equal(last[[0, 2]], initial[[0, 2]])
        for last in self.cell.run(*arguments[:6])[1:]:
            assert torch.equal(last[[0, 2]], torch.zeros(2, 9))

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("hidden", [15, 16])
    @pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
    def test_padding_keeps_what_is_not_finite_to_itself(
        self, bad: float, hidden: int, dtype: torch.dtype
    ) -> None:
        """An infinite input times the zeros that pad a weight is NaN, which may not leave the padding."""
        arguments = self.cell.inputs([3, 2], 4, hidden, dtype)
        arguments[0][4, 1] = bad
        actual = self.cell.results(self.cell.run, arguments, dtype)
        for name, wanted in self.cell.results(self.cell.specify, arguments, dtype).items():
            assert torch.equal(actual[name].isfinite(), wanted.isfinite()), name

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("batch", [1, 2, 8, 9, 16, 70])
    def test_a_step_is_a_sequence_of_one_event(self, batch: int, dtype: torch.dtype) -> None:
        values, offsets, *weights = self.cell.inputs([1] * batch, 13, 21, dtype)
        stepped = self.cell.step(values, weights[4:], self.cell.pack(*weights[:4]))
        output, *final = self.cell.run(values, offsets, *weights)
        assert torch.equal(stepped[0], output)
        for left, right in zip(stepped, final, strict=True):
            assert torch.equal(left, right)

    @pytest.mark.parametrize("hidden", [16, 21])
    def test_steps_give_the_sequence_bitwise(self, hidden: int) -> None:
        values, offsets, *weights = self.cell.inputs([40] * 11, 13, hidden)
        output = self.cell.run(values, offsets, *weights)[0].view(11, 40, hidden)
        states, packed = tuple(weights[4:]), self.cell.pack(*weights[:4])
        for t in range(40):
            states = self.cell.step(values.view(11, 40, 13)[:, t], states, packed)
            assert torch.equal(states[0], output[:, t])

    def test_a_step_has_no_gradient_and_packed_weights_are_a_copy(self) -> None:
        values, _, *weights = self.cell.inputs([1] * 5, 7, 6)
        layer, states = weights[:4], weights[4:]
        packed = self.cell.pack(*(weight.requires_grad_() for weight in layer))
        wanted = self.cell.specify_step(values, states, *layer)[0].detach()
        with torch.no_grad():
            for weight in layer:
                weight.zero_()
        torch.testing.assert_close(self.cell.step(values, states, packed)[0], wanted)
        states = [states[0].clone().requires_grad_(), *states[1:]]
        with pytest.raises(RuntimeError, match=f"{self.cell.op}_step: has no gradient"):
            self.cell.step(values, states, packed)
        with torch.no_grad():
            torch.testing.assert_close(self.cell.step(values, states, packed)[0], wanted)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_two_segments_with_carried_state_give_the_whole(self, reverse: bool) -> None:
        lengths, cut = [9, 40, 17, 2], [4, 31, 0, 2]
        values, offsets, *weights = self.cell.inputs(lengths, 8, 18)
        rows = values.split(lengths)
        head = torch.cat([r[:c] for r, c in zip(rows, cut, strict=True)])
        tail = torch.cat([r[c:] for r, c in zip(rows, cut, strict=True)])
        rest = [n - c for n, c in zip(lengths, cut, strict=True)]
        parts = [(head, offsets_of(cut)), (tail, offsets_of(rest))]
        first = self.cell.run(*parts[reverse], *weights, reverse=reverse)
        second = self.cell.run(*parts[1 - reverse], *weights[:4], *first[1:], reverse=reverse)
        whole = self.cell.run(values, offsets, *weights, reverse=reverse)
        for left, right in zip(second[1:], whole[1:], strict=True):
            assert torch.equal(left, right)
        begin, end = (second, first) if reverse else (first, second)
        pairs = zip(begin[0].split(cut), end[0].split(rest), strict=True)
        assert torch.equal(torch.cat([x for pair in pairs for x in pair]), whole[0])

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_the_order_of_sequences_does_not_matter(self, dtype: torch.dtype) -> None:
        lengths = [(5 * i) % 23 for i in range(70)]
        values, offsets, *weights = self.cell.inputs(lengths, 8, 18, dtype)
        order = torch.randperm(70, generator=torch.Generator().manual_seed(3)).tolist()
        rows = values.split(lengths)
        moved = self.cell.run(
            torch.cat([rows[i] for i in order]),
            offsets_of([lengths[i] for i in order]),
            *weights[:4],
            *(x[order] for x in weights[4:]),
        )
        plain = self.cell.run(values, offsets, *weights)
        assert torch.equal(moved[1], plain[1][order])
        pieces = plain[0].split(lengths)
        assert torch.equal(moved[0], torch.cat([pieces[i] for i in order]))

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_jagged_equals_padded_with_a_mask(self, dtype: torch.dtype) -> None:
        lengths = [3, 0, 31, 12]
        arguments = self.cell.inputs(lengths, 8, 18, dtype)
        padded = torch.nn.utils.rnn.pad_sequence(list(arguments[0].split(lengths)), batch_first=True)
        full = [padded.reshape(-1, 8), offsets_of([31] * 4), *arguments[2:]]
        mask = (torch.arange(31) < torch.tensor(lengths)[:, None]).flatten()
        assert torch.equal(self.cell.run(*arguments)[0], self.cell.run(*full)[0][mask])

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_runs_and_thread_counts_agree_bitwise(self, dtype: torch.dtype) -> None:
        arguments = self.cell.inputs([(11 * i) % 37 for i in range(90)], 20, 40, dtype)
        first = self.cell.results(self.cell.run, arguments, dtype)
        for threads in (None, 1, 2, 3):
            if threads is not None:
                _core.set_num_threads(threads)
            assert_same(self.cell.results(self.cell.run, arguments, dtype), first)

    def test_strided_and_offset_inputs(self) -> None:
        lengths = [5, 0, 12]
        arguments, masks = self.cell.inputs(lengths, 10, 14), self.cell.masks(lengths, 14)

        def inside(x: Tensor) -> Tensor:  # rows apart, memory not starting at a boundary
            return torch.full((*x.shape[:-1], x.shape[-1] + 5), torch.nan)[..., 3:-2].copy_(x)

        def crossed(x: Tensor) -> Tensor:  # last dimension not contiguous
            return x.t().contiguous().t() if x.dim() == 2 else torch.stack([x, x], -1)[:, 0]

        expected = self.cell.results(self.cell.run, arguments, torch.float32, **masks)
        names, count = self.cell.names, len(self.cell.outputs)
        for change in (inside, crossed):
            changed = [change(x).requires_grad_() if x.is_floating_point() else x for x in arguments]
            outputs = self.cell.run(*changed, **{name: change(x) for name, x in masks.items()})
            assert torch.equal(outputs[0], expected["output"])
            generator = torch.Generator().manual_seed(1)
            weights = [torch.randn(x.shape, generator=generator).bfloat16().float() for x in outputs]
            wanted = [x for x in changed if x.is_floating_point()]
            gradients = torch.autograd.grad(outputs[:count], wanted, [change(w) for w in weights])
            assert_same(dict(zip(names, gradients, strict=True)), {n: expected[n] for n in names})

    # --- torch -------------------------------------------------------------------------------------

    def raw(self, arguments: list[Tensor | None], save: bool) -> tuple[Tensor, ...]:
        full = (*arguments[:7], *arguments[7:8], *[None] * (8 - len(arguments)), None, None)
        return getattr(torch.ops.chronorec, self.cell.raw)(*full, False, save)

    def test_what_backward_needs_is_saved_only_for_a_gradient(self) -> None:
        arguments = self.cell.inputs([4, 4], 6, 10)
        assert self.raw(arguments, False)[3].numel() == 0
        leaf = arguments[0].clone().requires_grad_()
        output = self.raw([leaf, *arguments[1:]], False)[0]
        with pytest.raises(RuntimeError, match="save=True"):
            output.sum().backward()
        assert self.raw(arguments, True)[3].shape[:2] == (8, 1)

    def test_one_output_alone_has_gradients(self) -> None:
        arguments = self.cell.inputs([4, 0, 9], 6, 10)
        for i in range(len(self.cell.outputs)):
            pair = []
            for function in (self.cell.run, self.cell.specify):
                leaf = arguments[0].clone().requires_grad_()
                function(leaf, *arguments[1:])[i].square().sum().backward()
                pair.append(leaf.grad)
            torch.testing.assert_close(*pair)

    def test_gradcheck_of_the_reference(self) -> None:
        arguments = self.cell.inputs([3, 0, 2], 3, 2, torch.float64)
        masks = self.cell.masks([3, 0, 2], 2, torch.float64)
        offsets = arguments.pop(1)
        leaves = [a.requires_grad_() for a in arguments]
        assert torch.autograd.gradcheck(
            lambda values, *rest: tuple(self.cell.specify(values, offsets, *rest, reverse=True, **masks)),
            leaves,
        )

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_opcheck(self, dtype: torch.dtype) -> None:
        arguments = self.cell.inputs([3, 0, 5], 6, 10, dtype)
        masks = self.cell.masks([3, 0, 5], 10, dtype)
        ops = torch.ops.chronorec
        cell = None if len(arguments) == 7 else arguments[7]
        packed = getattr(ops, f"{self.cell.raw}_pack")(*arguments[2:6], "float32")
        torch.library.opcheck(getattr(ops, f"{self.cell.raw}_pack"), (*arguments[2:6], "int8"))
        torch.library.opcheck(
            getattr(ops, f"{self.cell.raw}_step"), (arguments[0][:3], arguments[6], cell, *packed)
        )
        op = getattr(ops, self.cell.raw)
        leaves = [a.requires_grad_() if a.is_floating_point() else a for a in arguments[:7]]
        torch.library.opcheck(op, (*leaves, cell, *masks.values(), True, True))
        torch.library.opcheck(op, (*leaves[:4], *[None] * 6, False, True))

    def test_compiles_as_one_graph(self) -> None:
        arguments = self.cell.inputs([3, 0, 5], 6, 10)

        def function(*args: Tensor) -> tuple[Tensor, ...]:
            output, *final = self.cell.run(*args)
            return output * 2, *final

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_same(
            self.cell.results(compiled, arguments, torch.float32),
            self.cell.results(function, arguments, torch.float32),
        )

        def step(values: Tensor, states: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, ...]:
            return self.cell.step(values, states, self.cell.pack(*weights))

        inputs = (arguments[0][:3], arguments[6:], arguments[2:6])
        compiled_step = torch.compile(step, fullgraph=True, backend="aot_eager")
        for left, right in zip(compiled_step(*inputs), step(*inputs), strict=True):
            assert torch.equal(left, right)

    # --- errors ------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("position", "change", "error", "text"),
        [
            (0, lambda x: x.double(), TypeError, "values: float64 has no kernel"),
            (0, lambda x: x.half(), TypeError, "values: wanted torch.float32 or torch.bfloat16"),
            (0, lambda x: x[:, :4], ValueError, "weight_ih: wanted shape"),
            (0, lambda x: x[:-1], ValueError, "offsets: must end at 7"),
            (0, lambda x: x[0], ValueError, "values: wanted shape"),
            (1, lambda x: x.int(), TypeError, "offsets: wanted torch.int64"),
            (1, lambda x: x + 1, ValueError, "offsets: must start at 0"),
            (1, lambda x: torch.tensor([0, 5, 3, 8]), ValueError, "offsets: must never fall"),
            (1, lambda x: x[:0], ValueError, "offsets: wanted at least one offset, got none"),
            (2, lambda x: x[:-1], ValueError, "weight_ih: wanted shape"),
            (2, lambda x: x.bfloat16(), TypeError, "weight_ih: wanted torch.float32"),
            (3, lambda x: x[:-3], ValueError, "weight_hh: wanted shape"),
            (3, lambda x: x[:0, :0], ValueError, "weight_hh: wanted a hidden size of at least 1"),
            (4, lambda x: x[:-1], ValueError, "bias_ih: wanted shape"),
            (5, lambda x: x.bfloat16(), TypeError, "bias_hh: wanted torch.float32"),
            (6, lambda x: x[:-1], ValueError, "initial_state: wanted shape"),
            (6, lambda x: x.to("meta"), ValueError, "initial_state: wanted device"),
        ],
    )
    def test_errors_name_the_argument(
        self, position: int, change: Callable[[Tensor], Tensor], error: type[Exception], text: str
    ) -> None:
        arguments = self.cell.inputs([3, 0, 5], 6, 10)
        arguments[position] = change(arguments[position])
        with pytest.raises(error, match=text):
            self.cell.run(*arguments)

    def test_errors_of_masks_name_the_argument(self) -> None:
        arguments, masks = self.cell.inputs([3, 0, 5], 6, 10), self.cell.masks([3, 0, 5], 10)
        for name, mask in masks.items():
            with pytest.raises(ValueError, match=f"{name}: wanted shape"):
                self.cell.run(*arguments, **{name: mask[1:]})
            with pytest.raises(TypeError, match=rf"{name}: wanted torch\.float32"):
                self.cell.run(*arguments, **{name: mask.bfloat16()})
            with pytest.raises(ValueError, match=f"{name}: has no gradient"):
                self.cell.run(*arguments, **{name: mask.requires_grad_()})

    def test_errors_of_a_step_name_the_argument(self) -> None:
        values, _, *weights = self.cell.inputs([1] * 3, 6, 10)
        packed, state, rest = self.cell.pack(*weights[:4]), weights[4], weights[5:]
        with pytest.raises(ValueError, match="state: wanted shape"):
            self.cell.step(values, (state[:2], *rest), packed)
        with pytest.raises(TypeError, match=r"state: wanted torch\.float32"):
            self.cell.step(values, (state.bfloat16(), *rest), packed)
        with pytest.raises(TypeError, match="values: float64 has no kernel"):
            self.cell.step(values.double(), (state, *rest), packed)
        with pytest.raises(ValueError, match="values: wanted shape"):
            self.cell.step(values[:, 1:], (state, *rest), packed)
        with pytest.raises(TypeError, match="weights: wanted a Packed"):
            self.cell.step(values, (state, *rest), weights[:4])

    def test_errors_of_packing_name_the_argument(self) -> None:
        _, _, *weights = self.cell.inputs([1] * 3, 6, 10)
        with pytest.raises(TypeError, match=r"weight_ih: (wanted torch\.float32 or|float64)"):
            self.cell.pack(weights[0].double(), *weights[1:4])
        with pytest.raises(TypeError, match=r"weight_hh: wanted torch\.float32"):
            self.cell.pack(weights[0], weights[1].bfloat16())
        with pytest.raises(ValueError, match="weight_ih: wanted shape"):
            self.cell.pack(weights[0][1:], *weights[1:4])
        with pytest.raises(ValueError, match="bias_hh: wanted shape"):
            self.cell.pack(*weights[:3], weights[3][1:])
