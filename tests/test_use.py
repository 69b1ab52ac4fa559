"""A stored network says what it sees in any picture, and its card says what is known of it."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from reference import TINY_RUN, plain_evaluation

from fmnist import cli, store, use
from fmnist.data import CLASSES
from fmnist.engine.train import train_stack

SCALED = TINY_RUN.model_copy(update={"input_scaling": "standardized", "epochs": 3})


@pytest.fixture
def stored(runs, small, monkeypatch):
    """Two runs of the store: one of an epoch, and the better one of three, whose pixels are standardized."""
    monkeypatch.setattr(use, "TRAIN_IMAGES", 3_000)
    return [store.save(train_stack([config], small)[0]) for config in (TINY_RUN, SCALED)]


def test_a_picture_of_the_data_set_is_read_as_it_is_and_inverted_and_enlarged(stored, small, tmp_path, capsys):
    image = small.test_images[0].view(28, 28).numpy()
    Image.fromarray(image).save(tmp_path / "as-it-is.png")
    assert (use.read_picture(tmp_path / "as-it-is.png")[0] == small.test_images[0]).all()
    Image.fromarray(255 - image).save(tmp_path / "inverted.png")
    pixels, about = use.read_picture(tmp_path / "inverted.png")
    assert (pixels == small.test_images[0]).all() and about == "28 × 28 pixels, dark on light, so it is inverted"
    large = np.pad(np.kron(255 - image, np.ones((5, 5), np.uint8)), ((0, 0), (30, 30)), constant_values=255)
    Image.fromarray(large).convert("RGB").save(tmp_path / "large.jpg")
    assert use.read_picture(tmp_path / "large.jpg")[0].shape == (784,)
    answers = plain_evaluation(stored[1].model(), SCALED, small, "test")[2]
    for name in ("as-it-is.png", "inverted.png"):
        assert cli.main(["predict", str(tmp_path / name)]) == 0
        _, said, first, *rest = capsys.readouterr().out.splitlines()
        assert stored[1].run_id in said and first.endswith(CLASSES[answers[0]]) and len(rest) == 9
    assert cli.main(["predict", str(tmp_path / name), "--run", stored[0].run_id[:6]]) == 0
    assert stored[0].run_id in capsys.readouterr().out


def test_what_is_no_picture_is_one_clear_line(runs, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    for name, said in {"text.png": "not a picture", "none.png": "no such file"}.items():
        with pytest.raises(use.UserError, match=said):
            use.read_picture(tmp_path / name)
    assert cli.main(["predict", str(tmp_path / "text.png")]) == 2
    assert re.fullmatch("fmnist: no finished run in .*\n", capsys.readouterr().err)


def test_the_card_says_what_the_run_reached(stored, small, capsys):
    assert cli.main(["card", stored[1].run_id]) == 0
    card = capsys.readouterr().out
    assert f"{100 * stored[1].metrics['test_accuracy']:.1f} %" in card and "input_scaling: standardized" in card
    right = stored[1].predictions() == small.test_labels.numpy()
    for i, name in enumerate(CLASSES):
        assert f"| {name} | {100 * right[small.test_labels.numpy() == i].mean():.1f} % |" in card
    assert "{" not in card


def test_calibration_is_the_distance_between_how_sure_and_how_often_right():
    p, labels = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.6, 0.4]]), np.array([0, 1, 0, 0])
    bins, error = use.calibration(p, labels)
    assert bins[["confidence", "accuracy", "images"]].to_numpy().tolist() == [[0.6, 1, 2], [0.95, 0.5, 2]]
    assert error == pytest.approx((0.4 + 0.45) / 2)
    certain = torch.eye(10)[[3, 4]].numpy()
    assert use.calibration(certain, np.array([3, 4]))[1] == 0
