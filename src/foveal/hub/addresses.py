"""What a run on the hub is called, `hf://owner/name` or `hf://owner/name@revision`, and what refusals of it mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.errors import FovealError, HubError, UsageError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"({_PART})/({_PART})")


@dataclass(frozen=True)
class Address:
    """repository: owner/name. revision: a branch, tag or commit; None is the repository's newest."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


def address_of(run: str | os.PathLike[str]) -> Address | None:
    """The address that `run` is, or None for a path; UsageError for what begins as an address and is none."""
    text = os.fspath(run)
    # One slash is enough: an address that became a Path has lost the other.
    if not text.startswith("hf:/") or Path(text).exists():
        return None
    name, at, revision = text.removeprefix("hf:").lstrip("/").partition("@")
    if at and not revision:
        raise UsageError(f"{text}: has no revision behind the @; write hf://owner/name@revision, or leave out the @")
    return Address(check_repository(name), revision or None)


def check_repository(name: str) -> str:
    """The name, if a repository can have it; UsageError otherwise."""
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(f"{name!r} is no repository's name: write owner/name in letters, digits, '-', '_' and '.'")
    return name


def hub_library() -> Any:
    """The module huggingface_hub; UsageError says how to install it."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UsageError('huggingface_hub is not installed: pip install "foveal[hub]"') from None
    return huggingface_hub


def endpoint() -> str | None:
    """Where the hub is, if not where huggingface_hub looks; asked at each call, since that looks only when imported."""
    return os.environ.get("HF_ENDPOINT") or None


def is_out_of_reach(error: Exception) -> bool:
    """Whether the hub did not answer at all, or answered that it is down."""
    errors = hub_library().errors
    if isinstance(error, errors.HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    # HfHubHTTPError's own base is the base of whatever the HTTP library calls a lost connection.
    lost = errors.HfHubHTTPError.__mro__[1], errors.LocalEntryNotFoundError, ConnectionError, TimeoutError
    return isinstance(error, lost)


@contextmanager
def hub_errors(address: Address) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence that says what to do."""
    errors = hub_library().errors
    try:
        yield
    except FovealError:
        raise
    except errors.GatedRepoError:
        raise HubError(
            f"{address}: its owner gives it only to those who asked; ask on its page, then log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{address}: there is no such model repository, or it is private and your token may not see it; check the "
            "name, or log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{address}: the repository has no revision {address.revision!r}; check its branches") from None
    except errors.OfflineModeIsEnabled:
        raise HubError(
            f"{address}: HF_HUB_OFFLINE is set, so the hub is not asked, and its cache has no such run; unset it, or "
            "give a run's folder"
        ) from None
    except Exception as error:
        raise _other(address, error) from None


def _other(address: Address, error: Exception) -> HubError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if is_out_of_reach(error):
        return HubError(f"{address}: the hub cannot be reached ({reason}); check the network and try again")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return HubError(
            f"{address}: the hub refuses your token ({reason}); log in with `hf auth login`, with a token that has the "
            "right to it"
        )
    return HubError(f"{address}: the hub refused ({reason})")
