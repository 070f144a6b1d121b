"""The `mien` command."""

from __future__ import annotations

from typing import Annotated

import typer

from mien.cli import (
    audit_commands,
    data_commands,
    explain_commands,
    export_commands,
    machine_commands,
    model_commands,
    purge_commands,
    serve_commands,
    weights_commands,
)

app = typer.Typer(
    name="mien",
    help="From recordings of people and their annotations to emotion-recognition models that can be believed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("mien"))
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From recordings of people and their annotations to emotion-recognition models that can be believed."""


app.command("demo")(model_commands.demo)
app.command("prepare")(data_commands.prepare)
app.command("frames")(data_commands.frames)
app.command("inspect")(data_commands.inspect)
app.command("audit")(audit_commands.audit)
app.command("plan")(audit_commands.plan)
app.command("compare")(model_commands.compare)
app.command("train")(model_commands.train)
app.command("predict")(model_commands.predict)
app.command("explain")(explain_commands.explain)
app.command("export")(export_commands.export)
app.command("serve")(serve_commands.serve)
app.command("report")(model_commands.report)
app.command("purge")(purge_commands.purge)
app.command("models")(machine_commands.models)
app.add_typer(weights_commands.app, name="weights")
app.command("doctor")(machine_commands.doctor)


def run() -> None:
    """Run the command line."""
    app()
