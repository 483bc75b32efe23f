"""Triton kernels of the classification loss: value and gradient in one read and one write of the logits.

`triton_loss.py` launches them. A program takes BLOCK logits of one image in the order in which they lie in memory, so
either layout is read and written without a gap; where a logit lies says which anchor and class it is of. Most blocks
hold nothing but background. A look at the labels of its few anchors sends such a block down a way without labels.

Arithmetic is float32 on log p_t, as in `classification.py`, and x_t and p_t mean what they mean there. While a GPU
moves the four bytes of one logit and its gradient it has time for some forty instructions, so both sigmoids and both
logarithms come from one exponential, one reciprocal and one polynomial: 33 instructions a logit for gamma = 2, as
compiled for compute capability 9.0. float32 logits have twice the time, and six instructions more: with them the
exponential is exact to its last digits for any logit (`_power_of_2`).

Letters: B images, K classes.
"""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_FAR = tl.constexpr(1e3)  # where sigmoid(-x) is 0 and infinity less infinity is not yet asked for
_BACKGROUND = tl.constexpr(-1)
_IGNORED = tl.constexpr(-2)


@triton.jit
def loss_kernel(
    logits,  # B images of `elements` logits
    labels,  # B rows, `label_stride` apart: the class of each anchor, or -1 background, -2 ignored
    alphas,  # K, read where PER_CLASS; else the scalar `alpha_positive` counts
    scales,  # B: what the gradient of an image is multiplied with before it is stored
    done,  # B, read where AGAIN: the scales with which gradients lie there already
    gradients,  # as the logits, written where GRADIENT
    partials,  # B x programs: sums of the blocks
    elements,
    label_stride,
    inner,  # H * W where channels come first
    alpha_positive,
    alpha_background,
    beta,
    margin,
    smoothing,
    LOSS: tl.constexpr,
    GAMMA: tl.constexpr,
    CLASSES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PER_CLASS: tl.constexpr,
    SMOOTHED: tl.constexpr,
    GRADIENT: tl.constexpr,
    AGAIN: tl.constexpr,
    PTX: tl.constexpr,  # an NVIDIA card, not the interpreter
    NEAR: tl.constexpr,  # a power of 2: anchors that a block can touch, at least
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    scale = tl.load(scales + image) if GRADIENT else 0.0
    if AGAIN:  # noqa: SIM102 (Triton would load `done` in any case)
        if scale == tl.load(done + image):
            return
    first = tl.program_id(0) * BLOCK
    place = first + tl.arange(0, BLOCK)
    exists = place < elements
    labels += image * label_stride
    # Behind the end lies what as background costs nothing, whatever the loss.
    x = tl.load(logits + image * elements + place, mask=exists, other=-float("inf")).to(tl.float32)

    # An exponent of 30 is rounded to 1e-6, and e^-30 with it. Half precision has no time for better, but for FL*'s.
    EXACT: tl.constexpr = logits.dtype.element_ty == tl.float32 or LOSS == "focal_star"
    only_background = False
    if CHANNELS_LAST and not PER_CLASS:
        near = first // CLASSES + tl.arange(0, NEAR)
        near_label = tl.load(labels + near, mask=near < elements // CLASSES, other=_BACKGROUND)
        only_background = tl.max(tl.where(near_label == _BACKGROUND, 0, 1)) == 0
    if only_background:
        value, steepness = _of_margin(-x, beta, margin, LOSS, GAMMA, EXACT, PTX)
        total = tl.sum(value) * alpha_background
        gradient = steepness * (alpha_background * scale)
    else:
        if CHANNELS_LAST:
            anchor = place // CLASSES
            own = place % CLASSES
        else:
            plane = place // inner
            anchor = plane // CLASSES * inner + place % inner
            own = plane % CLASSES
        label = tl.load(labels + anchor, mask=exists, other=_IGNORED)
        if PER_CLASS:
            positive = tl.load(alphas + own)
            background = 1 - positive
        else:
            positive = tl.zeros_like(x) + alpha_positive
            background = tl.zeros_like(x) + alpha_background
        # An ignored logit may be anything, NaN too.
        x = tl.where(label == _IGNORED, 0.0, x)
        positive = tl.where(label == _IGNORED, 0.0, positive)
        background = tl.where(label == _IGNORED, 0.0, background)
        if SMOOTHED:
            target = tl.where(label >= 0, smoothing / CLASSES, 0.0) + tl.where(label == own, 1 - smoothing, 0.0)
            value_1, steepness_1 = _of_margin(x, beta, margin, LOSS, GAMMA, EXACT, PTX)
            value_0, steepness_0 = _of_margin(-x, beta, margin, LOSS, GAMMA, EXACT, PTX)
            positive *= target
            background *= 1 - target
            value = positive * value_1 + background * value_0
            gradient = (background * steepness_0 - positive * steepness_1) * scale
        else:
            value, steepness = _of_margin(tl.where(label == own, x, -x), beta, margin, LOSS, GAMMA, EXACT, PTX)
            value *= tl.where(label == own, positive, background)
            gradient = steepness * tl.where(label == own, -positive, background) * scale
        total = tl.sum(value)

    tl.store(partials + image * tl.num_programs(0) + tl.program_id(0), total)
    if GRADIENT:
        at = gradients + image * elements + place
        tl.store(at, gradient.to(gradients.dtype.element_ty), mask=exists)


@triton.jit
def _of_margin(x_t, beta, margin, LOSS: tl.constexpr, GAMMA: tl.constexpr, EXACT: tl.constexpr, PTX: tl.constexpr):
    """The loss as a function of x_t, without alpha_t, and how steeply it falls: -d loss / d x_t, >= 0."""
    if LOSS == "focal_star":
        z, lost = _line(x_t, beta, GAMMA)
        _, rest, log = _sigmoids(z, tl.where(z >= 0, lost, -lost), EXACT, PTX)
        value, steepness = (tl.maximum(-z, 0.0) + log) / GAMMA, rest
    elif LOSS == "hinge":
        p_t, rest, _ = _sigmoids(x_t, 0.0, False, PTX)  # a difference, and off by its rounding
        # A GPU's maximum of NaN and 0 is 0, unless it is told: a broken net would cost nothing.
        value = tl.maximum(margin - p_t, 0.0, propagate_nan=tl.PropagateNan.ALL)
        steepness = tl.where(rest > 1 - margin, p_t * rest, 0.0)
    elif LOSS == "focal" and GAMMA != 0:
        p_t, rest, log = _sigmoids(x_t, 0.0, EXACT, PTX)
        cost = tl.maximum(-x_t, 0.0) + log
        if GAMMA == 2:
            modulator = rest * rest
        elif EXACT:
            near = tl.minimum(tl.maximum(x_t, 0.0), _FAR)
            opposite = near + log
            modulator = _power_of_2(opposite, log - (opposite - near), -GAMMA * _LOG2E)
        else:
            modulator = tl.exp2((tl.maximum(x_t, 0.0) + log) * (-GAMMA * _LOG2E))
        value = modulator * cost
        steepness = modulator * (GAMMA * p_t * cost + rest)
    else:
        _, rest, log = _sigmoids(x_t, 0.0, EXACT, PTX)
        value, steepness = tl.maximum(-x_t, 0.0) + log, rest
    return value, steepness


@triton.jit
def _sigmoids(x, lost, EXACT: tl.constexpr, PTX: tl.constexpr):
    """sigmoid(x), sigmoid(-x), -log sigmoid(|x|): each to a few units in the last place.

    lost: what |x| lost when it was rounded, counted where EXACT. Otherwise exp(-|x|) is off by as much as float32
    rounds its exponent, 1e-6 at an |x| of 16.
    """
    if EXACT:
        far = tl.minimum(tl.abs(x), _FAR, propagate_nan=tl.PropagateNan.ALL)
        e = _power_of_2(far, lost, -_LOG2E)
    else:
        e = tl.exp2(tl.abs(x) * -_LOG2E)
    if PTX:
        # As good as the division, which spends four more instructions on denominators that this is not.
        larger = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [1.0 + e], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        larger = 1.0 / (1.0 + e)
    smaller = e * larger
    # log(1 + e) / e on 0 .. 1, relative error 3e-8: log(1 + e) itself would lose an e that is small beside 1.
    log = 0.0052326880395412445
    log = log * e - 0.029505213722586632
    log = log * e + 0.07822591066360474
    log = log * e - 0.13663242757320404
    log = log * e + 0.19106005132198334
    log = log * e - 0.2484298199415207
    log = log * e + 0.3331909775733948
    log = log * e - 0.4999949336051941
    log = log * e + 0.9999999403953552
    log = log * e
    positive = x >= 0
    return tl.where(positive, larger, smaller), tl.where(positive, smaller, larger), log


@triton.jit
def _power_of_2(x, lost, FACTOR: tl.constexpr):
    """2^(FACTOR (x + lost)) for a finite x, to a few units in the last place however large the exponent is."""
    # FACTOR as two float32. What float32 rounds off a product, a fused multiply-add tells exactly.
    BIG: tl.constexpr = FACTOR * 536870913.0  # 2^29 + 1
    HIGH: tl.constexpr = BIG - (BIG - FACTOR)
    LOW: tl.constexpr = FACTOR - HIGH
    exponent = x * HIGH
    rounding = tl.fma(x, HIGH, -exponent) + (x * LOW + lost * HIGH)
    power = tl.exp2(exponent)
    return power + power * (rounding * _LN2)


@triton.jit
def _line(x, beta, GAMMA: tl.constexpr):
    """GAMMA x + beta, and what it lost when it was rounded, which no longer counts beyond a million."""
    BIG: tl.constexpr = GAMMA * 536870913.0
    HIGH: tl.constexpr = BIG - (BIG - GAMMA)
    LOW: tl.constexpr = GAMMA - HIGH
    near = tl.minimum(tl.maximum(x, -1e6), 1e6)  # infinity less infinity is no number
    product = near * HIGH
    z = product + beta
    added = z - product
    lost = tl.fma(near, HIGH, -product) + near * LOW + ((product - (z - added)) + (beta - added))
    return tl.where(near == x, z, x * HIGH), lost
