"""From an ensemble to one small network, and intervals that keep their promise.

The student imitates the ensemble on many designs that nobody simulated (Hinton et al. 2015), and
learns from the simulated ones beside it. It is taught the ensemble's spread, too, in each way that
a spread can be had; held-back designs choose which one scales its intervals.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jobs.runtime import Interrupted
from jobs.surrogate.climates import JOINT_NAMES, Climates
from jobs.surrogate.config import DESIGN, INPUTS, WEATHER
from jobs.surrogate.data import Data, to_data
from jobs.surrogate.designs import sample
from jobs.surrogate.network import PREDICTED, Ensemble, Student, encode, scaled_features

IMITATED = 16
"""Designs to imitate on, for each one that was simulated."""
STEPS_AN_EPOCH = 20
BATCH, LABELLED = 256, 64
RATE = 6e-3
LABELS, SPREADS = 0.3, 0.1
"""Weights of the simulated designs and of the spreads in the loss."""
PASSES = 20
"""Of Monte Carlo dropout (Gal and Ghahramani 2016)."""
LEAST = 0.005
"""Deviations of a target that are added to a spread before its logarithm is taken."""
KINDS = ("ensemble", "mc_dropout")


def imitated(data: Data, seed: int) -> Tensor:
    """Designs (N, inputs) over all ranges, in weathers between pairs of those of `data`."""
    count = IMITATED * len(data.x)
    random = np.random.default_rng(seed)
    names = [quantity.name for quantity in WEATHER]
    known = pd.DataFrame(data.x.numpy(), columns=list(INPUTS))[names].drop_duplicates().to_numpy()
    one, other = random.integers(0, len(known), (2, count))
    share = random.uniform(0, 0.5, (count, 1))
    weather = pd.DataFrame(known[one] * (1 - share) + known[other] * share, columns=names)
    table = pd.concat([sample(DESIGN, count, seed), weather], axis=1)
    return torch.tensor(table[list(INPUTS)].to_numpy()).float()


def spreads(ensemble: Ensemble, x: Tensor) -> Tensor:
    """What the ensemble doubts of designs, in units, each of KINDS: (kinds, B, outputs)."""
    with torch.no_grad():
        between = ensemble.each(x).std(0, unbiased=False)
        for module in ensemble.modules():
            module.train(isinstance(module, torch.nn.Dropout))
        dropped = torch.stack([ensemble.each(x).mean(0) for _ in range(PASSES)]).std(0)
        ensemble.eval()
    return torch.stack([between, dropped])


def teach(
    ensemble: Ensemble,
    data: Data,
    epochs: int,
    seed: int,
    label_loss: Callable[[Tensor, Tensor], Tensor],
    progress: Callable[[int, float], bool],
) -> Student:
    """The student of an ensemble that was trained on `data`.

    `label_loss(raw, chosen)`: that of corrections (B, PREDICTED) for the chosen rows of `data`.
    `progress(epoch, loss)` is told how it goes; where it returns True, Interrupted is raised.
    """
    torch.manual_seed(seed)
    unit = torch.from_numpy(np.nanstd(data.y.numpy(), axis=0)).nan_to_num(1.0).clamp(min=1.0)
    student = Student(ensemble.scales, unit, len(KINDS))
    x = imitated(data, seed)
    with torch.no_grad():
        wanted = ensemble.raw(x).mean(0)
        doubted = torch.log(spreads(ensemble, x) / unit + LEAST)
        doubted = doubted.transpose(0, 1).reshape(len(x), -1)
        many, few = (scaled_features(encode(each)[0], ensemble.scales) for each in (x, data.x))
    steps = epochs * STEPS_AN_EPOCH
    optimiser = torch.optim.AdamW(student.parameters(), weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for step in range(steps):
        chosen, labelled = torch.randint(len(x), (BATCH,)), torch.randint(len(data.x), (LABELLED,))
        said = student.layers(torch.cat([many[chosen], few[labelled]]))
        loss = ((said[:BATCH, :PREDICTED] - wanted[chosen]) ** 2).mean()
        loss = loss + LABELS * label_loss(said[BATCH:, :PREDICTED], labelled)
        loss = loss + SPREADS * ((said[:BATCH, PREDICTED:] - doubted[chosen]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % (10 * STEPS_AN_EPOCH) == 0 and progress(step // STEPS_AN_EPOCH, loss.item()):
            raise Interrupted
    return student.eval()


def calibrate(student: Student, data: Data, confidence: float) -> dict[str, float]:
    """Set the intervals by split conformal prediction; the kind with the narrowest ones is kept.

    Returns the mean widths, in standard deviations of the targets, that each kind would have.
    """
    with torch.no_grad():
        mean, doubts = student.both(data.x)
    error = (data.y.T - mean).abs()
    # members may agree on most designs, e.g. that nothing is cooled
    floors = torch.maximum(0.3 * doubts.median(2).values, 0.001 * student.unit)
    kinds = {"constant": torch.ones_like(mean)}
    kinds |= dict(zip(KINDS, doubts + floors[:, :, None], strict=True))
    quantiles = {kind: quantile(error / scale, confidence) for kind, scale in kinds.items()}
    widths = {
        kind: float((quantiles[kind][:, None] * scale / student.unit[:, None]).mean())
        for kind, scale in kinds.items()
    }
    best = min(widths, key=lambda kind: widths[kind])
    student.quantile = quantiles[best]
    if best != "constant":
        student.floor = floors[KINDS.index(best)]
    student.keep(None if best == "constant" else KINDS.index(best))
    return {f"width_{kind}": width for kind, width in widths.items()}


def widen(student: Student, climates: Climates, table: pd.DataFrame, confidence: float) -> Climates:
    """`climates` with what intervals must be multiplied by, 1 at least, to cover the designs of
    `table` as promised where JOINT is filled in."""
    seen, _ = climates.seen(table.assign(**dict.fromkeys(JOINT_NAMES, np.nan)))
    rows = to_data(seen)
    with torch.no_grad():
        mean, half_width = student(rows.x.T)
    scores = ((rows.y.T - mean).abs() / half_width).flatten()[None]
    return replace(climates, widened=np.maximum(quantile(scores, confidence).numpy()[0], 1.0))


def quantile(scores: Tensor, confidence: float) -> Tensor:
    """The conformal quantile of each row: rank ⌈(n + 1) × confidence⌉ of the known scores."""
    found = []
    for row in scores:
        known = row[~row.isnan()].sort().values
        rank = min(len(known), int(np.ceil((len(known) + 1) * confidence)))
        found.append(known[rank - 1])
    return torch.stack(found)
