"""Arguments -> library call -> exit code.

Exit codes: 0 done, 1 it was tried and failed (or `inspect` found problems), 2 the call was wrong, 130 Ctrl-C.
A traceback is shown only with FOVEAL_TRACEBACK=1. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import difflib
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from foveal.compiled import said_of_kernels
from foveal.engine.allocator import keep_freed_memory
from foveal.errors import FovealError, UsageError

HELP = """\
Foveal: train, understand and use a dense object detector (RetinaNet with the focal loss).

usage: foveal COMMAND ...        foveal COMMAND --help tells all of a command's options

  demo       write a small data set, train on it, evaluate, draw: five minutes on two cores
  inspect    what is in a data set, what is wrong with it, and whether the anchors reach its objects
  train      train a detector on a data set
  evaluate   COCO and VOC numbers of a run, or of a file of detections
  predict    find objects in pictures, folders and videos
  losses     who holds the class loss of a run: the hard anchors or the easy ones
  mine       rank what a run finds hard, and labels that are probably wrong
  bootstrap  label more pictures with a run, and train on both
  import     a run from another project's RetinaNet checkpoint
  push       put a run onto the Hugging Face hub
  export     a file of a run that runs without Foveal: ONNX, OpenVINO
  benchmark  how fast a run is on this machine, with each engine

  foveal train data/cells --preset light --out runs/cells
  foveal evaluate runs/cells data/cells --split test
  foveal predict runs/cells smear.jpg --out found --draw
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; the console script's entry."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
    # OpenCV and its FFmpeg write of a video they cannot read, before we say so; both look here when they are loaded.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    for noisy in ("accelerate", "tensorboard", "PIL", "matplotlib", "httpx", "httpx2", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return _run(words)
    except SystemExit as exit:  # tyro printed help or a parse error
        return exit.code if isinstance(exit.code, int) else 2
    except BrokenPipeError:  # the reader of our output left: `foveal ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("foveal: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("FOVEAL_TRACEBACK"):
            raise
        print(f"foveal: {_told(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, FovealError) else 1


def _told(error: Exception) -> str:
    if isinstance(error, FovealError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; check the path, its permissions and the free space"
    return (
        f"{type(error).__name__}: {error}. This should not happen: run it again with FOVEAL_TRACEBACK=1 "
        "and report what is printed"
    )


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if words else 2
    if words[0] in ("--version", "-V"):
        import foveal

        print(f"foveal {foveal.__version__}\ncompiled kernels: {said_of_kernels()}")
        return 0
    from foveal.commands import COMMANDS

    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no command {name!r}{hint} (commands: {', '.join(COMMANDS)})")
    command = _parse(COMMANDS[name], name, rest)
    # Commands go over picture after picture, in a process that is theirs.
    keep_freed_memory()
    return int(command.run())


def _parse(command: type, name: str, words: list[str]) -> Any:
    import tyro
    from pydantic import ValidationError

    from foveal.config import explain_all

    options: dict[str, Any] = {}
    if any(f.name == "settings" for f in fields(command)):
        words = _with_short_names(words)
        # Preset and file become the defaults that flags change and that --help shows.
        required = {f.name: tyro.MISSING for f in fields(command) if f.default is f.default_factory is MISSING}
        options["default"] = command(**required, settings=_base_config(words))
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(command, prog=f"foveal {name}", args=words, **options)
    except ValidationError as error:
        raise UsageError(explain_all(error)) from None
    except SystemExit as exit:
        # tyro has drawn a box by then; around a setting's own words it would show pydantic's.
        if (fault := _validation_error_behind(exit)) is not None:
            raise UsageError(explain_all(fault)) from None
        if exit.code:
            shown = io.StringIO()
            with redirect_stdout(shown), suppress(SystemExit):
                tyro.cli(command, args=["--help"], **options)
            if unknown := _unknown_options(shown.getvalue(), words):
                raise UsageError(unknown) from None
        sys.stderr.write(told.getvalue())
        raise


def _unknown_options(help: str, words: list[str]) -> str:
    """A line for each flag that a command's help does not name, with the nearest one that it names."""
    known = set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", help))
    # --stesp is near to no flag but to the last part of --train.steps.
    by_last_part = {"--" + flag.lstrip("-").rpartition(".")[2]: flag for flag in sorted(known, reverse=True)}
    by_name = {**by_last_part, **{flag: flag for flag in known}}
    lines = []
    for word in words:
        flag = word.partition("=")[0]
        if not flag.startswith("--") or flag == "--" or flag.replace("_", "-") in known:
            continue
        near = difflib.get_close_matches(flag, by_name, 1)
        lines.append(f"there is no option {flag}" + (f"; did you mean {by_name[near[0]]}?" if near else ""))
    return "\n".join(lines)


def _validation_error_behind(exit: BaseException) -> Any:
    """The pydantic error that made tyro exit, None if it was something else."""
    from pydantic import ValidationError

    cause: BaseException | None = exit
    while cause is not None and not isinstance(cause, ValidationError):
        cause = cause.__cause__ or cause.__context__
    return cause


# So common that they go without their group.
_SHORT_NAMES = {"--minutes": "--train.minutes", "--skip-bad": "--data.skip-bad"}


def _with_short_names(words: list[str]) -> list[str]:
    spelled = []
    for word in words:
        flag, equals, value = word.partition("=")
        spelled.append(_SHORT_NAMES.get(flag, flag) + equals + value)
    return spelled


def _base_config(words: list[str]) -> Any:
    """Preset (or the settings of the run that goes on) and YAML file as the defaults that flags then change."""
    from foveal.config import load_config, starting_config

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", default=None)
    parser.add_argument("--config", default=None)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction)
    parser.add_argument("--out", type=Path, default=None)
    try:
        known, _ = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}") from None
    config = starting_config(known.preset, known.out if known.resume else None)
    return load_config(known.config, config) if known.config else config


if __name__ == "__main__":
    sys.exit(main())
