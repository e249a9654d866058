"""Computes a stack of networks: recurrent layers, a readout over time, a linear head.

All parameters of a trial lie in one row of a (K, P) tensor, in the order and under the names of
torch.nn; the weights are views into it. So an optimiser, a norm or a snapshot is one operation on
rows, and `Network.start` draws the very numbers that torch.nn would draw under the same seed.
"""

import math

import torch
from torch import Tensor, nn

from rnnbench.config import ConfigError, Model, Readout
from rnnbench.config.user_code import asked
from rnnbench.nn.cells import Cell, Noise, State, Weights, make_cell
from rnnbench.nn.cells.cell import NONE

# What a minibatch of a text hands to the next one: the state of each layer, (K, hidden, B) tensors.
Carried = list[State] | None


class Network:
    """Shapes and equations of the networks of one stack; the numbers are passed in.

    Args:
        model: the configuration, equal in everything that fixes a shape for all K trials.
        input_size: features a step.
        outputs: width of the head: classes, numbers or keys.
        every_step: whether the head answers at every step.
    """

    def __init__(self, model: Model, input_size: int, outputs: int, every_step: bool = False) -> None:
        self.model = model
        self.every_step = every_step
        self.input_size = input_size
        self.outputs = outputs
        self.directions = 2 if model.bidirectional else 1
        width = model.hidden_size * self.directions  # of a layer's output
        # One cell a layer and direction, named as torch.nn names its weights: _l0, _l0_reverse, ...
        self.layers = [
            [(f"_l{layer}" + "_reverse" * reverse, make_cell(model)) for reverse in range(self.directions)]
            for layer in range(model.num_layers)
        ]
        self.shapes: dict[str, tuple[int, ...]] = {}
        for number, layer in enumerate(self.layers):
            for suffix, cell in layer:
                with asked("model.name", model.name):
                    shapes = cell.all_shapes(width if number else input_size)
                    self.shapes |= {f"rnn.{name}{suffix}": shape for name, shape in shapes.items()}
        self.shapes |= {"head.weight": (outputs, width), "head.bias": (outputs,)}

    def count(self, part: str = "") -> int:
        """Count the parameters of one trial: all, or those of `rnn` or `head`."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if name.startswith(part))

    def views(self, flat: Tensor) -> Weights:
        """Return each weight by its name, (K, *shape), as views of flat (K, P)."""
        rows = flat.split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {name: row.view(-1, *self.shapes[name]) for name, row in zip(self.shapes, rows, strict=True)}

    def start(self, seed: int) -> Tensor:
        """Draw the parameters (1, P) of a trial before training.

        The same numbers as `torch.manual_seed(seed); nn.LSTM(...); nn.Linear(...)`: uniform in
        +-1/sqrt(hidden size), in the head in +-1/sqrt(its inputs).
        """
        generator = torch.Generator().manual_seed(seed)
        flat = torch.empty(1, self.count())
        weights = self.views(flat)
        for name, weight in weights.items():
            inputs = self.model.hidden_size * (self.directions if name.startswith("head") else 1)
            weight.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
        for layer in self.layers:
            for suffix, cell in layer:
                cell.start(self._of_layer(weights, suffix), generator)
        return flat

    def _of_layer(self, weights: Weights, suffix: str) -> Weights:
        prefix = "rnn."
        return {
            name[len(prefix) : -len(suffix)]: weight
            for name, weight in weights.items()
            if name.startswith(prefix) and name.endswith(suffix)
        }

    def __call__(
        self, weights: Weights, x: Tensor, noise: Noise = NONE, lengths: Tensor | None = None
    ) -> Tensor:
        """Return logits (K, outputs, B), at every step (K, outputs, T, B), for x (K, T, input, B).

        Args:
            lengths: (K, B) steps of each example that count; None: all T do.
        """
        noise = noise.within(lengths)
        for number, layer in enumerate(self.layers):
            if number and noise.dropout:
                x = x * noise.dropout(x.shape[1:])
            outputs = [
                self._run(cell, x, self._of_layer(weights, suffix), noise, reverse=reverse, lengths=lengths)
                for reverse, (suffix, cell) in zip((False, True), layer, strict=False)
            ]
            x = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]  # (K, T, width, B)
        if self.every_step:
            return self._head(weights, x)
        if self.model.readout is Readout.mean:
            return self._head(weights, mean_over(x, lengths))
        last = last_of(outputs[0], lengths)
        if self.model.bidirectional:  # each direction after its own last step
            last = torch.cat([last, outputs[1][:, 0]], 1)
        return self._head(weights, last)

    def carry(
        self, weights: Weights, x: Tensor, carried: Carried, noise: Noise = NONE
    ) -> tuple[Tensor, Carried]:
        """Return logits at every step (K, outputs, T, B), and the state after the last one, without gradient.

        Args:
            carried: what the minibatch before has left; None at the start.
        """
        after = []
        for number, ((suffix, cell),) in enumerate(self.layers):
            if number and noise.dropout:
                x = x * noise.dropout(x.shape[1:])
            state = carried[number] if carried else None
            x, state = cell.carry(x, self._of_layer(weights, suffix), state, noise)
            after.append(tuple(part.detach() for part in state))
        return self._head(weights, x), after

    def _run(
        self, cell: Cell, x: Tensor, weights: Weights, noise: Noise, *, reverse: bool, lengths: Tensor | None
    ) -> Tensor:
        """Run one direction of a layer; the reverse one begins at the last step of each example."""
        if lengths is None or not reverse:
            return cell(x, weights, reverse, noise)
        return flipped(cell(flipped(x, lengths), weights, False, noise), lengths)

    def _head(self, weights: Weights, x: Tensor) -> Tensor:
        """Apply the linear head to x (K, width, B), or (K, T, width, B) at every step."""
        bias, weight = weights["head.bias"].unsqueeze(-1), weights["head.weight"]
        if x.dim() == 3:
            return torch.baddbmm(bias, weight, x)
        K, T, width, B = x.shape
        rows = x.transpose(1, 2).reshape(K, width, T * B)
        return torch.baddbmm(bias, weight, rows).view(K, -1, T, B)


def flipped(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (K, T, features, B) with the steps of each example in reverse order; lengths (K, B)."""
    t = torch.arange(x.shape[1], device=x.device).view(1, -1, 1)
    mirrored = lengths.unsqueeze(1) - 1 - t  # (K, T, B)
    index = torch.where(mirrored >= 0, mirrored, t)
    return x.gather(1, index.unsqueeze(2).expand_as(x))


def last_of(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the last step of each example of x (K, T, features, B): (K, features, B)."""
    if lengths is None:
        return x[:, -1]
    index = (lengths - 1).view(len(lengths), 1, 1, -1).expand(-1, -1, x.shape[2], -1)
    return x.gather(1, index).squeeze(1)


def mean_over(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the mean of x (K, T, features, B) over the steps of each example: (K, features, B)."""
    if lengths is None:
        return x.mean(1)
    counts = (torch.arange(x.shape[1], device=x.device).view(1, -1, 1) < lengths.unsqueeze(1)).unsqueeze(2)
    return (x * counts).sum(1) / lengths.unsqueeze(1)


class TorchNetwork(nn.Module):
    """One trial as plain torch.nn modules: `rnn`, a readout, `head`; x (B, T, input) to (B, outputs)."""

    def __init__(self, model: Model, input_size: int, outputs: int) -> None:
        super().__init__()
        kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
        options = {"nonlinearity": model.nonlinearity.value} if model.name == "rnn" else {}
        self.mean = model.readout is Readout.mean
        self.rnn = kinds[model.name](
            input_size,
            model.hidden_size,
            model.num_layers,
            batch_first=True,
            dropout=model.dropout,
            bidirectional=model.bidirectional,
            **options,
        )
        self.head = nn.Linear(model.hidden_size * (1 + model.bidirectional), outputs)

    def forward(self, x: Tensor) -> Tensor:
        h, last = self.rnn(x)
        if self.mean:
            summary = h.mean(1)
        else:
            last = last[0] if isinstance(last, tuple) else last  # (layers * directions, B, hidden)
            summary = torch.cat(list(last[-2:] if self.rnn.bidirectional else last[-1:]), 1)
        logits: Tensor = self.head(summary)
        return logits


def to_torch(network: Network, flat: Tensor) -> TorchNetwork:
    """Return the torch.nn equivalent of one trial with parameters flat (P,).

    Raises:
        ConfigError: torch.nn has no such cell, or not with these options.
    """
    model = network.model
    if model.name not in ("lstm", "gru", "rnn") or model.layer_norm or model.learned_state or model.zoneout:
        raise ConfigError(f"model.name={model.name}: torch.nn has no such cell, or not with these options")
    if network.every_step:
        raise ConfigError(
            f"model.name={model.name}: the torch.nn equivalent answers at the end, not at every step"
        )
    module = TorchNetwork(network.model, network.input_size, network.outputs)
    weights = network.views(flat.detach().unsqueeze(0))
    module.load_state_dict({name: weight[0].clone() for name, weight in weights.items()})
    return module
