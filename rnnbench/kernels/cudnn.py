"""Runs the layers of torch.nn, and so cuDNN on a GPU, for a stack of one trial.

It is used only where fit.kernel=cudnn asks for it: cuDNN cannot train several trials together, and its
numbers are not those of the torch path.
"""

import torch
from torch import Tensor

from rnnbench.config import Config, Precision, Readout
from rnnbench.nn.cells import Noise, Weights
from rnnbench.nn.cells.cell import NONE
from rnnbench.nn.network import Network
from rnnbench.tasks.sequences import Images

CELLS = ("lstm", "gru", "rnn")  # those of torch.nn


def supports(config: Config) -> bool:
    """True if torch.nn has the cell, without options of its own, for sequences of equal length: images.

    It does not have the precision tf32x3.
    """
    options = ("layer_norm", "recurrent_dropout", "zoneout", "learned_state", "weight_noise")
    plain = not any(getattr(config.model, option) for option in options)
    plain = plain and config.fit.precision is not Precision.tf32x3
    return config.model.name in CELLS and plain and isinstance(config.data, Images)


class CudnnNetwork(Network):
    """A network whose recurrent layers are one call of torch's own LSTM, GRU or RNN each."""

    def __call__(
        self, weights: Weights, x: Tensor, noise: Noise = NONE, lengths: Tensor | None = None
    ) -> Tensor:
        """Compute logits (1, outputs, B) for x (1, T, input, B), whose T steps all count."""
        model = self.model
        run = getattr(torch, f"rnn_{model.nonlinearity.value}" if model.name == "rnn" else model.name)
        h = x[0].permute(0, 2, 1)  # (T, B, input)
        start = x.new_zeros(self.directions, x.shape[-1], model.hidden_size)
        for number, layer in enumerate(self.layers):
            if number and noise.dropout:
                h = h * noise.dropout(h.permute(0, 2, 1).shape)[0].permute(0, 2, 1)
            own = [weight[0] for suffix, _ in layer for weight in self._of_layer(weights, suffix).values()]
            state = (start, start) if model.name == "lstm" else start
            # has_biases, one layer, no dropout of its own, whether it trains, directions, time first
            h, last, *_ = run(
                h, state, own, True, 1, 0.0, torch.is_grad_enabled(), model.bidirectional, False
            )
        # last (directions, B, hidden): each direction after its own last step
        summary = h.mean(0) if model.readout is Readout.mean else torch.cat(list(last), 1)
        return torch.nn.functional.linear(summary, weights["head.weight"][0], weights["head.bias"][0]).T[None]
