"""One tree of typed errors: each names the field or file at fault, what is wrong and the way out."""

from l2c_ray.printable import printable


class L2CError(Exception):
    """Base of every error that this package raises on purpose.

    Its parts may repeat text of others, which comes out in one line, bounded, and without secrets.

    Args:
        subject: the config key, field, file or address at fault.
        problem: what is wrong with it.
        remedy: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, subject: str, problem: str, remedy: str) -> None:
        self.subject, self.problem, self.remedy = map(printable, (subject, problem, remedy))
        super().__init__(self.subject, self.problem, self.remedy)

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}; {self.remedy}"


class OutputError(L2CError):
    """Standard output takes no more, so that results are lost."""


class InvalidInputError(L2CError):
    """What the user gave cannot be used; nothing was started (exit code 2)."""

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
    """A server that the work needs does not answer."""


class RegistryError(InvalidInputError):
    """A registered model, version or alias does not exist or is not a schedule."""


class IntegrityError(RegistryError):
    """What is stored of a version is not what was registered."""


class ConflictError(L2CError):
    """Somebody else changed the same thing of the registry first; nothing was changed here."""


class GateError(L2CError):
    """A measurement says no: a limit is not kept, so nothing was moved (exit code 3)."""

    exit_code = 3


class SamplingError(L2CError):
    """Sampling gave no images."""


class EncodingError(L2CError):
    """Encoding images gave no latents."""


class LearningError(L2CError):
    """Learning broke down while it ran, for instance with a non-finite loss."""


class SearchError(L2CError):
    """A study came to its end without a schedule."""


class LearningStoppedError(L2CError):
    """Learning was asked to stop and did so after its last checkpoint."""
