"""Classification losses on logits, element by element: value and derivative (paper sections 3.1-3.2, 5.1, appendices).

    x_t = x if y = 1 else -x        p = sigmoid(x), p_t = sigmoid(x_t)        alpha_t = alpha if y = 1 else 1 - alpha

    CrossEntropy    CE   = -log p_t, or -alpha_t log p_t                                        equations 1, 3
    Focal           FL   = -alpha_t (1 - p_t)^gamma log p_t                                     equations 4, 5
    FocalStar       FL*  = -alpha_t log(sigmoid(gamma x_t + beta)) / gamma                      appendix A
    Hinge                = max(0, margin - p_t)                                                 section 5.1
    QualityFocal    QFL  = |q - p|^gamma (-q log p - (1 - q) log(1 - p))                        Li et al. 2020
    Varifocal       VFL  = q (-q log p - (1 - q) log(1 - p)), -alpha p^gamma log(1 - p) at q = 0   Zhang et al. 2021

alpha multiplies positives, so alpha < .5 weights them LESS than background: gamma already silences the background. A
member is called with logits and targets of any shape; it needs no detector. A target is 1 foreground, 0 background, or
between: for the first four it costs its share of either side, for the last two it is the quality that is predicted.

Arithmetic is float32 whatever the dtype of the logits (float64 stays). Values and gradients are finite for |x| <= 1e4
and every gamma in 0 .. 5: 1 - p_t is sigmoid(-x_t), never a difference, and the derivative is written in closed form,
not left to automatic differentiation, which multiplies inf by 0 there for gamma < 1.

Against float64, for targets of 0 and 1: sums are within 1e-6 relative, gradients within 2e-6 relative + 1e-12. Hinge's
values are differences, and within 1e-7 absolute. Under a soft target the two sides of a gradient cancel where the logit
is right, so it is within 1e-6 of the size of both together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, inf, isfinite, ldexp
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from foveal.config import LossConfig
from foveal.errors import UsageError
from foveal.losses.arguments import Weight, check_alpha, checked, refuse_unless


class ClassificationLoss(ABC):
    """A member of the family: callable on logits, with its derivative in closed form."""

    def __call__(
        self, logits: Tensor, targets: Tensor | float, weight: Tensor | float = 1.0, keep: Tensor | None = None
    ) -> Tensor:
        """Element-wise loss >= 0, float32 (float64 for float64 logits), of the logits' shape.

        targets: 0 .. 1 in any dtype, bool too; no gradient flows to them. weight: factor. keep: bool; what is not kept
        costs 0 and has a gradient of 0, whatever its logit and target are. All three broadcast to the logits' shape.
        Empty logits give an empty loss. Raises UsageError for targets outside 0 .. 1 (tensors are looked at on a CPU
        only, since a GPU would have to be waited for, and not under torch.compile) and for shapes that do not fit.
        torch.func's transforms are refused, with torch's error: differentiate with `torch.autograd` or `backward()`.
        Second derivatives, which automatic differentiation makes of the closed form, are finite for |x| <= 50.
        `Focal()(log(9), 1)` is .25 x (1 - .9)^2 x -log .9 = .000263.
        """
        logits, targets, weight = checked(logits, targets, weight, keep)
        elements = cast(Tensor, _Elementwise.apply(logits, targets, self))
        return _weighted(elements, weight, keep)

    def derivative(
        self, logits: Tensor, targets: Tensor | float, weight: Tensor | float = 1.0, keep: Tensor | None = None
    ) -> Tensor:
        """d loss / d logit, element by element, in the loss's dtype and shape; arguments as in the call."""
        logits, targets, weight = checked(logits, targets, weight, keep)
        x = _float(logits)
        return _weighted(self._derivative(x, _as(targets, x)), weight, keep)

    @abstractmethod
    def _value(self, x: Tensor, targets: Tensor | float) -> Tensor: ...

    @abstractmethod
    def _derivative(self, x: Tensor, targets: Tensor | float) -> Tensor: ...


class _Elementwise(torch.autograd.Function):
    """A member's value, with its closed form as the gradient: only the logits are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor | float, loss: ClassificationLoss) -> Tensor:
        ctx.loss = loss
        ctx.number = None if isinstance(targets, Tensor) else targets
        ctx.save_for_backward(logits, *([targets] if isinstance(targets, Tensor) else []))
        x = _float(logits)
        return loss._value(x, _as(targets, x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Made of torch's operations: under `create_graph` they are recorded, and there is a second derivative."""
        logits, *soft = ctx.saved_tensors
        x = _float(logits)
        slope = ctx.loss._derivative(x, _as(soft[0].detach() if soft else ctx.number, x))
        # In float32 up to here: a loss scaler's factor is in `gradient`, and saves what float16 alone would lose.
        return (slope * gradient).to(logits.dtype), None, None


class _OfMargin(ClassificationLoss):
    """What the paper compares: functions of x_t alone, weighted by alpha_t."""

    def _value(self, x: Tensor, targets: Tensor | float) -> Tensor:
        foreground, background = self._weights(x)
        if not isinstance(targets, Tensor) and targets in (0, 1):
            return foreground * self._of(x) if targets else background * self._of(-x)
        return targets * foreground * self._of(x) + (1 - targets) * background * self._of(-x)

    def _derivative(self, x: Tensor, targets: Tensor | float) -> Tensor:
        foreground, background = self._weights(x)
        if not isinstance(targets, Tensor) and targets in (0, 1):
            return foreground * self._slope(x) if targets else -background * self._slope(-x)
        return targets * foreground * self._slope(x) - (1 - targets) * background * self._slope(-x)

    def _weights(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """alpha_t of foreground and of background."""
        return 1.0, 1.0

    @abstractmethod
    def _of(self, x_t: Tensor) -> Tensor:
        """The loss as a function of x_t, without alpha_t."""

    @abstractmethod
    def _slope(self, x_t: Tensor) -> Tensor:
        """Its derivative with respect to x_t, <= 0."""


@dataclass(frozen=True)
class CrossEntropy(_OfMargin):
    """-log p_t, or with `alpha` the balanced -alpha_t log p_t (the paper's best: .75)."""

    alpha: Weight | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None:
            check_alpha("balanced cross entropy", self.alpha)

    def _weights(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        return (1.0, 1.0) if self.alpha is None else _alpha_t(self.alpha, x)

    def _of(self, x_t: Tensor) -> Tensor:
        return -logsigmoid(x_t)

    def _slope(self, x_t: Tensor) -> Tensor:
        return -torch.sigmoid(-x_t)


@dataclass(frozen=True)
class Focal(_OfMargin):
    """-alpha_t (1 - p_t)^gamma log p_t; gamma = 0 is balanced cross entropy.

    At gamma = 2 a logit with p_t = .9 costs 100 times less than under cross entropy, with p_t <= .5 at most 4 times.
    """

    alpha: Weight = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        check_alpha("focal loss", self.alpha)
        refuse_unless(0 <= self.gamma < inf, f"focal loss: gamma is {self.gamma:g}; give 0 (cross entropy) or more")

    def _weights(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        return _alpha_t(self.alpha, x)

    def _of(self, x_t: Tensor) -> Tensor:
        if self.gamma == 0:
            return -logsigmoid(x_t)
        # Not exp(gamma log(1 - p_t)): an exponent of 55, rounded to float32, is off by 2e-6, and so is its exponential.
        return _power(torch.sigmoid(-x_t), self.gamma) * -logsigmoid(x_t)

    def _slope(self, x_t: Tensor) -> Tensor:
        # Equation 10, (1 - p_t)^gamma (gamma p_t log p_t + p_t - 1), with p_t - 1 written as -sigmoid(-x_t): the
        # difference is off by 2.7 % in float32 at a background logit of -12.
        rest = torch.sigmoid(-x_t)
        if self.gamma == 0:
            return -rest
        return _power(rest, self.gamma) * (self.gamma * torch.sigmoid(x_t) * logsigmoid(x_t) - rest)


@dataclass(frozen=True)
class FocalStar(_OfMargin):
    """-alpha_t log(sigmoid(gamma x_t + beta)) / gamma: gamma steepens the curve, beta shifts it (appendix A).

    The paper runs (gamma 2, beta 1) and (gamma 4, beta 0). gamma must be above 0. gamma x_t + beta is rounded to
    float32, which alone would leave sums 5e-6 off; what the rounding takes is put back to first order.
    """

    alpha: Weight = 0.25
    gamma: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_alpha("FL*", self.alpha)
        told = f"FL*: gamma is {self.gamma:g}, and the loss divides by it; give more than 0"
        refuse_unless(0 < self.gamma < inf, told)
        refuse_unless(isfinite(self.beta), f"FL*: beta is {self.beta:g}; give a finite number, such as 1")

    def _weights(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        return _alpha_t(self.alpha, x)

    def _of(self, x_t: Tensor) -> Tensor:
        z, lost = self._argument(x_t)
        return (-logsigmoid(z) - lost * torch.sigmoid(-z)) / self.gamma

    def _slope(self, x_t: Tensor) -> Tensor:
        z, lost = self._argument(x_t)
        return torch.sigmoid(-z) * (lost * torch.sigmoid(z) - 1)

    def _argument(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma x_t + beta in the logits' dtype, and what it lost when it was rounded to it."""
        exact = self.gamma * x_t.double() + self.beta
        z = exact.to(x_t.dtype)
        return z, (exact - z).to(x_t.dtype).nan_to_num_(nan=0.0)  # inf - inf where a logit is not finite


@dataclass(frozen=True)
class Hinge(_OfMargin):
    """max(0, margin - p_t): nothing above a p_t of `margin`, a straight line below.

    The paper says that it was unstable and gives no number; the margin of .5 is ours.
    """

    margin: float = 0.5

    def __post_init__(self) -> None:
        refuse_unless(0 < self.margin <= 1, f"hinge loss: margin is {self.margin:g}, a p_t; give more than 0, up to 1")

    def _of(self, x_t: Tensor) -> Tensor:
        return (self.margin - torch.sigmoid(x_t)).clamp(min=0)

    def _slope(self, x_t: Tensor) -> Tensor:
        # 1 - p_t as it is, not p_t, which rounds to 1: with a margin of 1 the slope reaches as far as there are logits.
        rest = torch.sigmoid(-x_t)
        return torch.where(rest > 1 - self.margin, -torch.sigmoid(x_t) * rest, 0.0)


@dataclass(frozen=True)
class QualityFocal(ClassificationLoss):
    """|q - p|^gamma CE(p, q): a positive's target is the IoU of its predicted box (Generalized Focal Loss, eq. 3)."""

    gamma: float = 2.0

    def __post_init__(self) -> None:
        told = f"quality focal loss: gamma is {self.gamma:g}; give 0 (cross entropy) or more"
        refuse_unless(0 <= self.gamma < inf, told)

    def _value(self, x: Tensor, targets: Tensor | float) -> Tensor:
        return _power(_distance(x, targets).abs(), self.gamma) * _soft_cross_entropy(x, targets)

    def _derivative(self, x: Tensor, targets: Tensor | float) -> Tensor:
        distance = _distance(x, targets)
        size = distance.abs()
        slope = -_power(size, self.gamma) * distance
        if self.gamma == 0:
            return slope
        # d|q - p|^gamma / dx = -gamma |q - p|^(gamma - 1) sign(q - p) p (1 - p); at p = q its factor is taken as 0.
        steepness = torch.where(size > 0, _power(size, self.gamma - 1), 0.0)
        moving = -self.gamma * steepness * distance.sign() * torch.sigmoid(x) * torch.sigmoid(-x)
        return slope + moving * _soft_cross_entropy(x, targets)


@dataclass(frozen=True)
class Varifocal(ClassificationLoss):
    """Positives weigh by their target q, background by alpha p^gamma (VarifocalNet, equation 2; its alpha is .75)."""

    alpha: float = 0.75
    gamma: float = 2.0

    def __post_init__(self) -> None:
        sound = isinstance(self.alpha, Real) and 0 <= self.alpha <= 1
        refuse_unless(sound, f"varifocal loss: alpha is {self.alpha}; give one number of 0 to 1, for all classes")
        refuse_unless(0 <= self.gamma < inf, f"varifocal loss: gamma is {self.gamma:g}; give 0 or more")

    @property
    def _background(self) -> Focal:
        return Focal(alpha=1 - self.alpha, gamma=self.gamma)

    def _value(self, x: Tensor, targets: Tensor | float) -> Tensor:
        background = self._background._value(x, 0.0)
        if not isinstance(targets, Tensor) and targets == 0:
            return background
        soft = torch.as_tensor(targets, dtype=x.dtype, device=x.device)
        return torch.where(soft > 0, soft * _soft_cross_entropy(x, soft), background)

    def _derivative(self, x: Tensor, targets: Tensor | float) -> Tensor:
        background = self._background._derivative(x, 0.0)
        if not isinstance(targets, Tensor) and targets == 0:
            return background
        soft = torch.as_tensor(targets, dtype=x.dtype, device=x.device)
        return torch.where(soft > 0, -soft * _distance(x, soft), background)


def classification_loss(config: LossConfig) -> ClassificationLoss:
    """The member that a config names; where `class_alpha` is given, with an alpha for each class."""
    alpha: Weight = config.class_alpha or config.alpha
    match config.name:
        case "cross_entropy":
            return CrossEntropy()
        case "balanced_cross_entropy":
            return CrossEntropy(alpha)
        case "focal":
            return Focal(alpha, config.gamma)
        case "focal_star":
            return FocalStar(alpha, config.gamma, config.beta)
        case "hinge":
            return Hinge(config.margin)
        case "quality_focal":
            return QualityFocal(config.gamma)
        case "varifocal":
            return Varifocal(config.alpha, config.gamma)


def inverse_frequency_alpha(counts: Sequence[int], alpha: float) -> tuple[float, ...]:
    """An alpha for each class, from how many objects each has: the odds alpha : 1 - alpha times mean count / count.

    The factor stays within .1 .. 10, and is 10 for a class without objects. Counts of 300 and 100 at alpha .25 give the
    odds 2/9 and 2/3, so .182 and .4.
    """
    mean = sum(counts) / max(1, len(counts))
    factors = [min(10.0, max(0.1, mean / count)) if count else 10.0 for count in counts]
    return tuple(alpha * factor / (alpha * factor + 1 - alpha) for factor in factors)


def _alpha_t(alpha: Weight, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
    if isinstance(alpha, tuple):
        if x.shape[-1:] != (len(alpha),):
            raise UsageError(
                f"alpha has {len(alpha)} numbers, and the last dimension of logits {list(x.shape)} not as many; the "
                "classes must be the last dimension: move them there with logits.movedim(1, -1)"
            )
        alpha_K = torch.tensor(alpha, dtype=x.dtype, device=x.device)
        return alpha_K, 1 - alpha_K
    return alpha, 1 - alpha


def _as(targets: Tensor | float, x: Tensor) -> Tensor | float:
    """Targets in the dtype of the arithmetic."""
    return targets.to(x.dtype) if isinstance(targets, Tensor) else targets


def _weighted(elements: Tensor, weight: Tensor | float, keep: Tensor | None) -> Tensor:
    if isinstance(weight, Tensor) or weight != 1:
        elements = elements * weight
    return elements if keep is None else torch.where(keep, elements, 0.0)


def _power(base: Tensor, exponent: float) -> Tensor:
    high, low = exponent_parts(exponent, base.dtype)
    return base.pow(high) * base.pow(low) if low else base.pow(high)


def exponent_parts(exponent: float, dtype: torch.dtype) -> tuple[float, float]:
    """Two exponents that together are this one, the first exact in `dtype`; the second is 0 where it tells nothing.

    torch rounds an exponent to the tensor's dtype: 4.3 to 4.3000002, and a base of e^-16 is then 3e-6 off.
    """
    if dtype == torch.float64:
        return exponent, 0.0
    nearest = _rounded(exponent)
    if abs(exponent - nearest) <= 1e-8:
        return nearest, 0.0
    below = _rounded(exponent * (1 - 2**-24))  # so that 0 to the power of the rest is 0
    return below, exponent - below


def _rounded(number: float) -> float:
    """To float32's 24 bits, by arithmetic that torch.compile can follow."""
    mantissa, exponent = frexp(number)
    return ldexp(round(ldexp(mantissa, 24)), exponent - 24)


def _distance(x: Tensor, q: Tensor | float) -> Tensor:
    """q - p, exact to rounding at q = 0 and at q = 1, where the plain difference cancels."""
    return q * torch.sigmoid(-x) - (1 - q) * torch.sigmoid(x)


def _soft_cross_entropy(x: Tensor, q: Tensor | float) -> Tensor:
    """-q log p - (1 - q) log(1 - p)."""
    return -q * logsigmoid(x) - (1 - q) * logsigmoid(-x)


def _float(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
