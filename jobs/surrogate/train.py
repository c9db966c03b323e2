"""Train the surrogate: an ensemble by k-fold, physics in the loss, conformal intervals, ONNX.

    python -m jobs.surrogate.train JOB_FOLDER

Inputs: `simulated` (Parquet of jobs.surrogate.simulate), optionally `observations` (JSON lines of
jobs.surrogate.collect). Climates, not single designs, are split into training (60 %), calibration
(20 %) and held-out (20 %), so that what is measured is measured in weather never seen.
Artifacts: `candidate` (folder with the ONNX models and surrogate.json), `held_out` (Parquet).
Not resumable on the way: it takes a minute.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jobs.runtime import Interrupted, Job, Outcome, main
from jobs.surrogate import export
from jobs.surrogate.config import INPUTS, OUTPUTS, TrainConfig
from jobs.surrogate.network import (
    ARCHITECTURES,
    GAINS,
    NEVER_NEGATIVE,
    PREDICTED,
    Ensemble,
    Member,
    close_balance,
    encode,
)

DROPOUT = 0.02
BATCH = 128
PASSES = 20
"""Of Monte Carlo dropout (Gal and Ghahramani 2016)."""
HEATING, SETBACK = INPUTS.index("heating_setpoint"), INPUTS.index("setback")
COOLING = INPUTS.index("cooling_setpoint")


@dataclass(frozen=True)
class Data:
    """Designs (N, inputs), targets (N, outputs; NaN where not measured), climates, weights (N,)."""

    x: Tensor
    y: Tensor
    group: np.ndarray
    weight: Tensor

    def of(self, chosen: np.ndarray) -> "Data":
        mask = torch.from_numpy(chosen)
        return Data(self.x[mask], self.y[mask], self.group[chosen], self.weight[mask])


def load(simulated: Path, observations: Path | None, real_share: float) -> Data:
    """Simulated and observed designs; the observed ones have `real_share` of all the weight."""
    table = pd.read_parquet(simulated)
    table["weight"] = 1.0
    if observations is not None:
        real = pd.read_json(observations, lines=True).reindex(columns=[*INPUTS, *OUTPUTS])
        real["climate"] = table["climate"].max() + 1 + np.arange(len(real))
        share = real_share if real_share < 1 else 1 - 1e-6
        real["weight"] = share / (1 - share) * len(table) / len(real)
        table = pd.concat([table, real], ignore_index=True)

    def tensor(columns: list[str]) -> Tensor:
        return torch.tensor(table[columns].to_numpy(float), dtype=torch.float32)

    return Data(
        tensor(list(INPUTS)),
        tensor(list(OUTPUTS)),
        table["climate"].to_numpy(),
        tensor(["weight"])[:, 0],
    )


def split(group: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks for training, calibration and held-out, by climate."""
    climates = np.random.default_rng(seed).permutation(np.unique(group))
    calibration, held_out = np.array_split(climates, 5)[:2]
    calibrates, is_held_out = np.isin(group, calibration), np.isin(group, held_out)
    return ~(calibrates | is_held_out), calibrates, is_held_out


class Trainer:
    """Trains the members; every fold leaves other climates out."""

    def __init__(self, job: Job[TrainConfig], data: Data) -> None:
        self.job, self.config, self.data = job, job.config, data
        encoded = encode(data.x)
        targets = data.y[:, :PREDICTED]
        known = torch.nan_to_num(targets)
        count = (~targets.isnan()).sum(0).clamp(min=1)
        y_mean = known.sum(0) / count
        deviation = torch.where(targets.isnan(), 0.0, targets - y_mean)
        y_std = torch.sqrt((deviation**2).sum(0) / count)
        self.scales = {
            "x_mean": encoded.mean(0),
            "x_std": encoded.std(0).clamp(min=1e-6),
            "y_mean": y_mean,
            "y_std": y_std.clamp(min=1e-6),
        }

    def ensemble(self) -> tuple[Ensemble, float]:
        """The trained ensemble, and the mean error of its members on their left-out folds."""
        climates = np.random.default_rng(self.config.seed).permutation(np.unique(self.data.group))
        folds = np.array_split(climates, self.config.folds)
        members, errors = [], []
        for number, left_out in enumerate(folds):
            outside = np.isin(self.data.group, left_out)
            member = self._member(number, self.data.of(~outside))
            members.append(member)
            one = Ensemble([member], self.scales).eval()
            with torch.no_grad():
                errors.append(
                    relative_error(one(self.data.of(outside).x)[0], self.data.of(outside).y)
                )
        return Ensemble(members, self.scales).eval(), float(np.mean(errors))

    def _member(self, number: int, data: Data) -> Member:
        config = self.config
        torch.manual_seed(config.seed * 1009 + number)
        widths = ARCHITECTURES[number % len(ARCHITECTURES)]
        member = Member(len(self.scales["x_mean"]), widths, DROPOUT)
        encoded = (encode(data.x) - self.scales["x_mean"]) / self.scales["x_std"]
        optimiser = torch.optim.AdamW(member.parameters(), weight_decay=1e-4)
        batches = max(1, len(encoded) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=config.epochs * batches
        )
        for epoch in range(config.epochs):
            if self.job.stopping:
                raise Interrupted
            total = 0.0
            for chosen in torch.randperm(len(encoded)).tensor_split(batches):
                loss = self._loss(member(encoded[chosen]), data, chosen)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.item() / batches
            if epoch % 10 == 0 or epoch == config.epochs - 1:
                step, steps = number * config.epochs + epoch + 1, config.folds * config.epochs
                self.job.progress(step, steps, f"member {number + 1}", loss=total)
        return member.eval()

    def _loss(self, raw: Tensor, data: Data, chosen: Tensor) -> Tensor:
        """MSE + energy balance + zone coupling + bounds, each in standard deviations."""
        y, x, weight = data.y[chosen], data.x[chosen], data.weight[chosen]
        y_mean, y_std = self.scales["y_mean"], self.scales["y_std"]
        units = raw * y_std + y_mean
        closed = close_balance(units, x[:, GAINS])[:, -1]
        apart, truly_apart = units[:, 4:5] - units[:, 5:6], y[:, 4:5] - y[:, 5:6]
        never = [i for i in NEVER_NEGATIVE if i < PREDICTED]
        coldest = (x[:, HEATING] - x[:, SETBACK])[:, None]
        air = units[:, 4:6]
        outside = torch.cat(
            [
                torch.relu(-units[:, never]) / y_std[never],
                torch.relu(coldest - air) / y_std[4:6],
                torch.relu(air - x[:, COOLING, None]) / y_std[4:6],
            ],
            dim=1,
        )
        fit = _mean_square(raw, (y[:, :PREDICTED] - y_mean) / y_std, weight)
        scale = y_std[[0, 1, 2, 3, 6]].norm()
        balance = _mean_square(closed[:, None] / scale, y[:, -1:] / scale, weight)
        coupling = _mean_square(apart / y_std[4], truly_apart / y_std[4], weight)
        return (
            fit
            + self.config.balance_weight * balance
            + self.config.coupling_weight * coupling
            + self.config.bounds_weight * (outside**2).mean()
        )


def _mean_square(predicted: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean square of the differences to what was measured (not NaN)."""
    known = ~truth.isnan()
    # the difference must not meet NaN: the gradient of NaN × 0 is NaN
    difference = torch.where(known, predicted - torch.nan_to_num(truth), 0.0)
    weights = known * weight[:, None]
    return (difference**2 * weights).sum() / weights.sum().clamp(min=1e-9)


def relative_error(mean: Tensor, y: Tensor) -> float:
    """Mean absolute error of the four loads over their mean, a fraction."""
    known = ~y[:, :4].isnan()
    error = torch.where(known, mean[:, :4] - y[:, :4], 0.0).abs().sum()
    return float(error / torch.where(known, y[:, :4], 0.0).abs().sum())


def calibrate(ensemble: Ensemble, data: Data, confidence: float) -> dict[str, float]:
    """Set the intervals by split conformal prediction; the kind with the narrower ones is kept.

    Returns the mean widths, in standard deviations of the targets, that each kind would have.
    """
    with torch.no_grad():
        every = ensemble.each(data.x)
        mean = every.mean(0)
        spread = torch.sqrt(((every - mean) ** 2).mean(0))
        for module in ensemble.modules():
            module.train(isinstance(module, torch.nn.Dropout))
        dropped = torch.stack([ensemble.each(data.x).mean(0) for _ in range(PASSES)]).std(0)
        ensemble.eval()
    error = (data.y - mean).abs()
    unit = torch.cat([ensemble.y_std, ensemble.y_std[[0, 2, 6]].norm()[None]])
    kinds = {
        "constant": torch.ones_like(mean),
        "ensemble": spread + spread.median(0).values,
        "mc_dropout": dropped + dropped.median(0).values,
    }
    quantiles = {kind: _quantile(error / scale, confidence) for kind, scale in kinds.items()}
    widths = {kind: float((quantiles[kind] * scale / unit).mean()) for kind, scale in kinds.items()}
    ensemble.constant = widths["constant"] < widths["ensemble"]
    ensemble.quantile = quantiles["constant" if ensemble.constant else "ensemble"]
    ensemble.floor = spread.median(0).values
    return {f"width_{kind}": width for kind, width in widths.items()}


def _quantile(scores: Tensor, confidence: float) -> Tensor:
    """The conformal quantile of each column: rank ⌈(n + 1) × confidence⌉ of the known scores."""
    found = []
    for column in scores.T:
        known = column[~column.isnan()].sort().values
        rank = min(len(known), int(np.ceil((len(known) + 1) * confidence)))
        found.append(known[rank - 1])
    return torch.stack(found)


def program(job: Job[TrainConfig]) -> Outcome:
    observations = job.input("observations") if "observations" in job.spec.inputs else None
    data = load(job.input("simulated"), observations, job.config.real_share)
    fits, calibrates, held_out = split(data.group, job.config.seed)
    ensemble, fold_error = Trainer(job, data.of(fits)).ensemble()
    widths = calibrate(ensemble, data.of(calibrates), job.config.confidence)
    rest = data.of(held_out)
    folder = job.scratch / "candidate"
    exported = export.write(ensemble, data.of(calibrates).x, data.of(calibrates).y, folder)
    columns = [*INPUTS, *OUTPUTS]
    rows = pd.DataFrame(torch.cat([rest.x, rest.y], 1).numpy(), columns=columns)
    rows.to_parquet(job.scratch / "held_out.parquet")
    return Outcome(
        {
            "fold_error": fold_error,
            "designs": float(fits.sum()),
            "observations": float((data.weight != 1).sum()),
            "parameters": float(sum(p.numel() for p in ensemble.parameters())),
            **widths,
            **exported,
        },
        {"candidate": folder, "held_out": job.scratch / "held_out.parquet"},
    )


if __name__ == "__main__":
    main(TrainConfig, program)
