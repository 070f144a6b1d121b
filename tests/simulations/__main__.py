"""Run the simulations in full and write what they measured into docs/evaluation.md: `make simulations`.

`python -m tests.simulations T1 T4` runs some of them and replaces only their tables.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from .registry import SIMULATIONS, Simulation
from .rows import Row, as_table

PAGE = Path(__file__).parents[2] / "docs/evaluation.md"


def main(names: list[str]) -> int:
    """Run the simulations named (none: all); what differs from expectation is said, and isn't an error."""
    unknown = [name for name in names if name not in SIMULATIONS]
    if unknown:
        print(f"Unknown simulation {', '.join(unknown)}. Known: {', '.join(SIMULATIONS)}.", file=sys.stderr)
        return 2
    contradicted = 0
    for name in names or SIMULATIONS:
        simulation = SIMULATIONS[name]
        print(f"{name}: {simulation.title}, {simulation.rounds} studies ...", flush=True)
        began = time.monotonic()
        rows = simulation.run(simulation.rounds)
        contradicted += sum(not row.agrees for row in rows)
        PAGE.write_text(replace_section(PAGE.read_text(encoding="utf-8"), name, section(name, simulation, rows)))
        print(f"{as_table(rows)}\n{name}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"{PAGE} is up to date; {contradicted} figures differ from what is expected.")
    return 0


def section(name: str, simulation: Simulation, rows: list[Row]) -> str:
    """Heading and table of one simulation."""
    heading = f"### {name}: {simulation.title}\n\nSeed {simulation.seed}; {simulation.rounds} studies per row."
    return f"{heading}\n\n{as_table(rows)}"


def replace_section(page: str, name: str, text: str) -> str:
    """Put the text between the markers of one simulation; markers that aren't there go to the end of the page."""
    begin, end = f"<!-- simulation {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{text}\n{end}"
    if begin not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.DOTALL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
