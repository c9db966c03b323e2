"""Train the surrogate: an ensemble by k-fold, physics in the loss, one student, intervals, ONNX.

    python -m jobs.surrogate.train JOB_FOLDER

Inputs: `simulated` (Parquet of jobs.surrogate.simulate), optionally `observations` (JSON lines of
jobs.surrogate.collect) and `champion` (a candidate of before: its members go on learning, its
memory is learnt again). Climates, not single designs, are split into training, calibration and
held-out, so that what is measured is measured in weather never seen.
Artifacts: `candidate` (folder with the ONNX models, surrogate.json, members.pt and memory.parquet),
`held_out` (Parquet, see jobs.surrogate.data). Resumes after the last whole member.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.contract import LARGEST_SEED
from jobs.runtime import Interrupted, Job, Outcome, main
from jobs.surrogate import data as designs
from jobs.surrogate import distil, export
from jobs.surrogate.climates import Climates
from jobs.surrogate.config import INPUTS, LOADS, NEVER_NEGATIVE, SUN, TrainConfig
from jobs.surrogate.data import Data
from jobs.surrogate.network import (
    ARCHITECTURES,
    COMMON,
    PREDICTED,
    Ensemble,
    Member,
    Student,
    encode,
    scaled_features,
)

DROPOUT = 0.02
BATCH = 128
WEIGHT_DECAY = 0.3
WARM = 0.5
"""Of the learning rate, where a member goes on from the champion's."""
SMALLEST = 0.01
"""Deviation of a feature; with less of it in few climates, others would lie far away."""
HEATING, SETBACK = INPUTS.index("heating_setpoint"), INPUTS.index("setback")
COOLING = INPUTS.index("cooling_setpoint")


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
            done = torch.load(saved[1] / "members.pt", weights_only=True)
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
            return relative_error(Ensemble([member], self.scales).each(data.x)[0], data.y)

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
        features, base = encode(data.x)
        encoded, base = scaled_features(features, self.scales), base.T
        optimiser = torch.optim.AdamW(member.parameters(), weight_decay=WEIGHT_DECAY)
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
                self._tell(number, epoch + 1, f"member {number + 1}", total)
        return member.eval()

    def student(self, ensemble: Ensemble) -> Student:
        """The one network that learns from the ensemble and is exported."""
        base = encode(self.data.x)[1].T

        def label_loss(raw: Tensor, chosen: Tensor) -> Tensor:
            return self._loss(raw, base[chosen], self.data, chosen)

        def progress(epoch: int, loss: float) -> bool:
            self._tell(self.config.folds, epoch + 1, "student", loss)
            return self.job.stopping

        seed = self.config.seed * 1009 + self.config.generation
        return distil.teach(ensemble, self.data, self.config.epochs, seed, label_loss, progress)

    def _tell(self, number: int, epoch: int, name: str, loss: float) -> None:
        epochs = self.config.epochs
        steps = (self.config.folds + 1) * epochs
        self.job.progress(number * epochs + epoch, steps, name, loss=loss)

    def _loss(self, raw: Tensor, base: Tensor, data: Data, chosen: Tensor) -> Tensor:
        """MSE + energy balance + zone coupling + bounds, each in standard deviations."""
        y, x, weight = data.y[chosen], data.x[chosen], data.weight[chosen]
        y_mean, y_std = self.scales["y_mean"], self.scales["y_std"]
        units = base[:, :PREDICTED] + raw * y_std + y_mean
        closed = (units[:, 0] + units[:, 1] - units[:, 2] - units[:, 3]) / 2 + units[:, SUN]
        closed = closed + base[:, PREDICTED]
        apart, truly_apart = units[:, 4:5] - units[:, 5:6], y[:, 4:5] - y[:, 5:6]
        coldest = (x[:, HEATING] - x[:, SETBACK])[:, None]
        air = units[:, 4:6]
        outside = torch.cat(
            [
                torch.relu(-units[:, NEVER_NEGATIVE]) / y_std[NEVER_NEGATIVE],
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
    those that were not measured left out; the same for both rooms."""
    features, base = encode(data.x)
    targets = data.y[:, :PREDICTED] - base[:PREDICTED].T
    known = ~targets.isnan()
    count = known.sum(0).clamp(min=1)
    mean = torch.nan_to_num(targets).sum(0) / count
    differences = torch.where(known, torch.nan_to_num(targets) - mean, 0.0)
    variance = (differences**2).sum(0) / count
    return {
        "x_mean": _alike(features.mean(1), COMMON),
        "x_std": _alike(features.std(1), COMMON).clamp(min=SMALLEST),
        "y_mean": _alike(mean, 0),
        "y_std": _alike(variance, 0).sqrt().clamp(min=1e-6),
    }


def _alike(values: Tensor, first: int) -> Tensor:
    """Pairs, of front and back, from `first` on, each their mean; what has no pair stays."""
    end = first + (len(values) - first) // 2 * 2
    pairs = values[first:end].unflatten(0, (-1, 2)).mean(1).repeat_interleave(2)
    return torch.cat([values[:first], pairs, values[end:]])


def states(members: list[Member]) -> list[dict[str, Any]]:
    """What members.pt keeps of each member: its widths and its weights."""
    return [{"widths": member.widths, "state": member.state_dict()} for member in members]


def going_on(champion: Path) -> dict[str, Any] | None:
    """What members go on from; None where the champion was encoded in another way."""
    saved = torch.load(champion / "members.pt", weights_only=True)
    return saved if torch.equal(saved.get("probe", torch.empty(0)), probe()) else None


def probe() -> Tensor:
    """What the encoding makes of one design: other numbers, another encoding."""
    return encode(torch.ones(1, len(INPUTS)))[0]


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


def program(job: Job[TrainConfig]) -> Outcome:
    config = job.config
    given = {name: job.input(name) for name in job.spec.inputs}
    observed = memory = champion = None
    if "observations" in given:
        observed = designs.from_observations(given["observations"], config.generation)
    if "champion" in given:
        memory = designs.recall(given["champion"])
        champion = going_on(given["champion"])
    simulated = designs.from_simulation(given["simulated"], config.generation, config.seed)
    if memory is not None and (town := designs.only_weather(simulated)) is not None:
        memory = designs.in_weather(memory, town)
        champion = champion if len(memory) else None
    table = designs.gather(simulated, observed, memory)
    made = table[(table["part"] == "train") & ~table["real"].astype(bool)]
    climates = Climates.fit(made, Climates.load(given["champion"]) if champion else None)
    table, _ = climates.fill(table)
    parts = {part: table[table["part"] == part] for part in designs.PARTS}
    fitted, calibrates = (
        designs.to_data(climates.seen(parts["train"])[0], config.real_share),
        designs.to_data(climates.seen(parts["calibrate"])[0]),
    )
    trainer = Trainer(job, fitted, champion)
    ensemble, fold_error = trainer.ensemble()
    student = trainer.student(ensemble)
    with torch.no_grad():
        teacher_error = relative_error(ensemble.each(calibrates.x).mean(0), calibrates.y)
        student_error = relative_error(student.both(calibrates.x)[0].T, calibrates.y)
    widths = distil.calibrate(student, calibrates, config.confidence)
    folder = job.scratch / "candidate"
    climates = distil.widen(student, climates, parts["calibrate"], config.confidence)
    exported = export.write(student, calibrates.x, calibrates.y, config.confidence, folder)
    members = [member for member in ensemble.members if isinstance(member, Member)]
    kept = {"members": states(members), "scales": ensemble.scales}
    kept["probe"] = probe()
    torch.save(kept, folder / "members.pt")
    climates.save(folder)
    seed = (config.seed + config.generation) % (LARGEST_SEED + 1)
    designs.remember(table, config.replay, seed).to_parquet(folder / "memory.parquet")
    parts["held_out"].to_parquet(job.scratch / "held_out.parquet")
    return Outcome(
        {
            "fold_error": fold_error,
            "teacher_error": teacher_error,
            "student_error": student_error,
            "designs": float(len(parts["train"])),
            "replayed": float((parts["train"]["generation"] < config.generation).sum()),
            "observations": float(table["real"].sum()),
            "warm": float(min(len(champion["members"]), config.folds) if champion else 0),
            "parameters": float(sum(p.numel() for p in student.parameters())),
            **widths,
            **exported,
        },
        {"candidate": folder, "held_out": job.scratch / "held_out.parquet"},
    )


if __name__ == "__main__":
    main(TrainConfig, program)
