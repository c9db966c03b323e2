"""The error tree. Every error that a user can meet says what happened and what to change.

NightshiftError
├── InputError              a parameter, file or function that the user gave is not usable
├── SettingsError           a NIGHTSHIFT_* variable is missing or wrong
├── DatabaseUnavailable     PostgreSQL cannot be started or reached
├── ServiceUnavailable      the Prefect server cannot be started or reached
├── BudgetError
│   ├── BudgetExceeded      no room in a budget: nothing was launched
│   └── ReservationConflict the same key was used for something else, or is already closed
├── ObjectError
│   ├── ObjectNotFound
│   ├── ObjectAccessDenied
│   ├── StorageFull
│   └── IntegrityError      an artefact is torn, truncated, altered or already there
├── EnvironmentBuildError   a job environment cannot be made
├── LaunchError             no launcher can run the job
│   ├── NoCapacity          a provider has no room: another offer may have
│   └── ProviderUnavailable it cannot be asked now: a later start of the same run goes on
│       └── MachineLeft     a machine cannot be seen to be gone: it may cost on
├── JobError
│   ├── JobFailed           the job's own error and its last log lines
│   └── JobStopped          stopped by a person, or its money ended
├── GateError               a promotion without a verdict that allows it, a rollout rolled back
├── AlreadyRunning          another process is at the same work
└── Regressed               a benchmark got worse, and it was asked to be an error
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

REMEDY_MARK = "\n  → "


class NightshiftError(Exception):
    """Base of all. `exit_code` is what the CLI ends with."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}{REMEDY_MARK}{self.remedy}" if self.remedy else self.message

    def __reduce__(self):
        return type(self), (self.message, self.remedy)


def first_fault(error: "ValidationError") -> tuple[tuple[str, ...], str]:
    """Where a pydantic model is wrong first, and in which way, in words for people."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        given, form = first["input"], first.get("ctx", {}).get("pattern")
        message = f"{given!r} does not have the form {form}" if given.strip() else "it is empty"
    return tuple(map(str, first["loc"])), message


class InputError(NightshiftError):
    exit_code = 2


class SettingsError(NightshiftError):
    exit_code = 2


class DatabaseUnavailable(NightshiftError):
    exit_code = 4


class ServiceUnavailable(NightshiftError):
    exit_code = 4


class BudgetError(NightshiftError):
    exit_code = 3


class BudgetExceeded(BudgetError):
    pass


class ReservationConflict(BudgetError):
    pass


class ObjectError(NightshiftError):
    exit_code = 5


class ObjectNotFound(ObjectError):
    pass


class ObjectAccessDenied(ObjectError):
    pass


class StorageFull(ObjectError):
    pass


class IntegrityError(ObjectError):
    pass


class EnvironmentBuildError(NightshiftError):
    exit_code = 6


class LaunchError(NightshiftError):
    exit_code = 6


class NoCapacity(LaunchError):
    pass


class ProviderUnavailable(LaunchError):
    pass


class MachineLeft(ProviderUnavailable):
    pass


class ReservationExpired(LaunchError):
    pass


class JobError(NightshiftError):
    exit_code = 7


class JobFailed(JobError):
    pass


class JobStopped(JobError):
    pass


class GateError(NightshiftError):
    exit_code = 8


class AlreadyRunning(NightshiftError):
    exit_code = 9


class Regressed(NightshiftError):
    exit_code = 10
