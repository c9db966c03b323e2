"""The verifiable reward of the design domain, with the signature of TRL's reward functions."""

from typing import Any

from jobs.design.parts import Verification, verify

PARSES, RIGHT_PART, PARAMETERS, VALID = 0.1, 0.1, 0.4, 0.1
"""Partial credit; the rest of 1.0 is for full success alone."""


def reward(completions: list[str], target: list[str], **_: Any) -> list[float]:
    """0 to 1 for each completion: partial credit, 1.0 only where everything is right."""
    return [_grade(verify(t, c)) for t, c in zip(target, completions, strict=True)]


def success(completions: list[str], target: list[str], **_: Any) -> list[float]:
    """1.0 where the completion is the part that was asked for and can be made, else 0.0."""
    return [float(verify(t, c).success) for t, c in zip(target, completions, strict=True)]


def _grade(found: Verification) -> float:
    if found.success:
        return 1.0
    return (
        PARSES * found.parses
        + RIGHT_PART * found.right_part
        + PARAMETERS * found.parameters_right
        + VALID * (found.right_part and found.geometry_valid)
    )
