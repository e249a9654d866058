"""How many trials train together, and where: what fits into memory, and what keeps cores and cards busy."""

import gc
import math
import operator
import traceback
from bisect import bisect_right
from collections.abc import Callable
from functools import partial

import psutil
import torch

from rnnbench.config import Config, Kernel
from rnnbench.kernels import choose, cores_used, drawing
from rnnbench.kernels.compiled import cores
from rnnbench.kernels.gpu import cards
from rnnbench.kernels.gpu.launches import CAPTURING
from rnnbench.kernels.torch_path import evaluation_batch
from rnnbench.nn.network import Network
from rnnbench.system import limits
from rnnbench.tasks import Shape

ENOUGH = 16  # trials that batched products gain from; more only take memory
# Of a card, reckoned and not measured: a multiprocessor computes two programs of 16 examples at a time, where
# each thread takes all the registers that it may have. A stack that fills the card WAVES times leaves at most
# 1 / WAVES of it idle in the last wave; more trials only take memory.
EXAMPLES = 32
WAVES = 32
ELSEWHERE = 2 * 128 * EXAMPLES  # examples that fill a card of 128 multiprocessors twice, when it is not here
SHARE = 0.75  # of a card's free memory that the trials of a stack may fill


def devices(device: str) -> list[str]:
    """List the devices that fit.device names: for `cuda` all cards that this process sees, else the one."""
    if device != "cuda":
        return [device]
    return [f"cuda:{number}" for number in range(cards.count())] or [device]


def parts(cards: int, kinds: int) -> int:
    """Return how many stacks the trials of each of these kinds are divided into on so many cards.

    They are as few as give each card equally many stacks.
    """
    return cards // math.gcd(cards, kinds)


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
    """Estimate the bytes of a stack of one trial, from shapes, rather too many than too few."""
    return stack_bytes(config, shape)(1)


def stack_bytes(config: Config, shape: Shape) -> Callable[[int], int]:
    """Return what estimates the bytes of a stack of so many trials, from shapes."""
    if config.fit.device != "cpu" and choose(config) is Kernel.compiled:
        from rnnbench.kernels.gpu import memory  # late: it needs Triton

        return memory.count(config, shape).stack
    network, rows = Network(config.model, shape.input_size, shape.outputs), row_bytes(config, shape)
    order = 8 * (shape.train + max(shape.val, shape.test))
    B, T = config.fit.batch_size, shape.steps
    if choose(config) is Kernel.compiled:  # its activations belong to the threads
        activations = 12 * drawn(config, network, T)  # while they are drawn, and as the kernels read them
    else:
        # What each layer keeps for its backward pass: about twice its pre-activations and states, and inputs.
        kept = sum(
            sizes[0] + config.model.hidden_size
            for name, sizes in network.shapes.items()
            if ".weight_ih" in name
        )
        longest = shape.test_steps or T
        steps = max(B * T, evaluation_batch(longest) * longest)
        activations = 4 * steps * (shape.input_size + 2 * kept)
    # Rows are copied when trials come and go, and before each epoch.
    return partial(operator.mul, 2 * rows + order + activations)


def data_bytes(shape: Shape) -> int:
    """Estimate the bytes of a task's examples, from shapes: a byte a feature."""
    examples = shape.train + shape.val + shape.test
    return examples * (shape.test_steps or shape.steps) * shape.input_size


def drawn(config: Config, network: Network, T: int) -> int:
    """Count the random numbers that a trial needs for a minibatch of T steps."""
    model = config.model
    rates = model.dropout, model.recurrent_dropout, model.zoneout, model.weight_noise
    names = [name for name, rate in zip(drawing.NAMES, rates, strict=True) if rate]
    return sum(map(math.prod, drawing.shapes(names, network, T, config.fit.batch_size).values()))


def gaining(config: Config) -> int:
    """Return how many trials gain from training together; more only take memory."""
    if config.fit.device == "cpu":
        return max(ENOUGH, 2 * cores())
    examples = WAVES * EXAMPLES * cards.card(config.fit.device).multiprocessors
    return max(ENOUGH, examples // max(16, config.fit.batch_size))


def gaining_elsewhere(config: Config) -> int:
    """Return how many trials are sent to a cluster as one stack; fewer make use of more nodes."""
    if config.fit.device == "cpu":
        return ENOUGH
    return max(ENOUGH, ELSEWHERE // max(16, config.fit.batch_size))


def places(config: Config, shape: Shape, most: int | None) -> int:
    """Return how many trials of this shape train together: `most`, or as many as gain from it, and that fit.

    On the CPU half of the free memory may be filled, by all stacks that may train side by side. A card trains
    one stack at a time. cuDNN does not support stacks, so it trains one trial at a time.
    """
    if choose(config) is Kernel.cudnn:
        return 1
    wanted, free = most or gaining(config), available(config.fit.device)
    if config.fit.device == "cpu":
        room = free // 2 // max(1, cores() // cores_used(config, wanted))
    else:
        room = int(SHARE * free) - data_bytes(shape)
    return max(1, bisect_right(range(1, wanted + 1), room, key=stack_bytes(config, shape)))


def ran_out(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came of, says that memory ran out."""
    if error is None:
        return False
    said = any(text in str(error) for text in ("allocate memory", "out of memory"))
    if said or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return ran_out(error.__cause__ or error.__context__)


def give_back(error: BaseException, device: str) -> None:
    """Free the memory of an epoch that an error has ended, which the frames of its functions hold."""
    origin: BaseException | None = error
    while origin is not None:
        traceback.clear_frames(origin.__traceback__)
        origin = origin.__cause__ or origin.__context__
    gc.collect()  # a stack whose parts name each other
    if device.startswith("cuda"):
        with CAPTURING, torch.cuda.device(device):
            torch.cuda.empty_cache()
