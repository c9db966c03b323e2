"""One night of policy improvement: first on the stored trajectories, then on fresh rollouts.

    python -m jobs.ppo.train JOB_FOLDER

Inputs: `prompts` (JSON lines), and optionally `base` (model folder), `champion` (candidate folder
of an earlier night), `trajectories` (JSON lines with behaviour log-probabilities), `reward` (the
user's file or folder). Artefact: `candidate`, a folder with `adapter/` in PEFT's format,
`value_head.safetensors` and `base.json`: that of the iteration after which the mean greedy reward
on training prompts that are set aside was highest. Metrics: that reward before, after the stored
trajectories and of the candidate, and what it took.

Iteration 0 is the stored night: one trust region, which moves a policy only so far; so every
further iteration samples afresh. Each begins with a seed of its own, and the checkpoint holds all
the rest, so that a killed and resumed run ends with the same weights, bit for bit on a CPU.
"""

import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from jobs.policy.best import Best, split
from jobs.policy.data import Prompt, Trajectory, read_prompts, read_trajectories
from jobs.policy.inputs import base_identity, job_reward
from jobs.policy.model import check_base, save_candidate
from jobs.policy.rollout import roll_out
from jobs.ppo.config import PPOConfig
from jobs.ppo.policy import greedy_reward, learning_rates, load_policy
from jobs.ppo.ppo import Experience, experience, kl_k3, update
from jobs.runtime import Interrupted, Job, Outcome, main, optional_input, stop_when_told


@dataclass
class State:
    """Where the night is. `iteration` is the next to do, 0 the stored trajectories."""

    iteration: int = 0
    position: int = 0
    episodes: int = 0
    seconds: float = 0.0
    reached: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


class Night:
    def __init__(self, job: Job[PPOConfig]) -> None:
        self.job, self.config = job, job.config
        self.prompts, self.apart = split(
            read_prompts(job.input("prompts")), self.config.probe_prompts
        )
        self.reward = job_reward(job)
        self.base = base_identity(job)
        self.state, self.best = State(), Best(self.config.patience)
        self.began = time.monotonic()
        champion = optional_input(job, "champion")
        if champion:
            check_base(champion, self.base)
        found = job.latest_checkpoint()
        torch.manual_seed(self.config.seed)
        random.seed(self.config.seed)
        np.random.seed(self.config.seed % 2**32)
        self.policy = load_policy(
            self.config, optional_input(job, "base"), found[1] if found else champion
        )
        adapter = [p for p in self.policy.model.parameters() if p.requires_grad]
        rate, value_rate = learning_rates(self.config, self.policy)
        values = list(self.policy.value_head.parameters())
        self.optimiser = torch.optim.AdamW(
            [
                {"params": adapter, "lr": rate},
                {"params": values, "lr": value_rate},
            ],
            weight_decay=0.0,
        )
        if found:
            self._restore(found[1])

    def run(self) -> Outcome:
        if "reward_before" not in self.state.metrics:
            self.state.metrics["reward_before"] = self._probe()
        while not self._finished():
            if self.state.iteration == 0:
                self._learn_from_stored()
            else:
                self._learn_from_fresh()
            self.state.iteration += 1
            self._checkpoint()
        self.best.put_back(self.policy)
        folder = self.job.scratch / "candidate"
        folder.mkdir(exist_ok=True)
        save_candidate(self.policy, folder, self.base)
        metrics = {
            "reward_after_rerolls": self.state.metrics["reward_before"],
            **self.state.metrics,
            **self.best.metrics,
            "validation_prompts": float(len(self.apart)),
            "iterations": float(self.state.iteration - 1),
            "episodes": float(self.state.episodes),
            "seconds": self._seconds(),
            "cut_at_window": float(self._late() and not self._done() and not self.state.reached),
        }
        return Outcome(metrics, {"candidate": folder})

    def _learn_from_stored(self) -> None:
        path = optional_input(self.job, "trajectories")
        stored = read_trajectories(path) if path else []
        fresh = [t for t in stored if self._staleness(t) <= self.config.max_staleness]
        trained = {prompt.text for prompt in self.prompts}
        validated = {prompt.text for prompt in self.apart} - trained
        usable = [t for t in fresh if t.prompt not in validated]
        self.state.metrics["stored_used"] = float(len(usable))
        self.state.metrics["stored_too_stale"] = float(len(stored) - len(fresh))
        self.state.metrics["stored_set_aside"] = float(len(fresh) - len(usable))
        if usable:
            batch = experience(self.policy, usable, self.config, check=self._check)
            drift = torch.cat([kl_k3(e.behaviour, e.start) for e in batch])
            self.state.metrics["stored_kl"] = float(drift.mean())
            self._improve(batch, self.config.stored_clip_high, "stored trajectories")
            self.state.metrics["reward_after_stored"] = self.best.reward
        else:
            self.state.metrics["reward_after_stored"] = self.state.metrics["reward_before"]

    def _learn_from_fresh(self) -> None:
        count = self.config.rollouts // self.config.samples_per_prompt
        prompts = [self._prompt(self.state.position + n) for n in range(count)]
        rolled, completions = roll_out(
            self.policy,
            prompts,
            self.reward,
            model_version=f"{self.config.policy_version}+{self.state.iteration}",
            samples=self.config.samples_per_prompt,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seed=self._seed(1),
            batch=self.config.rollout_batch,
            check=self._check,
            trainer_state=TrainerState(
                global_step=self.state.iteration, max_steps=self.config.iterations
            ),
        )
        batch = experience(self.policy, rolled, self.config, completions, check=self._check)
        self.state.position += count
        reward = self._improve(batch, self.config.clip_high, "fresh rollouts")
        target = self.config.target_reward
        self.state.reached = target is not None and reward >= target

    def _improve(self, batch: list[Experience], clip_high: float, message: str) -> float:
        """Update the policy on the batch, report it, and return the batch's mean reward."""
        generator = torch.Generator().manual_seed(self._seed(2))
        measured = update(
            self.policy, self.optimiser, batch, self.config, clip_high, generator, self._check
        )
        self.state.episodes += len(batch)
        rewards = [e.trajectory.reward for e in batch]
        reference = torch.cat([kl_k3(e.start, e.reference) for e in batch])
        reward = sum(rewards) / len(rewards)
        validation = self._probe()
        self.best.see(self.state.iteration, validation, self.policy)
        self.job.progress(
            self.state.iteration,
            self.config.iterations,
            message,
            reward=reward,
            validation=validation,
            kl=float(reference.sum()) / len(batch),
            length=len(reference) / len(batch),
            **measured,
        )
        return reward

    def _probe(self) -> float:
        return greedy_reward(self.policy, self.apart, self.reward, self.config, self._check)

    def _prompt(self, number: int) -> Prompt:
        """The `number`-th prompt of an endless pass over the data, shuffled anew each round."""
        turn, place = divmod(number, len(self.prompts))
        if turn != getattr(self, "_turn", None):
            self._turn, self._order = turn, list(range(len(self.prompts)))
            random.Random(f"{self.config.seed} {turn}").shuffle(self._order)
        return self.prompts[self._order[place]]

    def _staleness(self, trajectory: Trajectory) -> float:
        """Versions between the policy that sampled and the champion; infinite if unknown."""
        ours, theirs = self.config.policy_version, trajectory.model_version
        if ours == theirs:
            return 0
        if not (ours.isdecimal() and theirs.isdecimal()):
            return float("inf")
        return abs(int(ours) - int(theirs))

    def _finished(self) -> bool:
        early = self._late() or self.state.reached
        return self._done() or (early and self.state.iteration > 0)

    def _done(self) -> bool:
        return self.state.iteration > self.config.iterations or self.best.exhausted

    def _late(self) -> bool:
        return self.config.minutes is not None and self._seconds() > 60 * self.config.minutes

    def _check(self) -> None:
        stop_when_told(self.job)

    def _seed(self, purpose: int) -> int:
        """Of this iteration, and another for each purpose."""
        return ((self.config.seed << 24) + self.state.iteration) * 4 + purpose

    def _seconds(self) -> float:
        """Of training, of all attempts that reached a checkpoint."""
        return self.state.seconds + time.monotonic() - self.began

    def _checkpoint(self) -> None:
        due = self.state.iteration % self.config.checkpoint_interval == 0
        if due or self.job.stopping or self._finished():
            self.job.save_checkpoint(self.state.iteration, self._save)
        if self.job.stopping:
            raise Interrupted

    def _save(self, folder: Path) -> None:
        save_candidate(self.policy, folder, self.base)
        torch.save(
            {
                "state": {**asdict(self.state), "seconds": self._seconds()},
                "best": self.best.state(),
                "optimiser": self.optimiser.state_dict(),
                "torch": torch.get_rng_state(),
                "python": random.getstate(),
                "numpy": np.random.get_state(),
            },
            folder / "state.pt",
        )

    def _restore(self, folder: Path) -> None:
        with safe_globals():  # numbers of numpy, and no code
            saved = torch.load(folder / "state.pt", weights_only=True)
        self.state, self.best = State(**saved["state"]), Best(**saved["best"])
        self.optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["torch"])
        random.setstate(saved["python"])
        np.random.set_state(saved["numpy"])


def program(job: Job[PPOConfig]) -> Outcome:
    if job.config.algorithm != "ppo":
        from jobs.ppo.trl_trainers import train

        return train(job)
    return Night(job).run()


if __name__ == "__main__":
    main(PPOConfig, program)
