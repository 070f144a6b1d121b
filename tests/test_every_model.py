"""Every model of `mien models`, tested by what it can do: whoever is in the registry is in here, by name.

Networks of pictures and of windows have gradients; a probe has none. All are fitted for a moment on the drawn study,
bundled, loaded again, exported, and explained.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mien.core.errors import UserError
from mien.core.storage import read_json
from mien.data.clips import build_clips
from mien.data.splits import holdout_split
from mien.explain.methods import METHODS, family_of
from mien.explain.run import Explainer, ExplainOptions, explain
from mien.explain.subjects import NetworkBuilder, open_bundle
from mien.models.choice import parse_model
from mien.models.pretrained import write_random_backbone
from mien.models.registry import MODELS, PRETRAINED, build_model, build_sequence_network, describe_models
from mien.models.sequence_parts import Fusion, HeadShape, SequenceEntry, example_inputs
from mien.runtime.bundle import Bundle
from mien.runtime.windows import WindowSpec
from mien.training.bundle_writer import write_bundle
from mien.training.config import TrainConfig
from mien.training.lightning_module import Objective, Phase, PhaseModule
from mien.training.model_fit import fit_model
from mien.training.settings import FitSettings

DOCS = Path(__file__).parents[1] / "docs"
SIZE_PX = 32
PARITY = 1e-4
TINY_TRAINING = TrainConfig(image_size=SIZE_PX, epochs=1, head_epochs=1, batch_size=16, precision="32")
TINY_SEQUENCE = {"epochs": 1, "clips_per_recording": 4, "sequence_length": 3, "context_s": 0.5}
FUSIONS: tuple[Fusion, ...] = ("concat", "gated")
"""The other networks that one entry of the registry builds; they are built, fitted is the default."""


@dataclass(frozen=True)
class Case:
    """A model as it is tested.

    Attributes:
        name: Name in the registry.
        fusion: How a sequence network joins its modalities.
    """

    name: str
    fusion: Fusion = "cross_attention"

    @property
    def entry(self):
        return MODELS[self.name]

    @property
    def is_sequence(self) -> bool:
        return isinstance(self.entry, SequenceEntry)

    @property
    def has_network(self) -> bool:
        return self.is_sequence or self.entry.build is not None

    def __str__(self) -> str:
        return self.name if self.fusion == "cross_attention" else f"{self.name}-{self.fusion}"


def every_case() -> list[Case]:
    return [Case(name) for name in MODELS]


def every_network() -> list[Case]:
    fusions = [Case("multimodal_fusion", fusion) for fusion in FUSIONS]
    return [case for case in every_case() if case.has_network] + fusions


def pytest_generate_tests(metafunc):
    # At collection, not at import: a model that a plugin registered is tested, too.
    wanted = {"case": every_case(), "network_case": every_network()}
    wanted["picture_case"] = [case for case in every_network() if not case.is_sequence]
    for argument, cases in wanted.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, cases, ids=str)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Networks this small gain nothing from threads, and lose much where other processes want the cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """A tiny backbone of each pretrained model's architecture."""
    root = tmp_path_factory.mktemp("backbones")
    return {
        name: str(write_random_backbone(root / name, architecture=wanted.architecture, tiny=True))
        for name, wanted in PRETRAINED.items()
    }


@dataclass(frozen=True)
class Built:
    """A network with fresh weights, and what it is given."""

    network: nn.Module
    inputs: Callable[[int], tuple[Tensor, ...]]


@pytest.fixture
def build(backbones):
    """Build a case's network; what it is given is drawn anew at each call, by the number of examples."""

    def of(case: Case, *, num_outputs: int = 2, seed: int = 0) -> Built:
        generator = torch.Generator().manual_seed(1)
        if case.is_sequence:
            windows = WindowSpec(
                case.entry.modalities, sequence_length=3, context_s=0.4, feature_dim=6, signal_names=("A", "B")
            )
            shape = HeadShape.of(windows, num_outputs=num_outputs, fusion=case.fusion)

            def windowed(num: int) -> tuple[Tensor, ...]:
                given = example_inputs(windows, num=num).items()
                return tuple(
                    part if key.endswith("mask") else torch.randn(part.shape, generator=generator)
                    for key, part in given
                )

            return Built(build_sequence_network(case.name, shape=shape, seed=seed), windowed)
        options = {"num_outputs": num_outputs, "image_size": SIZE_PX, "backbone": backbones.get(case.name)}
        return Built(
            build_model(case.name, seed=seed, **options).classifier,
            lambda num: (torch.randn(num, 3, SIZE_PX, SIZE_PX, generator=generator),),
        )

    return of


# --- built


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_logits_have_the_shape_of_the_target(network_case, build, num_outputs):
    built = build(network_case, num_outputs=num_outputs)
    built.network.eval()
    for num in (1, 4):
        given = built.inputs(num)
        with torch.no_grad():
            logits = built.network(*given)
            # In eval mode twice the same, and each example by itself.
            assert torch.equal(built.network(*given), logits)
            alone = torch.cat([built.network(*(part[row : row + 1] for part in given)) for row in range(num)])
        assert logits.shape == (num, num_outputs) and logits.isfinite().all()
        torch.testing.assert_close(alone, logits, atol=1e-5, rtol=1e-4)


def test_a_model_is_listed_with_what_it_looks_at(case):
    row = next(row for row in describe_models() if row["name"] == case.name)
    assert row["summary"] and set(row["modalities"]) <= {"video", "audio", "signals"} and row["modalities"]
    assert (row["parameters"] is not None) == case.has_network
    if case.has_network:
        assert 0 < row["trainable_parameters"] <= row["parameters"]


def test_weights_follow_the_seed_and_nothing_else(network_case, build):
    def weights(seed: int) -> Tensor:
        torch.rand(3)
        before = torch.random.get_rng_state()
        built = build(network_case, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        return torch.cat([part.detach().flatten() for part in built.network.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def _trained_by(network: nn.Module, given: tuple[Tensor, ...]) -> set[str]:
    """Names of the parameters that a gradient reaches, some of it not 0."""
    network.zero_grad(set_to_none=True)
    # Every example wants something else: a gradient that only the mean has would vanish behind a batch norm.
    logits = network(*given)
    (logits * torch.linspace(-1, 2, logits.numel()).reshape(logits.shape)).sum().backward()
    return {name for name, part in network.named_parameters() if part.grad is not None and bool(part.grad.any())}


def test_gradients_reach_every_parameter_and_a_frozen_network_none(network_case, build):
    built = build(network_case)
    names = {name for name, _ in built.network.named_parameters()}
    given = built.inputs(5)
    assert _trained_by(built.network, given) == names
    built.network.requires_grad_(False)
    assert not built.network(*given).requires_grad
    built.network.requires_grad_(True)
    assert _trained_by(built.network, given) == names


@pytest.mark.parametrize("num_open", [0, 1, None], ids=["frozen", "last:1", "all"])
def test_a_phase_trains_what_is_open_and_only_that(picture_case, build, num_open):
    built = build(picture_case, num_outputs=1)
    rates = (None if num_open == 0 else 1e-2, 1e-2)
    phase = Phase("head", inputs="pixels", epochs=1, rates=rates, seed=0, num_open=num_open)
    if num_open == 1 and not picture_case.entry.pretrained:
        with pytest.raises(UserError, match="block by block"):
            phase.frozen(built.network)
        return
    module = PhaseModule(
        built.network,
        phase=phase,
        objective=Objective("binary", torch.ones(2)),
        config=TINY_TRAINING,
        baseline="none",
        fused=False,
    )
    frozen = module.freeze(0)
    built.network.train()
    for part in frozen:
        part.eval()
    kept = {id(value) for part in frozen for value in part.parameters()}
    open_names = {name for name, value in built.network.named_parameters() if id(value) not in kept}
    before = {name: value.clone() for name, value in built.network.state_dict().items()}
    assert _trained_by(built.network, built.inputs(5)) == open_names
    assert {name for name, value in built.network.named_parameters() if value.requires_grad} == open_names
    optimizer = torch.optim.SGD([value for value in built.network.parameters() if value.requires_grad], lr=0.1)
    optimizer.step()
    moving = phase.moving(built.network)
    changed = {name for name, value in built.network.state_dict().items() if not torch.equal(value, before[name])}
    # Running statistics of what is frozen stay, too; parameters that are open have moved.
    assert changed <= set(moving) and open_names <= changed
    assert len(open_names) < len(before) or num_open is None
    built.network.requires_grad_(True)
    assert _trained_by(built.network, built.inputs(5)) == {name for name, _ in built.network.named_parameters()}


# --- fitted


@pytest.fixture(scope="module")
def fit(with_signals, backbones):
    """Fit a case on the drawn study for a moment."""
    clips = build_clips(with_signals, target="Smile")
    split = holdout_split(clips, seed=0)

    def of(case: Case, *, seed: int = 1):
        text = f"{case.name}@{backbones[case.name]}" if case.name in backbones else case.name
        changes = {case.name: TINY_SEQUENCE} if case.is_sequence else {}
        settings = FitSettings(training=TINY_TRAINING, per_model=changes)
        return fit_model(
            parse_model(text),
            dataset=with_signals,
            clips=clips,
            train=split.train,
            validation=split.validation,
            settings=settings,
            seed=seed,
        ), split

    return of


@pytest.fixture(scope="module")
def bundled(fit, tmp_path_factory):
    """Give the fitted model of a case, its split and its bundle; each is made once."""
    root, made = tmp_path_factory.mktemp("bundles"), {}

    def of(case: Case):
        if str(case) not in made:
            fitted, split = fit(case)
            write_bundle(fitted, out=root / str(case), label=case.name, provenance={"participants": [*split.train]})
            made[str(case)] = (fitted, split, root / str(case))
        return made[str(case)]

    return of


def test_the_same_seed_gives_the_same_fit_to_the_bit(case, bundled, fit, tmp_path):
    first, split, folder = bundled(case)
    second, _ = fit(case)
    second.save_weights(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    rows, logits = first.predict(split.validation)
    assert logits.shape == (len(rows), 1) and len(rows) and np.isfinite(logits).all()
    for other in (first, second):
        np.testing.assert_array_equal(other.predict(split.validation)[1], logits)


def _trained_network(fitted) -> nn.Module:
    return fitted.network if hasattr(fitted, "network") else fitted.built.classifier


def test_weights_are_saved_and_loaded_to_the_bit(case, bundled):
    fitted, _, folder = bundled(case)
    saved = load_file(folder / "model.safetensors")
    if not case.has_network:
        assert {name: value.numpy().tolist() for name, value in saved.items()} == {
            name: getattr(fitted.probe, name).tolist() for name in saved
        }
        return
    network = _trained_network(fitted)
    if case.is_sequence:
        shape = HeadShape.of(fitted.windows, num_outputs=1, fusion=case.fusion)
        other: nn.Module = build_sequence_network(case.name, shape=shape, seed=99)
    else:
        other = NetworkBuilder.of(open_bundle(folder)).build(seed=99)
    assert any(not torch.equal(value, saved[name]) for name, value in other.state_dict().items())
    other.load_state_dict(saved)
    for name, value in network.state_dict().items():
        assert value.dtype == saved[name].dtype and torch.equal(value, other.state_dict()[name]), name
    given = _inputs_of(fitted, num=3)
    with torch.no_grad():
        assert torch.equal(other.eval()(*given.values()), network(*given.values()))


def _inputs_of(fitted, *, num: int) -> dict[str, Tensor]:
    """Random examples for a fitted network, by the names of the ONNX; of windows a part is masked."""
    generator = torch.Generator().manual_seed(num)
    if hasattr(fitted, "windows"):
        given = {
            k: torch.randn(v.shape, generator=generator) for k, v in example_inputs(fitted.windows, num=num).items()
        }
        return {key: (value > 0).float() if key.endswith("mask") else value for key, value in given.items()}
    return {"pixels": torch.randn(num, 3, SIZE_PX, SIZE_PX, generator=generator)}


def _onnx(path: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {item.name for item in session.get_inputs()} == set(given)
    return session.run(None, given)[0]


@pytest.mark.parametrize("num", [1, 3])
def test_the_onnx_gives_the_logits_at_any_batch_size(case, bundled, num):
    fitted, _, folder = bundled(case)
    assert read_json(folder / "parity.json")["max_abs_diff_logit"] <= PARITY  # on pictures of the dataset
    head = folder / "head.onnx"
    if not case.has_network:
        features = np.random.default_rng(num).normal(0, 1, (num, fitted.probe.coef.shape[1])).astype(np.float32)
        found, expected = _onnx(head, {"features": features}), fitted.probe.logits(features)
    else:
        given = _inputs_of(fitted, num=num)
        with torch.no_grad():
            expected = _trained_network(fitted)(*given.values()).numpy()
        values = {key: value.numpy() for key, value in given.items()}
        found = _onnx(head, values if case.is_sequence else {"features": _onnx(folder / "encoder.onnx", values)})
    assert found.shape == (num, 1)
    np.testing.assert_allclose(found, expected, atol=PARITY, rtol=0)


def test_the_model_is_explained(case, bundled, with_signals, tmp_path, monkeypatch):
    monkeypatch.setattr("mien.explain.run.NUM_RANDOMISED", 2)  # what the scores are worth is tested elsewhere
    folder = bundled(case)[2]
    options = ExplainOptions(participants=2, frames=2)
    value = explain(folder, with_signals.path, out=tmp_path / "o", options=options)
    assert value["caption"] and value["sanity"]["verdict"] and value["sanity"]["n"] == 2
    assert value["sanity"]["over"] == "participants"
    assert all((tmp_path / "o" / row["png"]).stat().st_size > 3000 for row in value["frames"])
    if case.is_sequence:
        assert set(value["frames"][0]["modalities"]) == set(case.entry.modalities)
        assert any(np.any(row["over_time"][name]["loss"]) for row in value["frames"] for name in row["over_time"])
    else:
        _check_every_method(Bundle.open(folder), case)


def _check_every_method(bundle: Bundle, case: Case) -> None:
    """Every method that the model's kind allows gives finite maps of a picture that depend on the picture."""
    network = NetworkBuilder.of(bundle).trained() if case.has_network else None
    family = family_of(network)
    allowed = [name for name, method in METHODS.items() if family in method.families]
    assert "occlusion" in allowed and (len(allowed) > 1) == (case.entry.maps is not None)
    for name in allowed:
        assert np.isfinite(_maps_of_two(Explainer(bundle, options=ExplainOptions(method=name)))).all()


def _maps_of_two(explainer: Explainer) -> np.ndarray:
    from mien.explain.frames import ExplainedFrame

    size = explainer.bundle.encoder.spec.size_px
    pictures = np.random.default_rng(0).integers(0, 255, (2, size, size, 3)).astype(np.uint8)
    features = explainer.bundle.encoder.encode(pictures)
    logits = explainer.bundle.head.logits(features)
    frames = [
        ExplainedFrame("r", "p", row, 0.0, pictures[row], np.zeros(features.shape[1]), logits[row], 1, 0.5)
        for row in range(2)
    ]
    maps = explainer.maps(frames)
    assert maps.ndim == 3 and len(maps) == 2 and maps.shape[1] == maps.shape[2]
    return maps


# --- a model that is added


def test_a_model_that_is_registered_is_tested(tmp_path):
    """The examples of docs/add-a-model.md: a file and a line each, and all of the above runs on them."""
    text = (DOCS / "add-a-model.md").read_text()
    codes = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for line in re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)]
    names = [re.fullmatch(r"(\w+)\.ENTRY,", line)[1] for line in lines]
    assert names and len(codes) == len(names)
    for name, code in zip(names, codes, strict=True):
        (tmp_path / f"{name}.py").write_text(code)
    imports = "".join(f"import {name}\nMODELS[{name}.ENTRY.name] = {name}.ENTRY\n" for name in names)
    (tmp_path / "registering.py").write_text(f"from mien.models.registry import MODELS\n{imports}")
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "registering", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "-k", " or ".join(names), "-rA", "--durations=0", "--no-header"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=DOCS.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.findall(r"PASSED .*::(\w+)\[", done.stdout)
    own = {name for name, value in globals().items() if name.startswith("test_") and value.__code__.co_argcount}
    for name in own - {"test_a_model_that_is_registered_is_tested", "test_a_phase_trains_what_is_open_and_only_that"}:
        assert passed.count(name) >= len(names), name
