"""A search draws the same valid trials again, extends itself, and says what its trials say: no more."""

import base64
import io
import re

import nbformat.v4 as nbf
import numpy as np
import pandas as pd
import pypdf
import pytest
from PIL import Image

from fmnist import store
from fmnist.config import RunConfig, UserError, read_yaml
from fmnist.paper import publish
from fmnist.paper.exporters import HomeworkHTML, HomeworkPDF
from fmnist.paper.report import Report
from fmnist.plots.search import growing, trial_curves
from fmnist.search import Search
from fmnist.searched import best_table, budget, configuration, importance, levels, ranked

SPACE = {
    "layers": [1, 2, 3],
    "width": [16, 32],
    "optimizer": ["SGD", "Adam", "RMSprop"],
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "momentum": [0.0, 0.9],
    "dropout": [0.0, 0.5],
    "batch_norm": [False, True],
    "init": ["default", "zeros"],
}


def ids(*args, **kwargs) -> list[str]:
    return [config.run_id for config in Search(*args, **kwargs).configs]


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_one_seed_draws_one_set_of_trials():
    assert ids({}, SPACE, 30, seed=5) == ids({}, SPACE, 30, seed=5)
    drawn = [{(c.lr, c.hidden_sizes) for c in Search({}, SPACE, 30, seed=seed).configs} for seed in (5, 6)]
    assert not drawn[0] & drawn[1]


def test_more_trials_extend_fewer():
    many = ids({}, SPACE, 40)
    assert ids({}, SPACE, 15) == many[:15] and len(set(many)) == 40


def test_trials_lie_in_the_space_and_cover_it():
    configs = Search({"epochs": 2}, SPACE, 200).configs
    assert all(RunConfig.model_validate(config.model_dump()) == config and config.epochs == 2 for config in configs)
    assert {len(c.hidden_sizes) for c in configs} == {1, 2, 3}
    assert {size for c in configs for size in c.hidden_sizes} == {16, 32}
    for key in ("optimizer", "momentum", "dropout", "batch_norm", "init"):
        assert {getattr(c, key) for c in configs} == set(SPACE[key])
    assert {c.momentum for c in configs if c.optimizer == "Adam"} == {0.0}
    decades = np.histogram(np.log10([c.lr for c in configs]), bins=4, range=(-4, 0))[0]
    assert decades.sum() == 200 and decades.min() > 30  # uniform in the logarithm: about 50 each


def test_no_config_is_drawn_twice_and_an_exhausted_space_is_named():
    space = {"optimizer": ["SGD", "Adam"], "momentum": [0.0, 0.9]}  # Adam has no momentum: three configs
    assert len(set(ids({}, space, 3))) == 3
    with pytest.raises(UserError, match="only three different configs were found in the space; ask for fewer than 4"):
        Search({}, space, 4)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lerning_rate": [0.1]}, r"space\.lerning_rate: unknown key; did you mean 'lr'\?"),
        ({"lr": {"low": 0.1, "high": 0.01}}, "low 0.1 should be below high 0.01"),
        ({"lr": {"low": 0.0, "high": 1.0, "log": True}}, "should be above 0 where log is true"),
        ({"lr": [-0.1]}, "lr: should be greater than 0"),
        ({"dropout": {"low": 0.0, "high": 1.0}}, "dropout: should be less than 1"),
        ({"optimizer": ["Adm"]}, "'Adm' is not allowed; did you mean 'Adam'"),
        ({"batch_size": {"low": 1.0, "high": 9.0}}, "batch_size: takes a list of choices"),
        ({"layers": [2]}, "layers and width go together"),
        ({"layers": [0], "width": [8]}, "layers: should be whole numbers from 1"),
        ({"lr": []}, "should not be empty"),
        ({}, "space: should not be empty"),
    ],
)
def test_a_wrong_space_is_one_clear_line(space, message):
    with pytest.raises(UserError, match=message) as error:
        Search({}, space, where="params/x/search.yaml")
    assert str(error.value).startswith("params/x/search.yaml: ") and "\n" not in str(error.value)


def test_without_optuna_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"optuna is not installed; pip install 'fmnist\[search\]', or use method: ran"):
        Search({}, SPACE, 10, "optuna")


# --- training: any trial comes back -----------------------------------------------------------------------------------


@pytest.fixture
def tiny(small, tmp_path, monkeypatch):
    """A trained search of six trials on the first images of the data set, and the space it searched."""
    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path))
    monkeypatch.setattr("fmnist.engine.workers.load", lambda *_: small)
    return {"epochs": 1, "val_size": 500, "batch_size": 100}


def test_every_trial_comes_back_by_three_calls(tiny):
    search = Search(tiny, SPACE, 6).run("cpu")
    runs = search.runs()
    assert len(runs) == 6 and list(runs["layers"]) == [len(c.hidden_sizes) for c in search.configs]
    for row, config in zip(runs.itertuples(), search.configs, strict=True):
        run = store.load_run(row.run_id)
        assert run.config == config
        assert list(run.history()["epoch"]) == [0, 1]
        assert [layer.out_features for layer in run.model().linears] == [*config.hidden_sizes, 10]
    table = best_table(runs, search.axes, 3)
    assert [text.strip("`") for text in table["Run"]] == [run_id[:8] for run_id in ranked(runs)["run_id"][:3]]


def test_optuna_proposes_in_rounds_and_the_same_again(tiny, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr("fmnist.search.ROUND", 4)
    first = Search(tiny, SPACE, 10, "optuna").run("cpu")
    assert len(first.runs()) == 10
    monkeypatch.setattr("fmnist.engine.workers.train", None)  # all that the second wants is in the store
    second = Search(tiny, SPACE, 10, "optuna").run("cpu")
    assert [c.run_id for c in first.configs] == [c.run_id for c in second.configs]


def test_the_report_trains_the_trials_beforehand():
    report = Report("lybbert", "cpu")
    given, base = read_yaml(report.folder / "search.yaml"), read_yaml(report.folder / "report.yaml")["base"]
    search = report.trained["search"]
    assert len(search.configs) == given["trials"] > 300
    assert {c.run_id for c in search.configs} <= {c.run_id for c in report.configs}
    assert {(c.epochs, c.precision, c.batch_size) for c in search.configs} == {
        (base["epochs"], base["precision"], base["batch_size"])
    }
    assert "search" not in report.studies  # the conclusions compare means over seeds


# --- what the trials say ----------------------------------------------------------------------------------------------


def made_up(n: int, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """A table of trials in which the learning rate alone decides, and validation differs from test by chance."""
    random = np.random.default_rng(seed)
    lr, error = 10 ** random.uniform(-4, 0, n), random.normal(0, 1, (2, n)) * noise
    skill = 0.9 - 0.1 * np.abs(np.log10(lr) + 2)
    return pd.DataFrame({
        "trial": [f"trial {i}" for i in range(n)], "run_id": [f"{i:016x}" for i in range(n)],
        "lr": lr, "width": random.choice([64, 128], n), "layers": random.choice([1, 2], n),
        "optimizer": random.choice(["SGD", "Adam"], n), "batch_norm": random.random(n) < 0.5,
        "val_accuracy": skill + error[0], "test_accuracy": skill + error[1],
    })  # fmt: skip


def test_nothing_is_inflated_where_validation_equals_test():
    curve = budget(made_up(50))
    assert np.abs(curve[["inflation", "inflation_low", "inflation_high"]]).to_numpy().max() < 1e-12


def test_chance_inflates_the_best_of_many_and_the_more_the_larger_n():
    curve = budget(made_up(200, noise=0.02))
    assert abs(curve["inflation"].iloc[0]) < 0.01 < curve["inflation"].iloc[-1]
    assert (curve["inflation_low"] <= curve["inflation_high"]).all()


def test_the_budget_curve_never_falls_and_ends_at_the_selected_trial():
    runs = made_up(60, noise=0.01)
    curve, first = budget(runs), ranked(runs).iloc[0]
    for column in ("own_val", "val", "val_low", "val_high"):
        assert (np.diff(curve[column]) >= -1e-12).all()
    assert np.isclose(curve[["own_val", "val"]].iloc[-1], first["val_accuracy"]).all()
    assert np.isclose(curve[["own_test", "test"]].iloc[-1], first["test_accuracy"]).all()
    assert np.isclose(curve["val"].iloc[0], runs["val_accuracy"].mean())


def test_the_mean_over_orders_is_that_of_orders():
    runs = made_up(12, noise=0.05)
    runs.loc[:3, "val_accuracy"] = 0.8  # ties
    runs.loc[5, ["val_accuracy", "test_accuracy"]] = np.nan  # diverged: as good as guessing
    random = np.random.default_rng(1)
    orders = [runs.iloc[random.permutation(12)] for _ in range(4000)]
    found = np.mean([budget(order, resamples=1)[["own_val", "own_test"]].to_numpy() for order in orders[:1500]], axis=0)
    assert np.abs(budget(runs)[["val", "test"]].to_numpy() - found).max() < 0.01


def test_importance_finds_the_only_hyperparameter_that_matters():
    table = importance(made_up(120), ["width", "optimizer", "lr", "batch_norm", "layers"])
    assert table["hyperparameter"][0] == "lr" and table["low"][0] > 0.5 and table.attrs["r2"] > 0.7
    assert table["importance"][1:].abs().max() < 0.1
    with pytest.raises(UserError, match="19 trials are too few"):
        importance(made_up(19), ["lr"])


def test_levels_are_told_apart_only_where_they_differ():
    runs = made_up(120).assign(init=["zeros", "default", "normal"] * 40)
    runs.loc[runs["init"] == "zeros", "val_accuracy"] = np.nan
    verdicts = levels(runs, "init", "default").set_index("init")["verdict"]
    assert dict(verdicts) == {"default": "", "zeros": "lower", "normal": "no difference detectable"}


def test_a_configuration_in_words():
    row = {"layers": 2, "width": 256, "optimizer": "Adam", "lr": 0.0012, "momentum": 0.0, "batch_norm": np.True_}
    assert configuration(pd.Series(row), list(row)) == "2 × 256, Adam, lr 0.0012, batch norm"


# --- what the page shows ----------------------------------------------------------------------------------------------


def learning(runs: pd.DataFrame, epochs: int) -> pd.DataFrame:
    rows = [
        runs[["run_id"]].assign(epoch=e, val_accuracy=runs["val_accuracy"] * (e + 1) / 4) for e in range(epochs + 1)
    ]
    return pd.concat(rows, ignore_index=True)


def test_each_curve_has_its_number_and_its_configuration():
    runs = made_up(20)
    runs.loc[runs.index[-1], ["val_accuracy", "test_accuracy"]] = np.nan
    figure = trial_curves(runs, learning(runs, 3), ["layers", "width", "optimizer", "lr", "batch_norm"], 4)
    curves, settings = figure.axes
    for ax in (curves, settings):
        assert len(ax.collections[0].get_segments()) == 20
        assert {"1", "2", "3", "4"} <= {text.get_text() for text in ax.texts}
    ends = [line for line in curves.lines if len(line.get_xdata()) == 4]
    looks = [[(line.get_color(), line.get_marker()) for line in lines] for lines in (ends, settings.lines)]
    assert len(set(looks[0])) == 4 and set(looks[0]) <= set(looks[1])


def test_an_animation_moves_in_html_and_is_its_last_picture_in_the_pdf(monkeypatch):
    outputs, runs = [], made_up(20)

    def keep(data, metadata, raw):
        outputs.append(nbf.new_output("display_data", data=data, metadata=metadata))

    monkeypatch.setattr(publish, "display", keep)
    publish.animate(
        growing(runs, learning(runs, 3)), "fig-moving", "A cloud that rises.", "Marks that rise by the epoch."
    )
    cells = [nbf.new_markdown_cell("# Title {#sec-title}"), nbf.new_code_cell("x", outputs=outputs)]
    notebook = nbf.new_notebook(cells=cells, metadata={"fmnist": {"title": "T", "authors": [{"name": "A"}]}})

    page = HomeworkHTML().from_notebook_node(notebook)[0]
    moving, still = re.findall(r"<img\b[^>]*>", page)
    assert 'class="moving"' in moving and 'class="still"' in still
    assert page.count("<script") == 1  # the one that every page has; what moves is a picture
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', moving)[1])))
    shown = [np.asarray((picture.seek(i), picture.convert("L"))[1], int) for i in range(picture.n_frames)]
    assert len(shown) == 4 and all(np.abs(a - b).max() > 100 for a, b in zip(shown, shown[1:], strict=False))

    paper = pypdf.PdfReader(io.BytesIO(HomeworkPDF().from_notebook_node(notebook)[0]))
    (first,) = paper.pages
    assert "A cloud that rises." in first.extract_text() and not first.images  # drawn, not pixels
