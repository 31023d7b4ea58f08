"""What can go wrong that is not a bug: one class per situation, one stable exit code each, always with a remedy.

0 done    1 a bug    2 bad input    3 a service is away    4 fenced: another process has this slot
5 two runs differ    6 an application was refused    7 busy: another command holds this home
8 an archive is damaged    9 a dead letter failed again    130 interrupted
"""


class Problem(Exception):
    """Something the person at the keyboard can mend. The message names the value; the remedy says what to do."""

    exit_code = 2

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message}\n  remedy: {remedy}")
        self.message = message
        self.remedy = remedy


class BadInput(Problem):
    """A value from outside is wrong: a setting, a specification, a file, an argument."""


class ServiceUnavailable(Problem):
    """Kafka, PostgreSQL or an engine cannot be reached, or did not answer in time."""

    exit_code = 3


class Fenced(Problem):
    """Another process took this slot or this run over. This one must stop and must not be restarted."""

    exit_code = 4


class RunsDiffer(Problem):
    """Two runs that were to be equal are not; the message names the first difference."""

    exit_code = 5


class ApplicationRefused(Problem):
    """An application cannot be taken in, and why."""

    exit_code = 6


class Busy(Problem):
    """Another command is already driving this home."""

    exit_code = 7


class ArchiveDamaged(Problem):
    """A file that holds a run is not as it was written. The message names the place; its bytes count from 0."""

    exit_code = 8

    def __init__(self, message: str, remedy: str = "", *, first_byte: int, last_byte: int) -> None:
        super().__init__(message, remedy)
        self.first_byte = first_byte
        self.last_byte = last_byte


class StillDead(Problem):
    """Records that could not be worked on were worked on again and failed again; each says why on the log."""

    exit_code = 9
