"""Judges of two answers, and what stands where a reward would."""

from collections.abc import Sequence
from typing import Any

from infra.errors import InputError
from jobs.policy.data import Prompt
from jobs.policy.reward import accepted_arguments, arguments_of, load_function


def undecided(completions: Sequence[Any], **_: Any) -> list[float]:
    """0 for every answer: with a judge there is no reward."""
    return [0.0] * len(completions)


class Judge:
    """A function f(prompts, first, second, **columns) → probabilities that `first` is better."""

    def __init__(self, spec: str, source: Any = None) -> None:
        self.spec = spec
        self.function = load_function(spec, source, "--judge")
        self.accepted = accepted_arguments(self.function)

    def wins(
        self, prompts: Sequence[Prompt], ours: Sequence[str], theirs: Sequence[str]
    ) -> list[float]:
        """Probability that each of our answers is the better one, over both orders of asking.

        Raises InputError naming --judge for what is no probability.
        """
        forth = self._ask(prompts, ours, theirs)
        back = self._ask(prompts, theirs, ours)
        return [(p + 1 - q) / 2 for p, q in zip(forth, back, strict=True)]

    def _ask(
        self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]
    ) -> list[float]:
        arguments = arguments_of(prompts, first)
        arguments["first"] = arguments.pop("completions")
        arguments["second"] = arguments_of(prompts, second)["completions"]
        if self.accepted is not None:
            arguments = {name: v for name, v in arguments.items() if name in self.accepted}
        try:
            found = [float(value) for value in self.function(**arguments)]
        except Exception as error:
            raise InputError(
                f"--judge {self.spec} raised {type(error).__name__}: {error}",
                f"Correct the function; it is called as f({', '.join(arguments)}) with lists.",
            ) from error
        if len(found) != len(prompts) or not all(0 <= value <= 1 for value in found):
            raise InputError(
                f"--judge {self.spec} did not return {len(prompts)} probabilities",
                "Return for each prompt the probability, 0 to 1, that `first` is the better one.",
            )
        return found
