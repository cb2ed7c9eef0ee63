"""Tree of typed errors; each names the field or file at fault, the problem and the remedy."""

from l2c_ray.printable import printable


class L2CError(Exception):
    """Base of all errors that this package raises on purpose.

    Text from outside in its parts is shown in one bounded line without secrets.

    Args:
        subject: the config key, field, file or address at fault.
        problem: its fault.
        remedy: the user's way out.
    """

    exit_code = 1

    def __init__(self, subject: str, problem: str, remedy: str) -> None:
        self.subject, self.problem, self.remedy = map(printable, (subject, problem, remedy))
        super().__init__(self.subject, self.problem, self.remedy)

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}; {self.remedy}"


class OutputError(L2CError):
    """Standard output is closed, so that results are lost."""


class InvalidInputError(L2CError):
    """Input that cannot be used; nothing was started (exit code 2)."""

    exit_code = 2


class ConfigError(InvalidInputError):
    """A config key is unknown, missing or out of range."""


class ScheduleError(InvalidInputError):
    """A schedule is corrupt, foreign, or not made for this model and sampler."""


class CheckpointError(InvalidInputError):
    """Model weights are missing, corrupt or of another shape."""


class StorageError(InvalidInputError):
    """A folder cannot be read or written."""


class ResourcesError(InvalidInputError):
    """The cluster is too small for what the config asks."""


class UnreachableError(L2CError):
    """A server does not answer."""


class RegistryError(InvalidInputError):
    """A registered model, version or alias does not exist or is not a schedule."""


class IntegrityError(RegistryError):
    """The stored content of a version differs from the registered one."""


class ConflictError(L2CError):
    """Another process changed the same entry of the registry first; nothing was changed here."""


class GateError(L2CError):
    """A measurement exceeds a limit, so nothing was moved (exit code 3)."""

    exit_code = 3


class SamplingError(L2CError):
    """Sampling gave no images."""


class EncodingError(L2CError):
    """Encoding images gave no latents."""


class LearningError(L2CError):
    """Learning failed while it ran, for instance with a non-finite loss."""


class SearchError(L2CError):
    """A study ended without a schedule."""


class LearningStoppedError(L2CError):
    """Learning stopped on request, after a checkpoint."""
