"""Every figure is legible without colour, labelled with its unit, and shows what diverged. All data are simulated."""

import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from fmnist.plots import figures, style

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def simulated_study(seeds=3, epochs=4, lost=True):
    """Frames like a Study's: optimizers × learning rates; with `lost`, one trial and one more run diverge."""
    rng, runs, history = np.random.default_rng(0), [], []
    for variant, lr, accuracy in [("SGD", 0.1, 0.88), ("SGD", 0.01, 0.85), ("Adam", 0.1, 0.1), ("Adam", 0.01, 0.87)]:
        for seed in range(seeds):
            gone = lost and ((variant, lr) == ("Adam", 0.1) or (variant, lr, seed) == ("SGD", 0.1, 0))
            key = {"run_id": f"{variant}{lr}/{seed}", "trial": f"{variant}, lr {lr}", "variant": variant, "lr": lr}
            key |= {"seed": seed, "epochs": epochs, "dropout": lr}
            key["hidden_sizes"] = "128" if variant == "SGD" else "400-400"
            last = 1 if gone else epochs
            for epoch in range(epochs + 1 if gone else last + 1):
                value = np.nan if epoch > last else accuracy - 0.3 / (epoch + 1) + rng.normal(0, 0.002)
                row = {"epoch": epoch, "val_accuracy": value, "val_loss": 3 - 3 * value}
                train = {name: np.nan if epoch == 0 else row[name.replace("train", "val")] for name in TRAIN}
                history.append(key | row | train)
            final = {name: np.nan if gone else accuracy + rng.normal(0, 0.002) for name in FINAL}
            runs.append(key | final | {"diverged": gone, "test_loss": 1 - final["test_accuracy"]})
    return pd.DataFrame(runs), pd.DataFrame(history)


TRAIN = ("train_loss", "train_accuracy")
FINAL = ("train_accuracy", "val_accuracy", "test_accuracy")


def simulated_scales():
    scales = {"default": 0.5, "kaiming": 1.0, "zeros": 0.0}
    rows = [(init, layer, quantity, scale**layer) for init, scale in scales.items()
            for quantity in ("activation std", "gradient std") for layer in (1, 2, 3)]  # fmt: skip
    return pd.DataFrame(rows, columns=["trial", "layer", "quantity", "value"])


def every_figure(seeds=3, lost=True):
    runs, history = simulated_study(seeds, lost=lost)
    images = np.arange(20 * 28 * 28, dtype=np.uint8).reshape(20, 28, 28)
    return {
        "curves": figures.curves(history),
        "curves, panels": figures.curves(history, by="lr", panels="variant"),
        "curves, three": figures.curves(history, metrics=("train_loss", "val_loss", "val_accuracy")),
        "against": figures.against(runs),
        "log_lines": figures.log_lines(simulated_scales(), "layer", "value", by="trial", panels="quantity"),
        "image_grid": figures.image_grid(images, NAMES + NAMES, columns=5),
        "confusion_matrix": figures.confusion_matrix(np.eye(10) * 90 + 1, NAMES, runs),
    }


@pytest.fixture(scope="module")
def drawn():
    return every_figure()


def shown_texts(figure):
    return [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]


def test_every_figure_fits_the_page_has_labels_with_units_and_is_legible(drawn):
    for name, figure in drawn.items():
        for ax in (ax for ax in figure.axes if ax.axison):
            row = ax.get_subplotspec()
            assert ax.get_xlabel() or not row.is_last_row(), name
            assert ax.get_ylabel() or not row.is_first_col(), name
        width, height = figure.get_size_inches()
        assert width <= style.WIDTH + 1e-6 and height <= 9, name
        figure.draw_without_rendering()
        assert min((text.get_fontsize() for text in shown_texts(figure)), default=7) >= 7, name
    loss, accuracy = (ax.get_ylabel().split("\n")[0] for ax in drawn["curves"].axes)
    assert (loss, accuracy) == ("training loss (nats)", "validation accuracy (%)")
    assert {ax.get_xlabel() for ax in drawn["curves"].axes} == {"epoch"}


def test_one_seed_is_enough_to_draw():
    for lost in (False, True):
        for figure in every_figure(seeds=1, lost=lost).values():
            figure.draw_without_rendering()
    runs = simulated_study(seeds=2, lost=False)[0]  # of two a bar shows what they reach
    bar, two = figures.against(runs).axes[0].collections[0].get_segments()[0], runs[runs.trial == "SGD, lr 0.01"]
    assert bar[:, 1] == pytest.approx(100 * np.sort(two.test_accuracy))


def test_diverged_runs_are_shown(drawn):
    for name in ("curves", "against"):
        text = " ".join(t.get_text().replace("\n", " ") for t in shown_texts(drawn[name]))
        assert re.search(r"diverged \(1 of \d\)", text) and re.search(r"diverged \(3 of \d\)", text), name
    crosses = [line for line in drawn["curves"].axes[0].lines if line.get_marker() == "x"]
    assert len(crosses) == 4 and all(list(line.get_xdata()) == [1] for line in crosses)  # at its last epoch


def test_axes_of_watched_training_stand_still_and_looks_are_given():
    _, history = simulated_study(lost=False)
    seen = []
    for epoch in (2, 3, 4):
        figure = figures.curves(history[history.epoch <= epoch].assign(epochs=epoch), looks=LOOKS, until=10)
        seen.append([(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes])
        assert figure.axes[1].lines[2].get_color() == style.COLORS[6]  # the third trial
    (loss, accuracy), first = seen[-1], history.loc[history.epoch == 1, "train_loss"].max()
    assert loss[0] == accuracy[0] == (0, 10) and loss[1][1] < first + 0.25 and seen[1] == seen[2]


LOOKS = {"SGD, lr 0.1": 0, "SGD, lr 0.01": 3, "Adam, lr 0.1": 6, "Adam, lr 0.01": 1}


def test_groups_differ_without_colour():
    looks = [style.look(i) for i in range(40)]
    assert len({(str(look["marker"]), str(look["linestyle"])) for look in looks}) == 40


def test_zeros_stand_on_the_edge_of_logarithmic_axes(drawn):
    default, zeros = (drawn["log_lines"].axes[0].lines[i] for i in (0, 5))
    assert default.get_ydata() == pytest.approx([0.5, 0.25, 0.125])
    assert zeros.get_marker() == 7 and list(zeros.get_xdata()) == [1, 2, 3]


def test_drawing_leaves_the_global_state_alone():
    before = {key: value for key, value in mpl.rcParams.items() if key != "backend"}
    figures.curves(simulated_study()[1]).draw_without_rendering()
    assert {key: value for key, value in mpl.rcParams.items() if key != "backend"} == before
