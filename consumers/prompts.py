"""What models are asked and how their answers become files: versioned pure functions.

The implementer's prompt is made from the requirements text alone: it cannot show anything of the source or the tests.
"""

from collections.abc import Sequence

from schemas.events import File

VERSION = "lab/1"

REBUILT_FILE = "app.py"


def requirements_prompt(source: Sequence[File]) -> str:
    """The question put to CET-D: the source itself. Raises ValueError on anything but one UTF-8 file."""
    if len(source) != 1:
        raise ValueError(f"the lab's policy reads applications of one file, this one has {len(source)}")
    return source[0].content.decode()


def implementation_prompt(requirements: str) -> str:
    """The question put to an implementer: the requirements, and nothing else."""
    return requirements


def rebuilt_files(answer: str) -> tuple[File, ...]:
    """The files an implementer's answer stands for."""
    return (File(path=REBUILT_FILE, content=answer.encode()),)
