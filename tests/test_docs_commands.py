"""Every command of the README and the documents runs, in order, in a folder like its reader's, or says why it can't."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from doc_commands import (
    PAGES,
    ROOT,
    SHELL,
    PagePlan,
    Service,
    Step,
    all_options,
    check_words,
    commands,
    languages,
    mentioned,
    run_command,
    steps,
)
from mien.data.dataset import Dataset
from mien.demo.study import write_demo_study
from test_sound_only import PEOPLE, write_study

BENCHMARK = "takes from minutes to hours; tests/test_training_benchmarks.py runs what is inside"
MEASURES = "measures this machine for minutes; its options are checked"
CONTAINER = "no container engine in CI; tests/test_runtime_install.py serves from the same packages"
DEMO = {"make demo": "tests/test_demo.py runs its story"}
FEWER_FOLDS = {"--out run": "--folds 2 --out run"}
NEWCOMER = "demo/newcomer/video.mp4"

PLANS = {
    "README.md": PagePlan(not_run=DEMO, replaced={"--folds 3 --epochs 2": "--folds 2 --epochs 1"}),
    "get-started.md": PagePlan(not_run=DEMO, replaced={"--folds 3": "--folds 2"}),
    "imotions-study.md": PagePlan(replaced={"--fps 5": "--fps 1"}),
    "read-the-audit.md": PagePlan(ready=("dataset",)),
    "audit.md": PagePlan(ready=("dataset",), replaced=FEWER_FOLDS),
    "compare.md": PagePlan(ready=("dataset",), replaced=FEWER_FOLDS),
    "targets.md": PagePlan(ready=("dataset",)),
    "events.md": PagePlan(
        replaced={"new.mp4": NEWCOMER, "--fps 10": "--fps 5", "--out run10": "--folds 2 --out run10"}
    ),
    "predict.md": PagePlan(ready=("bundle",), replaced={"new.mp4": NEWCOMER}),
    "explain.md": PagePlan(
        ready=("dataset", "bundle"), replaced={"video.mp4": f"{NEWCOMER} --frames 2", "20": "3 --frames 2"}
    ),
    "export.md": PagePlan(ready=("dataset", "bundle")),
    "label-with-elan.md": PagePlan(ready=("bundle",), by_hand={"mien predict": "correct_in_elan"}),
    "withdraw.md": PagePlan(ready=("dataset", "bundle"), replaced={"AJ 8030": "{participant}"}),
    "sound.md": PagePlan(
        ready=("ravdess",),
        replaced={
            "--config configs/speech.yaml": "--config configs/speech.yaml --epochs 1",
            "--folds 6": "--folds 2",
            "interview.flac": "ravdess/{sound}",
        },
    ),
    "serve.md": PagePlan(ready=("bundle",), replaced={"talk.mp4": NEWCOMER}),
    "deploy.md": PagePlan(
        ready=("bundle",),
        not_run={
            "pip install mien": "tests/test_runtime_install.py installs the runtime and predicts and serves with it",
            "docker build -t mien .": CONTAINER,
            "docker run --rm --read-only --tmpfs /tmp:size=8g --stop-timeout 30 -p 127.0.0.1:8000:8000 "
            '-e MIEN_SERVE_TOKEN -v "$PWD/bundle:/bundle:ro" mien /bundle --host 0.0.0.0 '
            "--name expressions.example.org": CONTAINER,
        },
    ),
    "scaling.md": PagePlan(
        not_run={
            "python benchmarks/stages.py --study STUDY": MEASURES,
            "python benchmarks/prepare.py --study STUDY": MEASURES,
            "python benchmarks/decode.py": MEASURES,
        }
    ),
    "benchmarks.md": PagePlan(
        not_run={
            "python benchmarks/training.py --quick": BENCHMARK,
            "python benchmarks/training.py": BENCHMARK,
            "python benchmarks/training.py --full": BENCHMARK,
            "python benchmarks/training.py --settings": BENCHMARK,
            "python benchmarks/gpu.py": BENCHMARK,
            "python benchmarks/predict.py": MEASURES,
            "python benchmarks/serve.py BUNDLE VIDEO": MEASURES,
        }
    ),
}
OTHERS_OPTIONS = {
    "--rm",
    "--tmpfs",
    "--local-dir",
    "--clock",
    "--quick",
    "--device",
    "--full",
    "--settings",
    "--pictures",
}
"""Options in the documents' sentences that aren't mien's: of docker, of hf and of benchmarks."""


def with_commands() -> list[Path]:
    return [page for page in PAGES if any(step.kind != "file" for step in steps(page))]


@pytest.fixture(scope="module")
def small_study(tmp_path_factory) -> Path:
    """As few people as two folds with an inner split can do with; pages prepare and compare them again and again."""
    folder = tmp_path_factory.mktemp("small") / "study"
    return write_demo_study(folder, participants=4, duration_s=6.0, fps=10, width=192, height=144)


@pytest.fixture
def folder(small_study, probe_video, tmp_path, monkeypatch) -> Path:
    """A folder in which `demo/` is what `make demo` leaves: here a smaller drawn study."""
    (tmp_path / "demo/newcomer").mkdir(parents=True)
    (tmp_path / "demo/study").symlink_to(small_study)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / NEWCOMER).symlink_to(probe_video)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_ready(folder, drawn_dataset, probe_bundle):
    makers = {
        "dataset": lambda: shutil.copytree(drawn_dataset.path, folder / "dataset"),
        "bundle": lambda: shutil.copytree(probe_bundle, folder / "bundle"),
        "ravdess": lambda: write_study(folder / "ravdess", people=PEOPLE[:4]),
    }
    return lambda names: [makers[name]() for name in names]


def correct_in_elan(folder: Path) -> None:
    """What a person does in ELAN: the first smile begins a tenth of a second later, and the tier is theirs."""
    path = folder / "coding/video.eaf"
    text = path.read_text(encoding="utf-8")
    first = re.search(r'TIME_VALUE="(\d+)"', text)
    assert first is not None, "something was predicted, so that there is something to correct"
    text = text.replace(first[0], f'TIME_VALUE="{int(first[1]) + 100}"', 1)
    path.write_text(re.sub(r'ANNOTATOR="mien [^"]*"', 'ANNOTATOR="Ann"', text), encoding="utf-8")
    (folder / "corrected.txt").write_text(first[1])


def look_at_corrected(folder: Path) -> None:
    table = Dataset.open(folder / "coded").annotations
    assert set(table["scheme"]) == {"Smile"} and set(table["annotator"]) == {"Ann"}, "they are a person's labels now"
    expected_s = int((folder / "corrected.txt").read_text()) / 1000 + 0.1
    assert table["onset_s"].min() == pytest.approx(expected_s, abs=1e-3)


def look_at_predictions(folder: Path) -> None:
    assert (folder / "run/report.html").is_file()
    assert pd.read_csv(folder / "predictions/video.timeline.csv")["prob_Smile"].between(0, 1).all()


def look_at_events(folder: Path) -> None:
    look_at_predictions(folder)
    events = pd.read_csv(folder / "predictions/video.events.csv")
    assert {"onset_s", "offset_s", "label", "confidence"} <= set(events)


BY_HAND = {"correct_in_elan": correct_in_elan}
LOOKS = {"README.md": look_at_predictions, "get-started.md": look_at_events, "label-with-elan.md": look_at_corrected}
"""What must be there when a page has been followed to its end."""


@pytest.mark.slow
@pytest.mark.parametrize("page", with_commands(), ids=lambda page: page.name)
def test_what_the_page_says_runs(page, folder, make_ready, drawn_dataset):
    assert page.name in PLANS, f"{page.name} has commands; say in PLANS what it needs to run them"
    plan = PLANS[page.name]
    make_ready(plan.ready)
    runner = PageRunner(plan, folder, participant=str(drawn_dataset.recordings["participant_id"].iloc[0]))
    try:
        for step in steps(page):
            runner.take(step)
    finally:
        runner.stop()
    LOOKS.get(page.name, lambda _: None)(folder)


class PageRunner:
    """Does what a page says, step by step."""

    def __init__(self, plan: PagePlan, folder: Path, *, participant: str) -> None:
        self.plan, self.folder = plan, folder
        self.participant = participant
        self.service: Service | None = None

    def take(self, step: Step) -> None:
        if step.kind == "file":
            path = self.folder / step.path
            path.parent.mkdir(exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
        elif step.kind == "python":
            exec(compile(self.here(step.text), "<page>", "exec"), {})
        elif step.text not in self.plan.not_run:
            self.run(self.here(step.text))
            for begins, name in self.plan.by_hand.items():
                if step.text.startswith(begins):
                    BY_HAND[name](self.folder)

    def run(self, command: str) -> None:
        words = shlex.split(command)
        if words[:2] == ["mien", "serve"]:
            self.service = Service(words[1:], self.folder)
        elif words[0] == "curl":
            if shutil.which("curl") is None:
                pytest.skip("no curl on this machine")
            assert self.service is not None, "the page starts the service before it asks it"
            self.service.curl(command, self.folder)
        else:
            run_command(command, folder=self.folder)

    def here(self, text: str) -> str:
        """Put what the folder has in the place of what the reader has."""
        sounds = sorted(path.name for path in self.folder.glob("ravdess/*"))
        facts = {"{participant}": self.participant, "{sound}": sounds[0] if sounds else ""}
        for name, own in self.plan.replaced.items():
            for fact, value in facts.items():
                own = own.replace(fact, value)
            # Not within a longer name that is there already.
            text = re.sub(rf"(?<![\w/-]){re.escape(name)}(?!\w)", lambda _, own=own: own, text)
        return text

    def stop(self) -> None:
        if self.service is not None:
            self.service.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_sentences_and_blocks_name_exist(page):
    for command in (*mentioned(page), *commands(page)):
        if command.startswith("mien "):
            check_words(command)
    known = all_options() | OTHERS_OPTIONS
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = {
        option for quoted in re.findall(r"`([^`]+)`", text) for option in re.findall(r"(?<!\S)--[a-z0-9-]+", quoted)
    }
    assert named <= known, f"no such options: {sorted(named - known)}"


def test_no_block_hides_its_commands():
    known = {*SHELL, "", "python", "yaml", "csv", "text", "nginx"}
    for page in PAGES:
        assert languages(page) <= known, f"{page.name}: {languages(page) - known}"


def test_the_list_of_what_is_not_run_is_up_to_date():
    by_name = {page.name: page for page in PAGES}
    for name, plan in PLANS.items():
        found = commands(by_name[name])
        gone = set(plan.not_run) - set(found)
        assert not gone, f"{name} has no such command any more: {gone}"
        everything = "\n".join(step.text for step in steps(by_name[name]))
        assert all(text in everything for text in plan.replaced), name
        assert all(len(reason) > 20 for reason in plan.not_run.values()), name


def not_run() -> Iterator[list[str]]:
    yield from (shlex.split(command) for plan in PLANS.values() for command in plan.not_run)


def test_what_is_not_run_could_be():
    """Benchmarks have the options, make the targets, and the container's words are those of `mien serve`."""
    makefile = (ROOT / "Makefile").read_text()
    for words in not_run():
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), words
        elif words[0] == "python":
            source = (ROOT / words[1]).read_text()
            assert all(f'"{word}"' in source for word in words if word.startswith("--")), words
        elif words[:2] == ["docker", "run"]:
            image = len(words) - 1 - words[::-1].index("mien")
            check_words(shlex.join(["mien", "serve", *words[image + 1 :]]))
    assert 'ENTRYPOINT ["mien", "serve"]' in (ROOT / "Dockerfile").read_text()
