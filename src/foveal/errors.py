"""The exceptions a user of Foveal can meet, as one tree.

    FovealError                 anything Foveal refuses; exit code 1
    ├── UsageError              the call itself is wrong: no such folder, unknown option; exit code 2
    │   └── ConfigError         a setting has an impossible value or an unknown name
    ├── DataError               the data set cannot be used as it is; carries the problems
    ├── ImageError              one picture cannot be read
    ├── WeightsError            a weight file is damaged or of another architecture
    ├── CheckpointError         a run folder cannot be continued or loaded
    ├── ExportError             a file could not be made, or would not find what PyTorch finds
    ├── HubError                the Hugging Face hub cannot be reached, or has not what was asked for, or refuses it
    ├── TrainingError           training stopped: a loss that is not finite, too little memory
    └── Interrupted             training was asked to stop, saved and can go on; exit code 130

Every message names what was found and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveal.data.table import Problem


class FovealError(Exception):
    """Anything that Foveal refuses to do. `exit_code` is what the command line answers with."""

    exit_code = 1


class UsageError(FovealError):
    """The call is wrong: nothing was tried."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting has an impossible value or a name that does not exist."""


class DataError(FovealError):
    """The data set cannot be used as it is; `problems` lists why, one entry a fault."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()):
        super().__init__(message)
        self.problems = list(problems)


class ImageError(FovealError):
    """One picture cannot be read; the message names the file."""


class WeightsError(FovealError):
    """A weight file is damaged, unsafe or made for another architecture."""


class CheckpointError(FovealError):
    """A run folder cannot be continued or loaded."""


class ExportError(FovealError):
    """An exported file could not be made, or would not find what PyTorch finds; none is left."""


class HubError(FovealError):
    """The Hugging Face hub cannot be reached, has not what was asked for, or refuses it."""


class TrainingError(FovealError):
    """Training stopped by itself; the message says where it stands and how to go on."""


class Interrupted(FovealError):  # noqa: N818 (nothing went wrong)
    """Training was asked to stop (Ctrl-C, SIGTERM); everything is saved and the message says how to go on."""

    exit_code = 130
