"""What a reader relies on where published numbers and claims are held against our runs. All runs here are simulated."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reference import simulated
from scipy import stats

from fmnist import replication
from fmnist.config import UserError
from fmnist.paper.report import Report
from fmnist.plots.replication import forest
from fmnist.replication import NumberTable, Published, check_choices, read, select

ROOT = Path(__file__).parents[1]
REPORTS = sorted(path.parent.name for path in (ROOT / "params").glob("*/published.yaml"))
ANSWERS = {1: "holds", 0: "cannot be decided", -1: "does not hold"}


def evidence(claims: list[list[dict]], runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """`replication.evidence` on the simulated study "s", of claims with their tests; and each claim's answer."""
    listed = [{"says": "so it is", "tests": [{"study": "s"} | test for test in tests]} for tests in claims]
    published = Published.model_validate({"author": "A", "cite": "a", "protocol": "p", "claims": listed})
    table = replication.evidence(published, runs, history)
    return table.assign(answer=table.groupby("claim")["status"].transform("min").map(ANSWERS))


def found(tests: list[dict], runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    return evidence([[test] for test in tests], runs, history)


def answer(test: dict, means: dict, **options) -> pd.Series:
    return found([test], *simulated(means, **options)).iloc[0]


def of(*names: str) -> dict:
    return {"variant": list(names)}


SETTINGS = pd.DataFrame({
    "trial": ["A, lr 0.1", "A, lr 0.01", "B, lr 0.1"], "variant": ["A", "A", "B"],
    "optimizer": ["Adam", "Adam", "SGD"], "lr": [0.1, 0.01, 0.1], "hidden_sizes": ["64-64", "64-64", "128"],
})  # fmt: skip


@pytest.mark.parametrize(
    ("where", "labels"),
    [
        ({"optimizer": "Adam", "lr": 0.01}, ["A, lr 0.01"]),
        ({"variant": "A", "lr": [0.01, 0.1]}, ["A, lr 0.01", "A, lr 0.1"]),  # in the order asked for
        ([{"variant": "B"}, {"lr": 0.01}], ["B, lr 0.1", "A, lr 0.01"]),
        ({"hidden_sizes": [128]}, ["B, lr 0.1"]),
        ({"hidden_sizes": [[128], [64, 64]], "lr": 0.1}, ["B, lr 0.1", "A, lr 0.1"]),
    ],
)
def test_trials_are_found_by_their_fields(where, labels):
    assert select(SETTINGS, where) == labels


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"lr": 0.02}, r"x: \{'lr': 0.02\} should be of one trial, and is of none of A, lr 0.1; A, lr 0.01; B"),
        ({"lr": 0.1}, r"is of A, lr 0.1; B, lr 0.1"),
        ({"optimiser": "Adam"}, "x: optimiser: no such field; did you mean 'optimizer'"),
    ],
)
def test_fields_of_no_trial_or_of_several_are_refused(where, said):
    with pytest.raises(UserError, match=said):
        select(SETTINGS, where, "x", several=False)
    assert select(SETTINGS, {"lr": 0.1}) == ["A, lr 0.1", "B, lr 0.1"]


def test_the_prediction_interval_is_that_of_one_more_value():
    values = np.array([88.1, 88.4, 87.9, 88.6, 88.2, 88.0])
    low, high = replication.prediction([*values, np.nan])
    expected = stats.t.interval(0.95, 5, values.mean(), values.std(ddof=1) * np.sqrt(7 / 6))
    assert (low, high) == pytest.approx(expected)
    assert np.isnan(replication.prediction([88.1])).all()


def test_a_mean_over_batches_weights_the_last_one_more():
    """Simulated: how far the mean over batches of 256, of which the last has 16, lies from that over all images."""
    rng, right = np.random.default_rng(2), np.arange(10_000) < 8_800
    gaps = []
    for _ in range(2000):
        rng.shuffle(right)
        gaps.append(np.mean([right[i : i + 256].mean() for i in range(0, 10_000, 256)]) - 0.88)
    assert replication.averaging(0.88, 256) == pytest.approx(np.std(gaps), rel=0.06)
    low, high = replication.prediction([10.0] * 6, extra=0.2)
    assert high - 10 == 10 - low == pytest.approx(0.2 * stats.t.ppf(0.975, 5))


def judge(*values: float, metric="test_accuracy", scale=1.0, **options) -> pd.DataFrame:
    rows = [{"of": of("a"), "value": value, "pm": 2.1} for value in values]
    table = {"study": "s", "caption": "c", "metric": metric, "scale": scale, "rows": rows}
    return replication.judge(NumberTable.model_validate(table), simulated({"a": 0.88, "b": 0.5}, **options)[0])


def verdicts(*values: float, **options) -> list[str]:
    return list(judge(*values, **options).verdict)


def test_a_number_agrees_inside_the_interval_and_differs_outside():
    row = judge(88.0).iloc[0]
    assert (row.verdict, row.n, row.pm, row.batch_std) == ("agrees", 6, 2.1, pytest.approx(2.0))
    assert row.one_low < row.low < row["mean"] < row.high < row.one_high
    assert verdicts(row.one_low + 1e-6, row.one_high - 1e-6) == ["agrees", "agrees"]
    assert verdicts(row.one_low - 1e-6, row.one_high + 1e-6) == ["differs", "differs"]
    assert judge(90.0).difference[0] == pytest.approx(row["mean"] - 90)
    assert verdicts(0.12, 0.5, metric="test_loss") == ["agrees", "differs"]


def test_nothing_is_told_from_two_runs_from_diverged_ones_or_from_a_wide_interval():
    assert verdicts(88.0, seeds=2) == verdicts(10.0, lost="a") == verdicts(88.0, noise=0.05) == ["cannot tell"]
    assert verdicts(88.0, seeds=3) == ["agrees"]
    assert verdicts(480, metric="seconds") == ["another machine"]
    assert judge(2.0, metric="seconds_per_epoch")["mean"][0] == 2.0


def test_a_scale_makes_a_divided_loss_comparable():
    row, plain = (judge(0.012, metric="test_loss", scale=scale).iloc[0] for scale in (0.1, 1.0))
    assert (row.verdict, plain.verdict) == ("agrees", "differs")
    names = ["mean", "low", "high", "one_low", "one_high"]
    assert row[names].tolist() == pytest.approx((0.1 * plain[names]).tolist())


def test_the_figure_shows_every_number_and_leaves_pyplot_alone():
    import matplotlib.pyplot as plt

    judged = pd.concat([judge(86.5, 88.0, 10.25), judge(88.0, lost="a")], ignore_index=True)
    figure = forest(judged, "Wood")
    figure.canvas.draw()
    (axes,) = figure.axes
    (crosses,) = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [86.5, 88.0, 10.25, 88.0] and not plt.get_fignums()
    assert [text.get_text().split(",")[0] for text in axes.texts] == ["differs", "agrees", "differs", "cannot tell"]
    assert forest(judge(0.1, metric="test_loss", scale=0.1), "Wood").axes[0].get_xlabel() == "test loss (nats × 0.1)"


PUBLISHED = [{"of": {"lr": 0.1}, "value": 86.0}, {"of": {"lr": 0.01}, "value": 80.0}]


def chosen(means: dict[str, tuple[float, float]], noise=0.001, baseline="ours", **options) -> pd.DataFrame:
    """`distances` of simulated choices {choice: accuracies at the two learning rates}."""
    rows = [
        {"study": "choices", "trial": f"{name}, lr {lr}", "variant": name, "lr": lr, "accuracy": mean}
        for name, pair in means.items()
        for lr, mean in zip((0.1, 0.01), pair, strict=True)
    ]
    runs, _ = simulated(pd.DataFrame(rows), noise=noise, **options)
    if not noise:
        runs["test_accuracy"] = runs["accuracy"]
    judged = replication.judge(check_choices(PUBLISHED, "test_accuracy", pd.DataFrame(rows)), runs)
    return replication.distances(judged, runs, baseline).set_index("choice")


def test_the_distance_of_a_choice_is_its_root_mean_square():
    """Off by +3 and −4 points: root mean square √12.5, mean absolute 3.5."""
    table = chosen({"ours": (0.89, 0.76), "exact": (0.86, 0.8)}, noise=0)
    assert table.rms.to_dict() == pytest.approx({"ours": np.sqrt(12.5), "exact": 0})
    assert table.absolute.to_dict() == pytest.approx({"ours": 3.5, "exact": 0})
    assert table.difference["exact"] == pytest.approx(-np.sqrt(12.5)) and table.verdict["exact"] == "closer"


def test_the_closest_choice_is_named_only_where_seeds_allow_it():
    means = {"ours": (0.88, 0.82), "near": (0.861, 0.801), "far": (0.7, 0.6)}
    assert list(chosen(means, seeds=3).verdict) == ["", "closer", "farther"]
    assert list(chosen(means, seeds=2).verdict) == ["", "cannot tell", "cannot tell"]
    assert chosen({"ours": (0.87, 0.81), "near": (0.868, 0.808)}, noise=0.01, seeds=3).verdict["near"] == "cannot tell"


def test_more_choices_widen_the_interval():
    means = {"ours": (0.88, 0.82), "a": (0.87, 0.81)}
    one, wide = chosen(means).loc["a"], chosen(means | {name: (0.87, 0.81) for name in "bcde"}).loc["a"]
    ratio = stats.t.ppf(1 - 0.025 / 5, 5) / stats.t.ppf(0.975, 5)
    assert wide.difference == one.difference and (wide.high - wide.low) / (one.high - one.low) == pytest.approx(ratio)


def test_a_choice_that_diverges_guesses():
    row = chosen({"ours": (0.86, 0.8), "lost": (0.86, 0.8)}, lost=["lost, lr 0.1"]).loc["lost"]
    assert row.diverged == 6 and row.rms == pytest.approx(76 / np.sqrt(2), abs=0.1) and row.verdict == "farther"


@pytest.mark.parametrize(
    ("published", "said"),
    [
        (PUBLISHED[:1], "published: needs one number for 'ours, lr 0.01'"),
        ([{"of": {"lr": 0.02}, "value": 8.0}], "published: {'variant': 'ours', 'lr': 0.02} .* none of ours"),
        ([{"of": {}, "value": 86.0}], "is of ours, lr 0.1; ours, lr 0.01"),
    ],
)
def test_a_published_setting_is_one_trial_of_each_choice(published, said):
    settings = pd.DataFrame({"trial": ["ours, lr 0.1", "ours, lr 0.01"], "variant": "ours", "lr": [0.1, 0.01]})
    with pytest.raises(UserError, match=said):
        check_choices(published, "test_accuracy", settings)


OVER, BEST, RISING = {"of": of("a"), "over": of("b")}, {"best": of("a")}, {"rising": of("b", "c", "a")}
BY_TWO, LEVEL = OVER | {"at_least": 1.5, "at_most": 2.5}, {"of": of("a"), "at_most": 50}
SAME, ERROR = {"of": of("a", "b"), "within": 0.5}, {"of": of("a"), "to": of("b"), "within": "batches"}  # two points
FAR, NEAR, BACK = {"a": 0.88, "b": 0.86}, {"a": 0.88, "b": 0.8799}, {"a": 0.86, "b": 0.88}


@pytest.mark.parametrize(
    ("test", "means", "expected"),
    [
        (OVER, FAR, "holds"),
        (OVER, BACK, "does not hold"),
        (OVER, NEAR, "does not hold"),  # a lead worth the name is excluded
        (BY_TWO, {"a": 0.90, "b": 0.86}, "does not hold"),
        (BY_TWO, {"a": 0.885, "b": 0.86}, "cannot be decided"),  # the interval holds 2.5
        (SAME, NEAR, "holds"),
        (SAME, {"a": 0.88, "b": 0.875}, "cannot be decided"),
        (ERROR, {"a": 0.88, "b": 0.87}, "holds"),
        (ERROR, {"a": 0.88, "b": 0.85}, "does not hold"),
        (BEST, {"a": 0.9, "b": 0.88, "c": 0.89}, "holds"),
        (BEST, {"a": 0.88, "b": 0.86, "c": 0.89}, "does not hold"),
        (BEST, {"a": 0.88, "b": 0.86, "c": 0.8799}, "cannot be decided"),
        (BEST | {"among": of("b")}, {"a": 0.88, "b": 0.86, "c": 0.89}, "holds"),
        (BEST | {"metrics": ["test_loss"]}, {"a": 0.88, "b": 0.9, "c": 0.89}, "does not hold"),
        (RISING, {"a": 0.9, "b": 0.88, "c": 0.89}, "holds"),
        (RISING, {"a": 0.9, "b": 0.88, "c": 0.91}, "does not hold"),
        (LEVEL, {"a": 0.7}, "does not hold"),
    ],
)
def test_a_claim_is_answered(test, means, expected):
    assert answer(test, means).answer == expected
    assert answer(test, means, seeds=5).answer == "cannot be decided"


def test_equality_is_not_claimed_for_want_of_evidence():
    """Where the runs scatter so much that a test finds no difference, equality is as undecided as the difference."""
    assert answer(SAME, NEAR, noise=0.03).answer == answer(OVER, NEAR, noise=0.03).answer == "cannot be decided"


def test_epochs_are_read_from_the_history():
    early = OVER | {"metrics": ["val_accuracy"], "at": 1, "at_most": 1.4}
    means = {"a": 0.9, "b": 0.885}  # 1.5 points apart at the end, three quarters of that after one epoch
    row = answer(early, means)
    assert (row.answer, row.trial, row.baseline) == ("holds", "a at epoch 1", "b at epoch 1")
    assert row.difference == pytest.approx(0.01125, abs=0.002)
    late = OVER | {"metrics": ["val_accuracy"], "at": [1, 3], "over_at": "end", "at_least": -1}
    row = answer(late, means)
    assert (row.answer, row.trial, row.baseline) == ("does not hold", "a at epochs 1 to 3", "b at the end")
    beyond = answer(late | {"at": [9, 11]}, means)
    assert (beyond.answer, beyond.n) == ("cannot be decided", 0)


def test_one_rise_refutes_a_falling_loss():
    runs, history = simulated(FAR)
    history.loc[history.epoch == 0, "train_loss"] = np.nan  # nothing was trained yet
    assert set(found([{"falling": "train_loss"}], runs, history).answer) == {"holds"}
    history.loc[(history.run_id == "s/b/3") & (history.epoch == 7), "train_loss"] = 9.0
    table = found([{"falling": "train_loss"}], runs, history.sample(frac=1, random_state=0))
    assert set(table.answer) == {"does not hold"} and list(table.difference) == pytest.approx([1, 5 / 6])
    assert set(found([{"falling": "train_loss", "of": of("a")}], runs, history).answer) == {"holds"}


def test_a_diverged_network_guesses():
    row = answer(BEST, {"a": 0.88, "b": 0.9}, lost=["b"])
    assert row.answer == "holds" and row.guessed == 6 and row.difference == pytest.approx(0.78, abs=0.01)
    assert answer(LEVEL, {"a": 0.88}, lost=["a"]).answer == "holds"


def test_comparisons_of_all_claims_are_one_family():
    runs, history = simulated({"a": 0.88, "b": 0.878, "c": 0.8785, "d": 0.86}, noise=0.002)
    three = found([{"of": of("a"), "over": of(name)} for name in "bcd"], runs, history)
    one = found([OVER], runs, history).iloc[0]
    assert one.p == one.p_holm == three.p[0] < three.p_holm[0]
    mixed = found([OVER, SAME, LEVEL], runs, history)  # what bounds decide is not in it
    assert mixed.p_holm[0] == one.p and mixed.p_holm[1:].isna().all()


def test_all_tests_of_a_claim_must_hold():
    good, bad = OVER, {"of": of("a"), "over": of("c")}
    table = evidence([[good, bad], [good]], *simulated({"a": 0.88, "b": 0.86, "c": 0.9}))
    assert list(table.answer) == ["does not hold", "does not hold", "holds"] and list(table.test) == [0, 1, 0]


@pytest.mark.parametrize("name", REPORTS)
def test_every_number_and_claim_of_a_report_finds_its_trials(name):
    """With simulated runs for all of its trials, every table has its numbers and every claim an answer."""
    chapters = [one for one in Report(name, "cpu").chapters if one.kind in ("study", "choices")]
    settings = {one.name: one.study.settings() for one in chapters}
    published = read(ROOT / "params" / name, settings)
    rows = pd.concat([table.assign(study=study, accuracy=0.88) for study, table in settings.items()])
    runs, history = simulated(rows)
    table = replication.evidence(published, runs, history)
    assert table.claim.nunique() == len(published.claims) > 0 and set(table.status) <= {1, 0, -1}
    for table in published.numbers:
        assert (replication.judge(table, runs).n == 6).all()


GOOD = """
{author: A, cite: a, protocol: p, numbers: [{study: s, caption: c, rows: [{of: {variant: a}, value: 87.2}]}],
 claims: [{says: a beats b, tests: [{study: s, of: {variant: a}, over: {variant: b}}]}]}
"""
TEST = "of: {variant: a}, over: {variant: b}"


def load(folder: Path, text: str) -> Published:
    (folder / "published.yaml").write_text(text, encoding="utf-8")
    return read(folder, {"s": pd.DataFrame({"trial": ["a", "b"], "variant": ["a", "b"], "lr": 0.1, "epochs": 5})})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("over:", "ovre:", r"claims\.0\.tests\.0\.ovre: unknown key; did you mean 'over'"),
        ("{variant: b}", "{variant: c}", r"claims\.0\.over: \{'variant': 'c'\} .* none of a; b \(.*/s.yaml\)"),
        ("over: {variant: b}", "over: {name: b}", "name: no such field.*Allowed: variant"),
        ("over: {variant: b}", "over: {variant: a}", "needs two different trials"),
        ("over: {variant: b}", "within: 1", "needs two different trials"),
        (TEST, "best: {lr: 0.1}", r"claims\.0\.best: .* should be of one trial, and is of a; b"),
        (TEST, TEST + ", at: 3", "training and validation metrics are read at an epoch, others at the end only"),
        (TEST, TEST + ", within: 1", "within: does not stand beside over"),
        (TEST, TEST.replace("over", "within: batches, metrics: [val_loss], to"), "for a loss a number is required"),
        (TEST, "of: {variant: a}", "asks nothing"),
        ("{study: s, caption", "{study: t, caption", "numbers.0: the report has no study 't'.*Allowed: s"),
        (TEST, TEST + ", metrics: [val_loss], at: [2, 6]", "claims.0: at: epoch 6 is beyond the 5 of 'a'"),
        ("value: 87.2", "value: 101", "numbers.0: rows.0: value: should be at most 100, as test_accuracy is"),
    ],
)
def test_a_mistake_is_named_in_one_line(old, new, said, tmp_path):
    assert load(tmp_path, GOOD).claims[0].says == "a beats b"
    with pytest.raises(UserError, match=said) as error:
        load(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(error.value) and str(error.value).startswith(f"params/{tmp_path.name}/published.yaml: ")


def test_a_report_without_the_notebook_needs_no_file(tmp_path):
    assert read(tmp_path, {}, required=False) is None
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path, {})
