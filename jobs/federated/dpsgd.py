"""Differential privacy of single records: gradient descent with noise on every step (DP-SGD).

Abadi et al. 2016, algorithm 1. Each row's gradient is clipped, and noise that hides any one of them
is added to their sum; whatever is made of such sums tells no more of a row. Opacus does the same
for modules of torch: here the gradient of a row is an outer product, whose norm is known without it
(Goodfellow 2015), so that a table's node needs no torch.
"""

import numpy as np

from jobs.federated.config import Privacy
from jobs.federated.model import Matrix, Weights, descend, slopes


def noisy_gradient(
    weights: Weights, x: Matrix, y: Matrix, privacy: Privacy, random: np.random.Generator
) -> Weights:
    """Of the mean log loss, without penalty: one release of rows that are drawn independently.

    It is divided by how many rows are expected, since how many were drawn is no one's to know.
    """
    rate, norm = privacy.sampling_rate, privacy.clipping_norm
    drawn = random.random(len(y)) < rate
    layers = slopes(weights, x[drawn], y[drawn])
    squares = [((i**2).sum(1) + 1) * (s**2).sum(1) for _, i, s in layers]
    scale = np.minimum(1, norm / np.sqrt(sum(squares)).clip(1e-300))[:, None]
    sums = {}
    for layer, inputs, slope in layers:
        sums[f"w{layer}"] = inputs.T @ (slope * scale)
        sums[f"b{layer}"] = (slope * scale).sum(0)
    deviation = privacy.noise_multiplier * norm
    return {
        name: (total + random.normal(0, deviation, total.shape)) / (rate * len(y))
        for name, total in sums.items()
    }


def fit(
    weights: Weights,
    x: Matrix,
    y: Matrix,
    steps: int,
    rate: float,
    decay: float,
    proximal: float,
    privacy: Privacy,
    random: np.random.Generator | None = None,
) -> Weights:
    """As `model.fit`, after so many releases; `random` draws rows and noise, by default of the
    system's: a node that is forked or started again must not draw the same."""
    random = random or np.random.default_rng()

    def gradient(found: Weights) -> Weights:
        noisy = noisy_gradient(found, x, y, privacy, random)
        return {n: g + decay * found[n] if n[0] == "w" else g for n, g in noisy.items()}

    return descend(weights, gradient, steps, rate, proximal)
