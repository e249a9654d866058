"""Laws of the products over all steps on a GPU, in Triton's interpreter."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rnnbench.kernels.gpu.layer import BYTES, FLOATS, HIDDEN, SYMBOLS, Inputs
from rnnbench.kernels.gpu.products import COLUMNS, Moved, down, of_inputs, outer, total

K, T, B, ROWS, N = 2, 3, COLUMNS + 2, 35, 6  # two tiles of rows and of examples


@dataclass
class Given:
    """Numbers that products are tested with."""

    lengths: Tensor
    steps: Tensor  # (K, T, 1, B): whether an example has the step
    inputs: Inputs
    x: Tensor  # (K, T, input, B), 0 beyond the lengths
    left: Tensor  # (K, T, ROWS + 2, B), nan beyond the lengths
    parameters: Tensor  # W (ROWS, input) begins at 5

    @property
    def weight(self) -> Tensor:
        size = self.inputs.size
        return self.parameters[:, 5 : 5 + ROWS * size].view(-1, ROWS, size)

    @property
    def rows(self) -> Tensor:
        """Return the rows of left that count, 0 beyond the lengths."""
        return self.left[:, :, 1 : ROWS + 1].nan_to_num()

    def of_trial(self, k: int) -> "Given":
        """Return the numbers of one trial."""
        part = slice(k, k + 1)
        inputs = Inputs(**vars(self.inputs) | {"index": self.inputs.index[part]})
        if inputs.kind == HIDDEN:
            inputs.data = inputs.data[part]
        if inputs.dropout is not None:
            inputs.dropout = inputs.dropout[part]
        return Given(self.lengths[part], self.steps[part], inputs, self.x[part], self.left[part].clone(),
                     self.parameters[part].clone())  # fmt: skip


def given(kind: int, size: int, dropped: bool = False) -> Given:
    """Draw the numbers."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    lengths = torch.randint(0, T + 1, (K, B), generator=generator)
    lengths[:, 0], lengths[:, -1] = T, 0
    index = torch.randint(N, (K, B), generator=generator)
    index[:, -1] = -1
    steps = (torch.arange(T)[None, :, None] < lengths[:, None])[:, :, None]
    dropout = drawn(K, T, size, B) if dropped else None
    data = drawn(K, T, size, B) if kind == HIDDEN else drawn(N, T, size)
    if kind == BYTES:
        data = torch.randint(256, (N, T, size), generator=generator).to(torch.uint8)
    if kind == SYMBOLS:
        data = torch.randint(size, (N, T), generator=generator).to(torch.int32)
    examples = torch.nn.functional.one_hot(data.long(), size) if kind == SYMBOLS else data
    x = data if kind == HIDDEN else examples[index].permute(0, 2, 3, 1).float()
    x = x / 100 - 0.5 if kind == BYTES else x
    x = x if dropout is None else x * dropout
    left = drawn(K, T, ROWS + 2, B).where(steps, torch.tensor(torch.nan))
    return Given(lengths, steps, Inputs(kind, data, size, index, 1 / 100, -0.5, dropout),
                 x.where(steps, torch.tensor(0.0)), left, drawn(K, 9 + ROWS * size + ROWS))  # fmt: skip


def products(of: Given, precision: str = "ieee") -> list[Tensor]:
    """Return W x, W' left added to ones, and the gradient in parts, as the kernels compute them."""
    inputs, lengths, size = of.inputs, of.lengths, of.inputs.size
    trials = len(lengths)
    out = torch.full((trials, T, ROWS + 1, B), torch.nan)
    of_inputs(inputs, lengths, of.parameters, 5, out, rows=ROWS, row=1, precision=precision)
    d_x = torch.ones(trials, T, size, B)
    down(of.left, lengths, of.parameters, 5, d_x, rows=ROWS, row=1, add=True, dropout=inputs.dropout)
    parts = torch.zeros(trials, 2, of.parameters.shape[1])
    outer(of.left, inputs, lengths, parts, 5, rows=ROWS, row=1, columns=size, stride=size)
    total(of.left, lengths, parts, 5 + ROWS * size, rows=ROWS, row=1)
    total(of.left, lengths, parts, 0, rows=ROWS, row=1, whole=True)
    total(of.left, lengths, parts, 0, rows=ROWS, row=1, whole=True, add=True)
    return [out, d_x, parts]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("kind", "size", "dropped"),
    [(HIDDEN, 34, True), (BYTES, 5, False), (FLOATS, 3, False), (SYMBOLS, 7, False), (SYMBOLS, 7, True)],
)
def test_products_over_all_steps_are_those_of_torch(kind: int, size: int, dropped: bool) -> None:
    of = given(kind, size, dropped)
    out, d_x, parts = products(of)
    assert out[:, :, 0].isnan().all() and torch.equal(
        out[:, :, 1:].isnan(), ~of.steps.expand(-1, -1, ROWS, -1)
    )
    assert close(out[:, :, 1:].nan_to_num(), torch.einsum("kri,ktib->ktrb", of.weight, of.x))
    gradient = torch.einsum("kri,ktrb->ktib", of.weight, of.rows)
    if of.inputs.dropout is not None:
        gradient = gradient * of.inputs.dropout
    assert close(d_x, gradient + 1)
    for part, columns in enumerate((slice(0, COLUMNS), slice(COLUMNS, B))):
        left, x = of.rows[..., columns], of.x[..., columns]
        found = parts[:, part]
        assert close(found[:, 5 : 5 + ROWS * size], torch.einsum("ktrb,ktib->kri", left, x).flatten(1))
        assert close(found[:, 5 + ROWS * size : -4], left.sum((1, 3)))
        assert close(found[:, 0], 2 * left.sum((1, 2, 3)))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_an_outer_product_reads_the_state_before_each_step(reverse: bool, started: bool) -> None:
    of, size, first = given(HIDDEN, 24), 20, 3
    initial = torch.randn(K, 2, size, B)[:, 1] if started else None
    before = torch.zeros(K, T, size, B)
    for k, b in ((k, b) for k in range(K) for b in range(B)):
        length = int(of.lengths[k, b])
        for step in range(length):
            place, last = (length - 1 - step, length - step) if reverse else (step, step - 1)
            if step > 0:
                before[k, place, :, b] = of.inputs.data[k, last, first : first + size, b]
            elif initial is not None:
                before[k, place, :, b] = initial[k, :, b]
    parts = torch.zeros(K, 2, 7 + ROWS * (size + 4))
    outer(of.left, Moved(of.inputs.data, reverse, initial), of.lengths, parts, 9, rows=ROWS, row=1,
          columns=size, column=first, stride=size + 4)  # fmt: skip
    expected = torch.zeros(K, ROWS, size + 4)
    expected[:, :, 2 : size + 2] = torch.einsum("ktrb,ktib->kri", of.rows, before)
    assert close(parts.sum(1)[:, 7:].view(K, ROWS, size + 4), expected)


def test_a_trial_has_the_same_bits_alone() -> None:
    of = given(HIDDEN, 34, dropped=True)
    for ours, alone in zip(products(of), products(of.of_trial(1)), strict=True):
        assert torch.equal(ours[1].nan_to_num(), alone[0].nan_to_num())
