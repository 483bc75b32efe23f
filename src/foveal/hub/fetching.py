"""From `hf://owner/name` to a run's folder: the needed files in the hub's cache, checked before anything is loaded."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from foveal.hub.addresses import Address, address_of, endpoint, hub_errors, hub_library, is_out_of_reach
from foveal.hub.strangers import DESCRIPTION, OPTIONAL, WEIGHTS, check_listing, check_run


def local_run(run: str | os.PathLike[str]) -> Path:
    """The folder of a run: a path as it is; an address downloaded, once a revision, and checked."""
    address = address_of(run)
    if address is None:
        return Path(run)
    folder = _fetched(address)
    check_run(folder, str(address))
    return folder


def _fetched(address: Address) -> Path:
    """The files that make the run, all of one commit; where the hub is out of reach, as they were fetched before."""
    hub = hub_library()
    with hub_errors(address):
        try:
            found = hub.HfApi(endpoint=endpoint()).model_info(
                address.repository, revision=address.revision, files_metadata=True
            )
            files = check_listing(str(address), {one.rfilename: one.size for one in found.siblings or []})
        except Exception as error:
            if not is_out_of_reach(error):
                raise
            before = _from_cache(address)
            if before is None:
                raise
            return before
        # By the commit whose sizes were looked at: a branch may have moved since.
        folder = Path(
            hub.snapshot_download(address.repository, revision=found.sha, allow_patterns=files, endpoint=endpoint())
        )
        _note_commit(folder, address)
        return folder


def _note_commit(folder: Path, address: Address) -> None:
    """Says in the hub's cache where the branch stood, as a download by its name does: who is offline later asks there.

    A cache that may only be read is used as it is.
    """
    branch = address.revision or "main"
    note = folder.parents[1] / "refs" / branch
    beside = note.with_name(f".{note.name}.part")
    if branch == folder.name:
        return
    with suppress(OSError):
        if note.is_file() and note.read_bytes() == folder.name.encode():
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(folder.name)
        os.replace(beside, note)


def _from_cache(address: Address) -> Path | None:
    hub = hub_library()
    try:
        return Path(
            hub.snapshot_download(
                address.repository,
                revision=address.revision,
                allow_patterns=[*DESCRIPTION, *OPTIONAL, *WEIGHTS],
                local_files_only=True,
            )
        )
    except hub.errors.LocalEntryNotFoundError:
        return None
