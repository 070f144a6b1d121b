"""Encoders, the personal baseline and the head, against hand-computed values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mien.core.errors import UserError
from mien.models.onnx_writer import write_linear_head
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import (
    EncoderSpec,
    HogEncoder,
    OnnxEncoder,
    find_encoder,
    normalise_pixels,
    read_sidecar,
    view_crops,
)
from mien.runtime.head import OnnxHead


def test_view_looks_at_the_centre_in_proportion_to_the_margin():
    crops = np.zeros((1, 160, 160, 3), np.uint8)
    crops[:, 30:130, 30:130] = 200  # the centre 100 of 160 px is what a factor of 1.0 sees under a margin of 1.6
    assert view_crops(crops, margin=1.6, crop=1.0, size_px=50).min() == 200
    assert view_crops(crops, margin=1.6, crop=1.3, size_px=50).min() == 0
    assert view_crops(crops, margin=None, crop=1.0, size_px=160).tolist() == crops.tolist()


def test_pixels_are_normalised_as_the_spec_says():
    pixels = np.array([[[[10, 20, 30]]]], np.uint8)
    spec = EncoderSpec(name="x", size_px=1, channels="BGR", layout="NCHW", scale=0.1, mean=(1, 1, 1), std=(2, 2, 2))
    assert normalise_pixels(pixels, spec).ravel().tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert normalise_pixels(pixels, spec).shape == (1, 3, 1, 1)
    last = EncoderSpec(name="x", size_px=1, layout="NHWC", scale=1.0)
    assert normalise_pixels(pixels, last).tolist() == [[[[10.0, 20.0, 30.0]]]]


def test_hog_tells_edges_by_direction_not_brightness():
    encoder = HogEncoder()
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::8] = 120
    brighter, turned = stripes * 2, stripes.transpose(1, 0, 2)
    plain, bright, across = encoder.encode(np.stack([stripes, brighter, turned]))
    assert plain.shape == (900,)
    assert np.abs(plain - bright).max() < 0.05
    assert np.abs(plain - across).max() > 0.2
    assert encoder.encode(np.empty((0, 96, 96, 3), np.uint8)).shape == (0, 900)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", [0.0, 2.0, 4.0, 10.0]),
        ("recording", [-4.0, -2.0, 0.0, 6.0]),
        ("running", [0.0, 1.0, 2.0, 6.0]),
        ("first:1.5", [-1.0, 1.0, 3.0, 9.0]),
    ],
)
def test_personal_baseline_by_hand(text, expected):
    features, pts_s = np.array([[0.0], [2.0], [4.0], [10.0]]), np.array([5.0, 6.0, 7.0, 8.0])
    personal = PersonalBaseline.parse(text).subtract(features, pts_s=pts_s)
    assert personal.ravel().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("text", ["recording", "running", "first:2"])
def test_personal_baseline_ignores_frames_without_a_face(text):
    features = np.array([[1.0], [np.nan], [3.0]])
    with_gap = PersonalBaseline.parse(text).subtract(features, pts_s=np.array([0.0, 1.0, 1.5]))
    without = PersonalBaseline.parse(text).subtract(features[[0, 2]], pts_s=np.array([0.0, 1.5]))
    assert np.isnan(with_gap[1, 0])
    assert with_gap[[0, 2]].tolist() == without.tolist()


def test_running_baseline_never_sees_the_future():
    rng = np.random.default_rng(0)
    features, pts_s = rng.normal(size=(20, 3)), np.arange(20.0)
    baseline = PersonalBaseline.parse("running")
    early = baseline.subtract(features[:10], pts_s=pts_s[:10])
    assert baseline.subtract(features, pts_s=pts_s)[:10] == pytest.approx(early)


@pytest.mark.parametrize("text", ["", "Recording", "first", "first:0", "first:x", "segment"])
def test_unknown_baselines_say_what_is_allowed(text):
    with pytest.raises(UserError, match="Allowed: none, recording, running or first:SECONDS"):
        PersonalBaseline.parse(text)


def test_linear_head_computes_the_probe(tmp_path):
    path = tmp_path / "head.onnx"
    mean, scale = np.array([1.0, 2.0]), np.array([2.0, 4.0])
    write_linear_head(path, mean=mean, scale=scale, coef=np.array([[3.0, -1.0]]), intercept=np.array([0.5]))
    # ((3 - 1) / 2) * 3 - ((6 - 2) / 4) * 1 + 0.5
    assert OnnxHead(path).logits(np.array([[3.0, 6.0]])).tolist() == [[2.5]]


def make_onnx_encoder(tmp_path, **changes):
    """Write an ONNX "encoder" (a linear map of 2x2x3 flattened pixels would need Reshape; a head on 1 px does)."""
    path = tmp_path / "net.onnx"
    write_linear_head(path, mean=np.zeros(3), scale=np.ones(3), coef=np.eye(3), intercept=np.zeros(3))
    sidecar = {
        "input": {
            "name": "features",
            "layout": "NHWC",
            "size": 1,
            "channels": "RGB",
            "scale": 1.0,
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        },
        "features": "logits",
        "crop": 1.2,
        "licence": "MIT",
        "source": "test",
    }
    (tmp_path / "net.onnx.json").write_text(json.dumps({**sidecar, **changes}))
    return path


def test_sidecar_is_read(tmp_path):
    spec = read_sidecar(make_onnx_encoder(tmp_path))
    assert (spec.size_px, spec.crop, spec.layout, spec.output_name) == (1, 1.2, "NHWC", "logits")


def test_sidecar_that_names_no_output_is_an_error(tmp_path):
    path = make_onnx_encoder(tmp_path, features="nothing")
    with pytest.raises(UserError, match=r"outputs \['logits'\].*'nothing'"):
        OnnxEncoder(path, spec=read_sidecar(path))


def test_missing_sidecar_says_what_it_holds(tmp_path):
    path = make_onnx_encoder(tmp_path)
    (tmp_path / "net.onnx.json").unlink()
    with pytest.raises(UserError, match=r"needs a sidecar net\.onnx\.json"):
        find_encoder(str(path))


def test_broken_sidecar_and_onnx_are_user_errors(tmp_path):
    path = make_onnx_encoder(tmp_path)
    (tmp_path / "net.onnx.json").write_text('{"input": {}}')
    with pytest.raises(UserError, match="can't be used"):
        find_encoder(str(path))
    path = make_onnx_encoder(tmp_path)
    path.write_bytes(b"not an ONNX")
    with pytest.raises(UserError, match="can't be opened as an ONNX"):
        find_encoder(str(path))
    with pytest.raises(UserError, match="No ONNX file"):
        find_encoder(str(tmp_path / "absent.onnx"))


def test_encoder_of_the_weights_directory_whatever_the_case(tmp_path, monkeypatch):
    (tmp_path / "my_net").mkdir()
    make_onnx_encoder(tmp_path / "my_net")
    monkeypatch.setenv("MIEN_WEIGHTS", str(tmp_path))
    encoder = find_encoder("MY_NET")
    assert encoder is not None
    assert encoder.spec.name == "net"
    assert find_encoder("other") is None


@pytest.mark.parametrize(("key", "value"), [("channels", "rgb"), ("layout", "nchw")])
def test_sidecar_values_that_would_be_misread_are_errors(key, value, tmp_path):
    path = make_onnx_encoder(tmp_path)
    sidecar = tmp_path / "net.onnx.json"
    values = json.loads(sidecar.read_text())
    values["input"][key] = value
    sidecar.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"{key} is '{value}'; allowed"):
        read_sidecar(path)
