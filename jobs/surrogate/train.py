"""Train the surrogate: an ensemble by k-fold, physics in the loss, conformal intervals, ONNX.

    python -m jobs.surrogate.train JOB_FOLDER

Inputs: `simulated` (Parquet of jobs.surrogate.simulate), optionally `observations` (JSON lines of
jobs.surrogate.collect) and `champion` (a candidate of before: its members go on learning, its
memory is learnt again). Climates, not single designs, are split into training, calibration and
held-out, so that what is measured is measured in weather never seen.
Artifacts: `candidate` (folder with the ONNX models, surrogate.json, members.pt and memory.parquet),
`held_out` (Parquet, see jobs.surrogate.data). Resumes after the last whole member.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jobs.runtime import Interrupted, Job, Outcome, main
from jobs.surrogate import data as designs
from jobs.surrogate import export
from jobs.surrogate.config import INPUTS, LOADS, OUTPUTS, TrainConfig
from jobs.surrogate.network import (
    ARCHITECTURES,
    GAINS,
    NEVER_NEGATIVE,
    PREDICTED,
    Ensemble,
    Member,
    close_balance,
    encode,
    handbook,
)

DROPOUT = 0.02
BATCH = 128
PASSES = 20
"""Of Monte Carlo dropout (Gal and Ghahramani 2016)."""
WARM = 0.5
"""Of the learning rate, where a member goes on from the champion's."""
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


def to_data(table: pd.DataFrame, real_share: float = 0.0) -> Data:
    """A table of jobs.surrogate.data as tensors; `real_share` of the weight is the observed one's.

    Without a share all rows count alike.
    """
    weight = designs.weights(table, real_share) if real_share else np.ones(len(table))
    x, y = (torch.tensor(table[list(n)].to_numpy(float)).float() for n in (INPUTS, OUTPUTS))
    return Data(x, y, table["climate"].to_numpy(), torch.tensor(weight).float())


class Trainer:
    """Trains the members; every fold leaves other climates out.

    `champion`: what an earlier training left in members.pt. Its scales are kept, so that its
    weights mean the same.
    """

    def __init__(
        self, job: Job[TrainConfig], data: Data, champion: dict[str, Any] | None = None
    ) -> None:
        self.job, self.config, self.data = job, job.config, data
        self.warm: list[dict[str, Any]] = champion["members"] if champion else []
        self.scales = champion["scales"] if champion else scales(data)

    def ensemble(self) -> tuple[Ensemble, float]:
        """The trained ensemble, and the mean error of its members on their left-out folds."""
        members: list[Member] = []
        errors: list[float] = []
        if (saved := self.job.latest_checkpoint()) is not None:
            done = torch.load(saved[1] / "members.pt")
            members = [self._restored(one) for one in done["members"]]
            errors = done["errors"]
        for number in range(len(members), self.config.folds):
            outside = self.data.group % self.config.folds == number
            members.append(self._member(number, self.data.of(~outside)))
            errors.append(self._error(members[-1], self.data.of(outside)))
            self.job.save_checkpoint(
                number + 1,
                lambda folder: torch.save(
                    {"members": states(members), "errors": errors}, folder / "members.pt"
                ),
            )
        return Ensemble(members, self.scales).eval(), float(np.nanmean(errors))

    def _error(self, member: Member, data: Data) -> float:
        with torch.no_grad():
            return relative_error(Ensemble([member], self.scales).eval()(data.x)[0], data.y)

    def _restored(self, saved: dict[str, Any]) -> Member:
        member = Member(len(self.scales["x_mean"]), saved["widths"], DROPOUT)
        member.load_state_dict(saved["state"])
        return member.eval()

    def _member(self, number: int, data: Data) -> Member:
        config = self.config
        torch.manual_seed(config.seed * 1009 + number)
        is_warm = number < len(self.warm)
        widths = ARCHITECTURES[number % len(ARCHITECTURES)]
        member = Member(len(self.scales["x_mean"]), widths, DROPOUT)
        if is_warm:
            member = self._restored(self.warm[number]).train()
        encoded = (encode(data.x) - self.scales["x_mean"]) / self.scales["x_std"]
        base = handbook(data.x)
        optimiser = torch.optim.AdamW(member.parameters(), weight_decay=1e-4)
        batches = max(1, len(encoded) // BATCH)
        rate = config.learning_rate * (WARM if is_warm else 1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rate, total_steps=config.epochs * batches
        )
        for epoch in range(config.epochs):
            if self.job.stopping:
                raise Interrupted
            total = 0.0
            for chosen in torch.randperm(len(encoded)).tensor_split(batches):
                loss = self._loss(member(encoded[chosen]), base[chosen], data, chosen)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.item() / batches
            if epoch % 10 == 0 or epoch == config.epochs - 1:
                step, steps = number * config.epochs + epoch + 1, config.folds * config.epochs
                self.job.progress(step, steps, f"member {number + 1}", loss=total)
        return member.eval()

    def _loss(self, raw: Tensor, base: Tensor, data: Data, chosen: Tensor) -> Tensor:
        """MSE + energy balance + zone coupling + bounds, each in standard deviations."""
        y, x, weight = data.y[chosen], data.x[chosen], data.weight[chosen]
        y_mean, y_std = self.scales["y_mean"], self.scales["y_std"]
        units = base + raw * y_std + y_mean
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
        fit = _mean_square(units / y_std, y[:, :PREDICTED] / y_std, weight)
        scale = y_std[[0, 1, 2, 3, 6]].norm()
        balance = _mean_square(closed[:, None] / scale, y[:, -1:] / scale, weight)
        coupling = _mean_square(apart / y_std[4], truly_apart / y_std[4], weight)
        return (
            fit
            + self.config.balance_weight * balance
            + self.config.coupling_weight * coupling
            + self.config.bounds_weight * (outside**2).mean()
        )


def scales(data: Data) -> dict[str, Tensor]:
    """Mean and deviation of the encoded inputs and of what the targets differ from the handbook,
    those that were not measured left out."""
    encoded = encode(data.x)
    targets = data.y[:, :PREDICTED] - handbook(data.x)
    known = ~targets.isnan()
    count = known.sum(0).clamp(min=1)
    mean = torch.nan_to_num(targets).sum(0) / count
    deviation = torch.where(known, torch.nan_to_num(targets) - mean, 0.0)
    return {
        "x_mean": encoded.mean(0),
        "x_std": encoded.std(0).clamp(min=1e-6),
        "y_mean": mean,
        "y_std": torch.sqrt((deviation**2).sum(0) / count).clamp(min=1e-6),
    }


def states(members: list[Member]) -> list[dict[str, Any]]:
    """What members.pt keeps of each member: its widths and its weights."""
    return [{"widths": member.widths, "state": member.state_dict()} for member in members]


def going_on(champion: Path) -> dict[str, Any] | None:
    """What members go on from; None where the champion was encoded in another way."""
    saved = torch.load(champion / "members.pt")
    features = encode(torch.ones(1, len(INPUTS))).shape[1]
    return saved if len(saved["scales"]["x_mean"]) == features else None


def _mean_square(predicted: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean square of the differences to what was measured (not NaN)."""
    known = ~truth.isnan()
    # the difference must not meet NaN: the gradient of NaN × 0 is NaN
    difference = torch.where(known, predicted - torch.nan_to_num(truth), 0.0)
    weights = known * weight[:, None]
    return (difference**2 * weights).sum() / weights.sum().clamp(min=1e-9)


def relative_error(mean: Tensor, y: Tensor) -> float:
    """Mean absolute error of the four loads over their mean, a fraction."""
    y = y[:, :LOADS]
    known = ~y.isnan()
    error = torch.where(known, mean[:, :LOADS] - y, 0.0).abs().sum()
    return float(error / torch.where(known, y, 0.0).abs().sum())


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
    unit = torch.from_numpy(np.nanstd(data.y.numpy(), axis=0)).clamp(min=1.0)
    # members may agree on most designs, e.g. that nothing is cooled
    floors = {
        kind: torch.maximum(each.median(0).values, 0.001 * unit)
        for kind, each in (("ensemble", spread), ("mc_dropout", dropped))
    }
    kinds = {
        "constant": torch.ones_like(mean),
        "ensemble": spread + floors["ensemble"],
        "mc_dropout": dropped + floors["mc_dropout"],
    }
    quantiles = {kind: _quantile(error / scale, confidence) for kind, scale in kinds.items()}
    widths = {kind: float((quantiles[kind] * scale / unit).mean()) for kind, scale in kinds.items()}
    ensemble.constant = widths["constant"] < widths["ensemble"]
    ensemble.quantile = quantiles["constant" if ensemble.constant else "ensemble"]
    ensemble.floor = floors["ensemble"]
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
    config = job.config
    given = {name: job.input(name) for name in job.spec.inputs}
    observed = memory = champion = None
    if "observations" in given:
        observed = designs.from_observations(given["observations"], config.generation)
    if "champion" in given:
        memory = pd.read_parquet(given["champion"] / "memory.parquet")
        champion = going_on(given["champion"])
    simulated = designs.from_simulation(given["simulated"], config.generation, config.seed)
    table = designs.gather(simulated, observed, memory)
    parts = {part: table[table["part"] == part] for part in designs.PARTS}
    fitted, calibrates = to_data(parts["train"], config.real_share), to_data(parts["calibrate"])
    ensemble, fold_error = Trainer(job, fitted, champion).ensemble()
    widths = calibrate(ensemble, calibrates, config.confidence)
    folder = job.scratch / "candidate"
    exported = export.write(ensemble, calibrates.x, calibrates.y, config.confidence, folder)
    kept = {"members": states(list(ensemble.members)), "scales": ensemble.scales}
    torch.save(kept, folder / "members.pt")
    seed = config.seed + config.generation
    designs.remember(table, config.replay, seed).to_parquet(folder / "memory.parquet")
    parts["held_out"].to_parquet(job.scratch / "held_out.parquet")
    return Outcome(
        {
            "fold_error": fold_error,
            "designs": float(len(parts["train"])),
            "replayed": float((parts["train"]["generation"] < config.generation).sum()),
            "observations": float(table["real"].sum()),
            "warm": float(min(len(champion["members"]), config.folds) if champion else 0),
            "parameters": float(sum(p.numel() for p in ensemble.parameters())),
            **widths,
            **exported,
        },
        {"candidate": folder, "held_out": job.scratch / "held_out.parquet"},
    )


if __name__ == "__main__":
    main(TrainConfig, program)
