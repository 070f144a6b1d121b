"""The command that lets a person go: `purge`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.data_commands import DryRunOption, JsonOption
from mien.cli.errors import print_json, reported
from mien.core.progress import say


@reported
def purge(
    dataset: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    participant: Annotated[str, typer.Argument(help="Id of the participant; `mien inspect` lists them.")],
    search: Annotated[
        list[Path] | None,
        typer.Option("--search", help="Folder below which results are looked for (default: the dataset's)."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a participant from a dataset, its cache, runs and reports, and mark bundles that were trained on them."""
    from mien.purge.run import find_purge, run_purge

    found = find_purge(dataset, participant, search=search or ())
    if not as_json:
        _show(found.to_json())
    if dry_run:
        if as_json:
            print_json(found.to_json())
        return
    if not yes and sys.stdin.isatty() and not as_json:
        typer.confirm("This can't be undone. Delete?", abort=True, err=True)
    run_purge(found)
    if as_json:
        print_json(found.to_json())
    say(
        f"{participant} is gone from these. Not touched: the study's own files, from which `mien prepare` would bring "
        "them back; copies and results elsewhere (name their folders with --search); recordings of others that show "
        "them; scores that were averaged over everybody."
    )
    if found.results.same:
        say(f"An audit took {', '.join(found.results.same)} for the same person: purge these ids as well.")
    if found.bundles:
        say("The weights of the bundles still hold what was learnt: train them again, and delete these.")
    if found.results.exports:
        say("So do the exports: make them again from the new bundles, and delete these.")
    if any(output.kept for output in found.results.outputs):
        say("Kept, as mien didn't write it or it was changed since: look yourself, and delete what shows them.")


def _show(found: dict[str, list[str]]) -> None:
    count = len(found["recordings"])
    say(f"{found['participant']}: {count} recording{'' if count == 1 else 's'} in {found['dataset']}")
    for title in ("files", "runs", "bundles", "outputs", "exports", "kept"):
        say(f"  {title}: {len(found[title])}")
        for path in found[title][:20]:
            say(f"    {path}")
