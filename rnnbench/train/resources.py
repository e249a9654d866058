"""How many trials train together: what fits into memory, and what keeps the cores busy."""

import psutil
import torch

from rnnbench.config import Config, Kernel
from rnnbench.kernels import choose, cores_used
from rnnbench.kernels.compiled import cores
from rnnbench.kernels.gpu import cards
from rnnbench.kernels.torch_path import evaluation_batch
from rnnbench.nn.network import Network
from rnnbench.system import limits
from rnnbench.tasks import Shape

ENOUGH = 16  # trials that batched products gain from; more only take memory


def available(device: str) -> int:
    """Return the free bytes of the GPU, or of this machine within the limits of its control groups."""
    if device != "cpu":
        return cards.free(device)
    free: int = psutil.virtual_memory().available
    return min([free, *limits.memory()])


def row_bytes(config: Config, shape: Shape) -> int:
    """Count the bytes of a trial's parameters, its best ones and the optimiser's memory: its least."""
    network = Network(config.model, shape.input_size, shape.outputs)
    return 4 * network.count() * (2 + len(config.optim.memory))


def trial_bytes(config: Config, shape: Shape) -> int:
    """Estimate the bytes that a trial adds to its stack, from shapes, rather too many than too few."""
    network, rows = Network(config.model, shape.input_size, shape.outputs), row_bytes(config, shape)
    order = 8 * (shape.train + max(shape.val, shape.test))
    B, T = config.fit.batch_size, shape.steps
    if choose(config) is Kernel.compiled:  # its activations belong to the threads
        activations = 12 * drawn(config, network, T)  # while they are drawn, and as the kernels read them
    else:
        # What each layer keeps for its backward pass, about twice its pre-activations, and its inputs.
        kept = sum(sizes[0] for name, sizes in network.shapes.items() if ".weight_ih" in name)
        longest = shape.test_steps or T
        steps = max(B * T, evaluation_batch(longest) * longest)
        activations = 4 * steps * (shape.input_size + 2 * kept)
    return 2 * rows + order + activations  # rows are copied when trials come and go, and before each epoch


def data_bytes(shape: Shape) -> int:
    """Estimate the bytes of a task's examples, from shapes: a byte a feature."""
    examples = shape.train + shape.val + shape.test
    return examples * (shape.test_steps or shape.steps) * shape.input_size


def drawn(config: Config, network: Network, T: int) -> int:
    """Count the random numbers that a trial needs for a minibatch of T steps."""
    model = config.model
    units, levels = config.fit.batch_size * model.hidden_size, model.num_layers * network.directions
    states = network.layers[0][0][1].states
    count = network.count() if model.weight_noise else 0
    count += T * units * (model.num_layers - 1) * network.directions if model.dropout else 0
    count += units * levels if model.recurrent_dropout else 0
    return count + (T * units * levels * states if model.zoneout else 0)


def places(config: Config, shape: Shape, most: int | None) -> int:
    """Return how many trials of this shape train together: `most`, or as many as gain from it, and that fit.

    Half of the free memory may be filled, by all stacks that may train side by side. cuDNN
    does not support stacks, so it trains one trial at a time.
    """
    if choose(config) is Kernel.cudnn:
        return 1
    wanted = most or max(ENOUGH, 2 * cores())
    beside = max(1, cores() // cores_used(config, wanted))
    return max(1, min(wanted, available(config.fit.device) // 2 // beside // trial_bytes(config, shape)))


def ran_out(error: Exception) -> bool:
    """Return whether an error says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
