"""Commands about pretrained weights: `weights list`, `weights pull`, `weights verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from mien.cli.data_commands import JsonOption, WeightsOption
from mien.cli.errors import EXIT_INPUT, print_json, reported, use_weights_directory
from mien.core.progress import say
from mien.core.weights import WEIGHTS_VARIABLE

app = typer.Typer(
    help="Pretrained weights: what is here, fetching it, and whether it is what it was.", no_args_is_help=True
)


@app.command("list")
@reported
def list_weights(weights_dir: WeightsOption = None, as_json: JsonOption = False) -> None:
    """List the weights that mien knows, their licences, and whether they are here."""
    use_weights_directory(weights_dir)
    from mien.core.weight_sources import CATALOGUE, state_of

    rows = []
    for entry in CATALOGUE:
        state, folder = state_of(entry)
        rows.append(
            {"name": entry.name, "what": entry.what, "licence": entry.licence, "source": entry.source, "state": state,
             "folder": folder}
        )  # fmt: skip
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    from mien.cli.tables import table_console

    table = Table("weights", "what for", "licence", "here?")
    for row in rows:
        table.add_row(row["name"], row["what"], row["licence"], row["folder"] or row["state"])
    table_console().print(table)


@app.command("pull")
@reported
def pull_weights(
    name: Annotated[str, typer.Argument(help="Name of the weights, or all.")],
    weights_dir: WeightsOption = None,
) -> None:
    """Fetch weights into the weights directory. This is the only command that uses the network."""
    use_weights_directory(weights_dir)
    from mien.core.weight_sources import CATALOGUE, find_weights_entry, pull, state_of

    entries = CATALOGUE if name == "all" else (find_weights_entry(name),)
    for entry in entries:
        state, folder = state_of(entry)
        if state in ("there", "verified"):
            say(f"{entry.name} is here already: {folder}")
            continue
        told: dict[str, int] = {}

        def tell(file: str, done: int, total: int | None, told: dict[str, int] = told) -> None:
            share = 100 * done // total if total else 0
            if share >= told.get(file, 0) + 10 or file not in told:
                told[file] = share
                say(f"  {file}: {done / 1e6:.1f} MB" + (f" of {total / 1e6:.1f}" if total else ""))

        say(f"{entry.name} ({entry.licence}, {entry.source})")
        say(f"Fetched into {pull(entry, on_bytes=tell)}")


@app.command("verify")
@reported
def verify_weights(weights_dir: WeightsOption = None, as_json: JsonOption = False) -> None:
    """Compare the weights that are here with what they must be. Exit 2 where some changed."""
    use_weights_directory(weights_dir)
    from mien.core.weight_sources import CATALOGUE, state_of

    found = {entry.name: state_of(entry)[0] for entry in CATALOGUE}
    if as_json:
        print_json(found)
    else:
        for name, state in found.items():
            said = {
                "verified": "as it was fetched",
                "there": "here, but nobody wrote down what it must be",
                "missing": f"not here; `mien weights pull {name}` fetches it",
                "changed": "CHANGED since it was fetched; delete the folder and pull it again",
            }[state]
            typer.echo(f"{name}: {said}")
        if all(state == "missing" for state in found.values()):
            say(f"Looked in the folder that --weights-dir or {WEIGHTS_VARIABLE} names.")
    if "changed" in found.values():
        raise typer.Exit(EXIT_INPUT)
