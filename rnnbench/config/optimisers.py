"""Defines the optimisers: one class each, with its settings, their checks, its memory and its update.

A class here is an option of `optim=` by the name in its field `name`; conf/optim/NAME.yaml selects it. An
optimiser that is not part of this package registers itself (`rnnbench.register_optimiser`).

An update is made for a whole stack: each trial has a row of parameters (P,), and hyperparameters of its own.
Nothing mixes rows, so a trial that diverges stays alone. The classes call methods of tensors only, so that a
command line is refused without importing torch.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from rnnbench.config.refusals import not_negative, positive, refuse, share

if TYPE_CHECKING:
    from torch import Tensor

    # Columns of a stack's state by name, one row a trial. `lr`, the hyperparameters and `step` (updates made,
    # counted by the optimisers that need it) are (K, 1) in float64, since 1 - 0.999 is wrong by 5e-5 in
    # float32. The rest is float32 and as wide as the parameters, (K, P).
    State = dict[str, Tensor]


@dataclass
class Optim:
    """What every optimiser has; one of your own derives from this and adds settings, `memory` and `update`.

    A setting of type float may differ between the trials of a stack: `update` finds it in the state, (K, 1).
    Any other setting is the same for all trials of a stack: `update` finds it in `self`.
    """

    memory: ClassVar[tuple[str, ...]] = ()  # names of the (K, P) tensors that are kept from update to update

    name: str = MISSING
    lr: float = MISSING
    weight_decay: float = 0.0

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Return what may differ between trials of a stack, but the learning rate: the schedule sets it."""
        names = [field.name for field in fields(self) if field.type in (float, "float")]
        return {name: getattr(self, name) for name in names if name != "lr"}

    def check(self) -> None:
        """Refuse settings that cannot be trained with.

        Raises:
            ConfigError: names the key, the value and what would be accepted.
        """
        positive(("optim.lr", self.lr))
        not_negative(("optim.weight_decay", self.weight_decay))

    def update(self, state: "State", parameters: "Tensor", gradient: "Tensor") -> None:
        """Make one update of every trial, in place.

        Args:
            state: by name, (K, 1) float64 for `lr`, `step` and each hyperparameter, (K, P) for each name in
                `memory`, 0 before the first update.
            parameters: (K, P).
            gradient: (K, P), of the loss, already clipped; it may be overwritten.
        """
        raise NotImplementedError


@dataclass
class Sgd(Optim):
    """Stochastic gradient descent with momentum, as torch.optim.SGD.

    v = momentum v + d, p = p - lr v (Nesterov: p - lr (d + momentum v)), d the gradient with weight decay.
    """

    memory = ("velocity",)

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False

    def check(self) -> None:
        super().check()
        share(("optim.momentum", self.momentum))
        if self.nesterov and self.momentum == 0:
            refuse("optim.nesterov", "true", "needs optim.momentum above 0")

    def update(self, state: "State", parameters: "Tensor", gradient: "Tensor") -> None:
        momentum = state["momentum"].float()
        gradient = gradient.addcmul(state["weight_decay"].float(), parameters)
        velocity = state["velocity"].mul_(momentum).add_(gradient)
        if self.nesterov:
            velocity = gradient.addcmul_(momentum, velocity)
        parameters.addcmul_(state["lr"].float(), velocity, value=-1)


@dataclass
class Adam(Optim):
    """Adam (Kingma and Ba 2015) with the weight decay added to the gradient, as torch.optim.Adam."""

    memory = ("mean", "square")

    name: str = "adam"
    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def check(self) -> None:
        super().check()
        share(("optim.beta1", self.beta1), ("optim.beta2", self.beta2))
        positive(("optim.eps", self.eps))

    def update(self, state: "State", parameters: "Tensor", gradient: "Tensor") -> None:
        self.step(state, parameters, gradient.addcmul(state["weight_decay"].float(), parameters))

    def step(self, state: "State", parameters: "Tensor", gradient: "Tensor") -> None:
        """Make the update without weight decay."""
        step, beta1, beta2 = state["step"].add_(1), state["beta1"], state["beta2"]
        mean = state["mean"].lerp_(gradient, (1 - beta1).float())
        square = state["square"].mul_(beta2.float()).addcmul_((1 - beta2).float(), gradient * gradient)
        denominator = square.sqrt().div_((1 - beta2**step).sqrt().float()).add_(state["eps"].float())
        parameters.addcdiv_(mean * (-state["lr"] / (1 - beta1**step)).float(), denominator)


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW."""

    name: str = "adamw"
    weight_decay: float = 0.01

    def update(self, state: "State", parameters: "Tensor", gradient: "Tensor") -> None:
        parameters.mul_((1 - state["lr"] * state["weight_decay"]).float())
        self.step(state, parameters, gradient)


@dataclass
class RMSprop(Optim):
    """RMSprop (Hinton 2012) with momentum on the scaled gradient, as torch.optim.RMSprop."""

    memory = ("square", "velocity")

    name: str = "rmsprop"
    lr: float = 0.001
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0

    def check(self) -> None:
        super().check()
        share(("optim.momentum", self.momentum), ("optim.alpha", self.alpha))
        positive(("optim.eps", self.eps))

    def update(self, state: "State", parameters: "Tensor", gradient: "Tensor") -> None:
        alpha = state["alpha"]
        gradient = gradient.addcmul(state["weight_decay"].float(), parameters)
        square = state["square"].mul_(alpha.float()).addcmul_((1 - alpha).float(), gradient * gradient)
        scaled = gradient.div_(square.sqrt().add_(state["eps"].float()))
        velocity = state["velocity"].mul_(state["momentum"].float()).add_(scaled)
        parameters.addcmul_(state["lr"].float(), velocity, value=-1)


def _derived(kind: type[Optim]) -> list[type[Optim]]:
    """Return the classes that derive from `kind`, each followed by those that derive from it."""
    return [part for child in kind.__subclasses__() for part in (child, *_derived(child))]


OPTIMISERS: dict[str, type[Optim]] = {kind.name: kind for kind in _derived(Optim)}
OWN: dict[str, type[Optim]] = {}  # those of one's own that may be chosen now, by `sweep.own_options`
