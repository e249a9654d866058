"""Laws of the head on a GPU: Triton's interpreter runs it, and the torch path says what is right."""

from dataclasses import dataclass, fields, replace

import pytest
import torch
from conftest import sampled
from torch import Tensor

from rnnbench.kernels.gpu.head import Answers, Head
from rnnbench.kernels.gpu.scan import COLUMNS
from rnnbench.kernels.gpu.sums import gradient_of, norms, squares, totals
from rnnbench.kernels.losses import measure
from rnnbench.tasks import Goal

N = 9  # examples of the task


@dataclass(frozen=True)
class Case:
    """A minibatch of a stack."""

    goal: Goal
    outputs: int = 10
    width: int = 7
    K: int = 2
    T: int = 6
    B: int = 18
    scale: float = 1.0  # of h

    @property
    def P(self) -> int:
        return 5 + self.outputs * (self.width + 1)

    def head(self) -> Head:
        return Head(self.goal, self.outputs, self.width, weight=5, bias=5 + self.outputs * self.width)

    def arrays(self) -> Answers:
        """Draw the minibatch; its last example is none, and what no kernel may read is nan."""
        g = torch.Generator().manual_seed(0)
        K, B, every = self.K, self.B, self.goal.every_step
        T = self.T if every else 1
        numbers = self.goal not in (Goal.label, Goal.labels)
        shape = (N, *((self.T + 1,) if every else ()), *((self.outputs,) if numbers else ()))
        targets = torch.randint(2 if numbers else self.outputs, shape, generator=g)
        if self.goal is Goal.keys:
            targets = targets.byte()
        elif numbers:
            targets = torch.randn(shape, generator=g)
        elif every:  # some steps are asked for nothing
            targets[:, 1:][torch.rand(N, self.T, generator=g) < 0.3] = -1
        index = torch.randint(N, (K, B), generator=g)
        lengths = torch.randint(1, self.T + 1, (K, B), generator=g)
        index[:, -1], lengths[:, -1] = -1, 0
        h = torch.randn(K, T, self.width, B, generator=g) * self.scale
        h[~counted(lengths, T).unsqueeze(2).expand_as(h)] = torch.nan
        if not every:
            h = h[:, 0]
        head = self.head()
        return Answers(
            h,
            targets,
            index,
            lengths,
            asked(targets, index, lengths) if self.goal is Goal.labels else lengths,
            torch.randn(K, self.P, generator=g) / 3,
            **head.answers(K, T, B, torch.device("cpu")),
            d_h=torch.full_like(h, torch.nan),
            parts=torch.zeros(K, -(-B // COLUMNS), self.P),
        )


def asked(targets: Tensor, index: Tensor, lengths: Tensor) -> Tensor:
    """Return how many answers each example is asked for, (K, B)."""
    there = (targets[index] >= 0) & (torch.arange(targets.shape[1]) < lengths.unsqueeze(-1))
    return there.sum(-1)


def counted(lengths: Tensor, T: int) -> Tensor:
    """Return which steps count, (K, T, B)."""
    return torch.arange(T).view(1, -1, 1) < lengths.unsqueeze(1)


def expected(case: Case, answers: Answers) -> dict[str, Tensor]:
    """Compute with torch what the kernels write, from the examples that exist."""
    goal, (K, B) = case.goal, answers.index.shape
    parameters = answers.parameters.clone().requires_grad_()
    h = answers.h.nan_to_num().requires_grad_()
    _, weight, bias = parameters.split([5, case.outputs * case.width, case.outputs], 1)
    steps = h if goal.every_step else h.unsqueeze(1)
    logits = weight.view(K, 1, case.outputs, case.width) @ steps + bias.view(K, 1, -1, 1)
    logits = logits.transpose(1, 2)  # (K, outputs, T, B)
    y = answers.targets[answers.index.clamp(min=0)].movedim(1, -1)  # (K, ..., B)
    if goal.every_step:
        y = y[:, : case.T]
        y = y.transpose(1, 2).float() if y.dim() == 4 else y
        loss, hits, counts = measure(goal, logits, y, answers.lengths)
    else:
        there = answers.lengths > 0
        loss, hits, counts = (part * there for part in measure(goal, logits[:, :, 0], y, answers.lengths))
    count = counts.sum(1)
    d_h, gradient = torch.autograd.grad((loss.sum(1) / count).sum(), [h, parameters])
    guess = logits[:, :, 0].argmax(1) if goal is Goal.label else torch.zeros(K, B)
    return {
        "losses": loss.detach(), "hits": hits, "count": count, "d_h": d_h, "gradient": gradient,
        "predictions": (guess * (answers.lengths > 0)).float(),
        "logits": (logits * counted(answers.lengths, logits.shape[2]).unsqueeze(1)).detach(),
    }  # fmt: skip


def run(case: Case, answers: Answers) -> dict[str, Tensor]:
    """Run all kernels; return what they write."""
    head, parts = case.head(), answers.parts
    assert parts is not None and answers.d_h is not None
    head.forward(answers, training=False)
    head.backward(answers)
    gradient = torch.full_like(answers.parameters, torch.nan)
    found, norm = squares(gradient), torch.zeros(len(gradient), 1)
    sums = torch.ones(len(gradient), 4, dtype=torch.float64)
    gradient_of(parts, gradient, found)
    norms(found, norm)
    totals(answers.losses, answers.hits, answers.count, answers.index, sums, norm)
    return {
        "losses": answers.losses, "hits": answers.hits, "count": answers.count, "d_h": answers.d_h,
        "gradient": gradient, "predictions": answers.predictions.float(),
        "logits": answers.logits.transpose(1, 2), "norm": norm, "sums": sums,
    }  # fmt: skip


CASES = [
    *(Case(goal) for goal in Goal),
    Case(Goal.label, outputs=1),
    Case(Goal.label, outputs=300, width=70),
    Case(Goal.labels, outputs=70, width=40),
    Case(Goal.values, outputs=1),
    Case(Goal.keys, outputs=70, scale=10),
    Case(Goal.value, outputs=70),
    Case(Goal.label, scale=100),
]


@pytest.mark.parametrize("case", sampled(CASES, CASES[:6] + CASES[7:10]), ids=str)
def test_the_head_is_that_of_the_torch_path(case: Case) -> None:
    answers = case.arrays()
    found = run(case, answers)
    for name, right in expected(case, answers).items():
        torch.testing.assert_close(
            found[name], right, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    gradient, examples = found["gradient"], case.B - 1
    torch.testing.assert_close(found["norm"], gradient.norm(dim=1, keepdim=True), rtol=1e-5, atol=0)
    sums = [found["losses"].sum(1), found["hits"].sum(1), found["norm"][:, 0] * examples, found["count"]]
    torch.testing.assert_close(found["sums"], 1 + torch.stack(sums, 1).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("goal", [Goal.label, Goal.values])
def test_a_trial_has_the_same_bits_alone(goal: Goal) -> None:
    case = Case(goal, outputs=20, K=3)
    stack = case.arrays()
    stack.h[0] = torch.inf  # a neighbour that diverged
    shared = "targets"
    alone = Answers(
        **{
            each.name: array if each.name == shared else array[1:2].clone()
            for each in fields(Answers)
            if (array := getattr(stack, each.name)) is not None
        }
    )
    found = run(case, stack)
    for name, array in run(replace(case, K=1), alone).items():
        assert torch.equal(array[0].nan_to_num(), found[name][1].nan_to_num()), name


@pytest.mark.parametrize("goal", Goal)
def test_a_trial_that_diverged_has_a_loss_and_a_gradient_of_nan(goal: Goal) -> None:
    case = Case(goal)
    answers = case.arrays()
    answers.h[0, ..., 3, 0] = torch.nan
    found = run(case, answers)
    assert found["losses"][0, 0].isnan() and found["norm"][0].isnan() and found["sums"][0, 0].isnan()
    assert found["losses"][0, 1:].isfinite().all() and found["norm"][1].isfinite()
