"""Commands about evidence: `audit` and `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.data_commands import JsonOption, WeightsOption
from mien.cli.errors import EXIT_REFUSED, print_json, reported, use_weights_directory
from mien.cli.options import SeedOption, parse_folds, require_training
from mien.core.progress import say

if TYPE_CHECKING:
    from rich.console import Console

OverrideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--override", help="Check of the audit whose failure shall not stop this; printed on every output. Repeatable."
    ),
]

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "not checked": "dim"}


@reported
def audit(
    dataset: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Name of the target; without it, people and clocks are checked only.")
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds of the checks that fit a model.")] = 5,
    seed: SeedOption = 0,
    pictures: Annotated[bool, typer.Option("--pictures", help="Show faces unblurred; you need consent.")] = False,
    weights_dir: WeightsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a dataset for what makes scores untrue: copies, leaks, nuisances. Exit 3 where a check fails."""
    use_weights_directory(weights_dir)
    from mien.audit.run import AUDIT_FILE, write_audit
    from mien.audit.standalone import run_audit
    from mien.core.storage import read_json
    from mien.data.dataset import Dataset
    from mien.report.audit_report import write_audit_report

    opened = Dataset.open(dataset)
    found = run_audit(opened, target=target, folds=folds, seed=seed)
    path = write_audit(found, dataset=opened, path=dataset / AUDIT_FILE)
    page = write_audit_report(path, picture=opened.picture, blurred=not pictures)
    result = read_json(path)
    if as_json:
        print_json(result)
    else:
        show_audit(result)
        say(f"Audit: {page}")
    if result["verdict"] == "fail":
        raise typer.Exit(EXIT_REFUSED)


@reported
def plan(
    dataset: Annotated[Path, typer.Argument(help="Folder of a dataset.")],
    target: Annotated[str, typer.Option("--target", help="Name of the target.")],
    models: Annotated[str, typer.Option("--models", help="NAME[@BACKBONE][+BASELINE], separated by commas.")],
    folds: Annotated[str, typer.Option("--folds", help="Number of folds, or loo (one group each).")] = "5",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Most epochs of each phase.")] = None,
    seed: SeedOption = 0,
    config: Annotated[Path | None, typer.Option("--config", help="YAML with settings; see docs/compare.md.")] = None,
    baseline: Annotated[str, typer.Option("--baseline", help="Personal baseline of models that name none.")] = "none",
    random_init: Annotated[
        bool, typer.Option("--random-init", help="As in compare: random weights where pretrained ones can't be had.")
    ] = False,
    metric: Annotated[str, typer.Option("--metric", help="The one metric that decides.")] = "balanced_accuracy",
    difference: Annotated[
        float, typer.Option("--smallest-difference", min=0.0, help="Smallest difference of interest.")
    ] = 0.05,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another plan that is there.")] = False,
    weights_dir: WeightsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write down what will be compared before any score is looked at; a comparison that follows it is confirmatory."""
    use_weights_directory(weights_dir)
    require_training("plan")
    from mien.core.storage import read_json
    from mien.crossval.plan import plan_lines, read_plan, write_plan
    from mien.training.settings import load_settings

    path = write_plan(
        dataset,
        target=target,
        models=models,
        baseline=baseline,
        folds=parse_folds(folds),
        seed=seed,
        settings=load_settings(config, epochs=epochs, random_init=random_init),
        metric=metric,
        smallest_difference=difference,
        replace=replace,
    )
    if as_json:
        print_json(read_json(path))
        return
    for line in plan_lines(read_plan(path)):
        say(line)
    say(f"Written: {path}")


def show_audit(result: dict[str, Any]) -> None:
    """Print the checks of an audit as a table."""
    from rich.table import Table
    from rich.text import Text

    from mien.cli.tables import table_console

    about = f" of {result['target']}" if result["target"] else ""
    table = Table("check", "", "found", title=f"Audit{about}: {result['verdict']}")
    for check in result["checks"]:
        said = check["detail"] if check["severity"] == "ok" else f"{check['detail']} {check['advice']}"
        table.add_row(check["title"], Text(check["severity"], style=STYLES[check["severity"]]), said)
    console: Console = table_console()
    console.print(table)
    for name, channel in result.get("channels", {}).items():
        console.print(f"{name}: " + ("refused, dropped before any fit" if channel["refused"] else channel["verdict"]))
    for ids in result["merged_participants"]:
        console.print(f"Counted as one participant: {', '.join(ids)}")
