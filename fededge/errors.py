"""Every error that FedEdge raises on purpose.

    FedEdgeError
    ├── InputError              what the user asked for cannot be done as asked
    │   └── WorkloadError       a workload is unknown, broken, or its data is
    │       └── MissingDataError    its data are not here
    ├── SetupError              something that must be installed or configured is not
    ├── ClusterError            Kubernetes refuses, or does not answer; carries the HTTP status
    ├── RegistryError           a registry or Harbor refuses, or does not answer; carries the HTTP status
    ├── ImageError              an image may not be used: its scan, or that there is none
    ├── KubeflowError           Kubeflow Pipelines refuses, or does not answer; carries the HTTP status
    ├── StoreError              the store did not do its part
    │   ├── StoreUnavailableError   unreachable, refuses the credentials, read-only, full
    │   ├── NotFoundError       no such key
    │   ├── ExistsError         the key is taken and keys are written once
    │   ├── ConflictError       somebody else wrote first
    │   ├── CorruptError        bytes are not what their digest or header says
    │   ├── TooLargeError       a value has more bytes than may be read
    │   └── FormatError         written by another FedEdge
    ├── UpdateError             one client's update cannot be used; carries a reason code
    ├── RolloutError            a version could not be brought to the requests, and was taken back
    ├── RunError                a run of a pipeline failed; its log says why
    └── RoundError              the round cannot go on
        ├── LeaseError          another run works on the training
        ├── QuorumError         too few usable updates
        └── NonFiniteModelError the new model has NaN or infinite weights

The message of each is one line for the person at the keyboard: what is wrong, and what to do.
`exit_code` is what the command line returns for it.
"""

from __future__ import annotations


class FedEdgeError(Exception):
    """Base of all; catching it catches no programming error."""

    exit_code = 1


class InputError(FedEdgeError):
    exit_code = 2


class WorkloadError(InputError):
    pass


class MissingDataError(WorkloadError):
    pass


class SetupError(FedEdgeError):
    exit_code = 3


class ClusterError(FedEdgeError):
    """Kubernetes did not do what it was asked for.

    Attributes:
      status: of HTTP, such as 404 (not there), 409 (there, or changed meanwhile), 410 (too old); 0 is no answer.
      reason: Kubernetes' own word for it, such as AlreadyExists or Conflict.
      detail: what it said, in full.
      retry_after: seconds for which it asked to be left alone.
    """

    exit_code = 6

    def __init__(
        self, message: str, status: int = 0, reason: str = "", detail: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after


class RegistryError(FedEdgeError):
    """A registry or Harbor did not do what it was asked for.

    Attributes:
      status: of HTTP; 0 is no answer.
    """

    exit_code = 7

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ImageError(FedEdgeError):
    exit_code = 8


class KubeflowError(FedEdgeError):
    """Kubeflow Pipelines did not do what it was asked for.

    Attributes:
      status: of HTTP, such as 401 (log in), 403 (not allowed), 409 (there already); 0 is no answer.
      passes: asking again may help.
      retry_after: seconds for which it asked to be left alone.
    """

    exit_code = 9

    def __init__(self, message: str, status: int = 0, *, passes: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.passes = passes
        self.retry_after = retry_after


class StoreError(FedEdgeError):
    exit_code = 4


class StoreUnavailableError(StoreError):
    pass


class NotFoundError(StoreError):
    pass


class ExistsError(StoreError):
    pass


class ConflictError(StoreError):
    pass


class CorruptError(StoreError):
    pass


class TooLargeError(StoreError):
    pass


class FormatError(StoreError):
    pass


class UpdateError(FedEdgeError):
    """One client's update cannot be used.

    Attributes:
      reason: an `ExclusionReason`, which goes into the version's manifest.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RolloutError(FedEdgeError):
    exit_code = 10


class RunError(FedEdgeError):
    pass


class RoundError(FedEdgeError):
    exit_code = 5


class LeaseError(RoundError):
    pass


class QuorumError(RoundError):
    pass


class NonFiniteModelError(RoundError):
    pass


# What reading a value of the store raises when that value is not as it should be.
UNREADABLE = (CorruptError, FormatError, NotFoundError, TooLargeError)
