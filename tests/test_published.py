"""What a reader relies on where published numbers and claims are held against our runs. All runs here are simulated."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fmnist.config import UserError
from fmnist.paper.report import Report
from fmnist.plots import replication as agreement
from fmnist.replication_old import choices, claims, reproduced
from fmnist.replication_old.published import Published, Table, read

ROOT = Path(__file__).parents[1]
REPORTS = sorted(path.parent.name for path in (ROOT / "params").glob("*/published.yaml"))
EPOCHS = 10


def simulated(means, seeds=6, noise=0.001, lost=(), generator=0):
    """Runs and histories of trials {trial: accuracy at the end}, to which ten epochs climb; the `lost` diverged."""
    rng = np.random.default_rng(generator)
    shared, rows, history = rng.normal(0, 0.003, seeds), [], []
    for trial, mean in means.items():
        for seed in range(seeds):
            gone = trial in lost
            val, test, train = (np.nan if gone else mean + shared[seed] + e for e in rng.normal(0, noise, 3))
            row = {"run_id": f"{trial}/{seed}", "trial": trial, "seed": seed, "epochs": EPOCHS, "seconds": 20.0}
            row |= {"test_accuracy": test, "val_accuracy": val, "train_accuracy": train, "diverged": gone}
            row |= {"test_loss": 1 - test, "train_loss": 1 - train, "val_loss": 1 - val, "test_accuracy_std": 0.02}
            row |= {"best_val_test_accuracy": test, "best_val_test_accuracy_std": 0.02, "best_val_test_loss": 1 - test}
            rows.append(row)
            for epoch in range(EPOCHS + 1):
                about = {"run_id": row["run_id"], "trial": trial, "seed": seed, "epoch": epoch}
                about |= {"val_accuracy": val * (1 - 0.5 / (1 + epoch)), "train_accuracy": train}
                history.append(about | {"train_loss": 3.0 - 0.2 * epoch})
    return pd.DataFrame(rows), pd.DataFrame(history)


def answer(test: dict, means: dict, **options) -> pd.Series:
    """What `claims.answers` says of one claim with one test, on the simulated study "s"."""
    (kind, asked), (runs, history) = next(iter(test.items())), simulated(means, **options)
    return answered({kind: {"study": "s", **asked}}, runs, history)


def answered(test: dict, runs: pd.DataFrame, history: pd.DataFrame) -> pd.Series:
    claim = {"says": "so it is", "tests": [test], "otherwise": "For want of seeds."}
    published = Published.model_validate({"author": "A", "cite": "a", "protocol": "p", "claims": [claim]})
    return claims.answers(published, {"s": runs}, {"s": history}).iloc[0]


def test_what_a_failure_may_come_from_is_said_of_failures_only():
    assert answer(HIGHER, BACK).otherwise and not answer(HIGHER, FAR).otherwise


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_prediction_interval_is_that_of_one_more_value():
    values = np.array([88.1, 88.4, 87.9, 88.6, 88.2, 88.0])
    low, high = reproduced.prediction([*values, np.nan])
    expected = stats.t.interval(0.95, 5, values.mean(), values.std(ddof=1) * np.sqrt(7 / 6))
    assert (low, high) == pytest.approx(expected)
    assert np.isnan(reproduced.prediction([88.1])).all()


def test_one_more_value_falls_into_it_nineteen_times_of_twenty():
    draws = np.random.default_rng(1).normal(88, 0.3, (4000, 7))
    inside = [low <= row[6] <= high for row in draws for low, high in [reproduced.prediction(row[:6])]]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.011)  # three standard deviations of the share


def test_a_mean_over_batches_weights_the_last_one_more():
    """Simulated: how far the mean over batches of 256, of which the last has 16, lies from that over all images."""
    rng, right = np.random.default_rng(2), np.arange(10_000) < 8_800
    gaps = []
    for _ in range(2000):
        rng.shuffle(right)
        gaps.append(np.mean([right[i : i + 256].mean() for i in range(0, 10_000, 256)]) - 0.88)
    assert reproduced.averaging(0.88, 256) == pytest.approx(np.std(gaps), rel=0.06)
    assert reproduced.averaging(0.88, 100) == 0
    low, high = reproduced.prediction([10.0] * 6, extra=0.2)
    assert high - 10 == 10 - low == pytest.approx(0.2 * stats.t.ppf(0.975, 5))


def judge(value: float, metric="test_accuracy", **options) -> pd.Series:
    table = {"study": "s", "caption": "c", "metric": metric, "rows": [{"trial": "a", "value": value, "pm": 2.1}]}
    return reproduced.judge(Table.model_validate(table), {"s": simulated({"a": 0.88}, **options)[0]}).iloc[0]


def test_a_number_agrees_inside_the_interval_and_differs_outside():
    row = judge(88.0)
    assert (row.verdict, row.n, row.pm, row.batch_std) == ("agrees", 6, 2.1, pytest.approx(2.0))
    assert row.one_low < row.low < row["mean"] < row.high < row.one_high
    assert judge(row.one_low + 1e-6).verdict == judge(row.one_high - 1e-6).verdict == "agrees"
    assert judge(row.one_low - 1e-6).verdict == judge(row.one_high + 1e-6).verdict == "differs"
    assert judge(90.0).difference == pytest.approx(row["mean"] - 90)
    assert judge(0.12, "test_loss").verdict == "agrees" and judge(0.5, "test_loss").verdict == "differs"


def test_nothing_is_told_from_two_runs_from_diverged_ones_or_from_a_wide_interval():
    assert judge(88.0, seeds=2).verdict == judge(10.0, lost="a").verdict == "cannot tell"
    assert judge(88.0, seeds=3).verdict == "agrees"
    assert judge(88.0, noise=0.05).verdict == "cannot tell"
    assert judge(480, "seconds").verdict == "another machine"
    assert judge(2.0, "seconds_per_epoch")["mean"] == 2.0


def test_published_numbers_are_printed_as_they_were():
    judged = pd.concat([judge(value).to_frame().T for value in (86.5, 10.25)], ignore_index=True)
    table = reproduced.beside(judged)
    assert list(table["Published (%)"]) == ["86.50 ± 2.1", "10.25 ± 2.1"] and len(table.columns) <= 8
    assert "diverged (6 of 6)" in reproduced.beside(judge(10, lost="a").to_frame().T).to_string()
    assert reproduced.tally(judged) == "of two published numbers, two differ"
    low, high = judged.difference.min(), judged.difference.max()
    assert reproduced.apart(judged) == f"Ours \N{MINUS SIGN} published lies between +{low:.1f} and +{high:.1f} points."
    assert reproduced.apart(judged[:1]) == ""


def test_the_figure_shows_every_number_and_leaves_pyplot_alone():
    import matplotlib.pyplot as plt

    judged = pd.concat([judge(value).to_frame().T for value in (86.5, 88.0, 10.25)], ignore_index=True)
    lost = judge(88.0, lost="a").to_frame().T
    figure = agreement.agreement(pd.concat([judged, lost], ignore_index=True).infer_objects(), "Wood")
    figure.canvas.draw()
    (axes,) = figure.axes
    crosses = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [86.5, 88.0, 10.25, 88.0] and not plt.get_fignums()
    assert [text.get_text().split(",")[0] for text in axes.texts] == ["differs", "agrees", "differs", "cannot tell"]


def test_a_scale_makes_a_divided_loss_comparable():
    """A report that divides its loss by ten prints a tenth of our cross entropy."""
    rows = [{"trial": "a", "value": 0.012}]
    given = {"study": "s", "caption": "c", "metric": "test_loss", "scale": 0.1, "rows": rows}
    runs = {"s": simulated({"a": 0.88})[0]}
    row = reproduced.judge(Table.model_validate(given), runs).iloc[0]
    plain = reproduced.judge(Table.model_validate(given | {"scale": 1.0}), runs).iloc[0]
    assert (row.verdict, plain.verdict) == ("agrees", "differs")
    for name in ("mean", "low", "high", "one_low", "one_high"):
        assert row[name] == pytest.approx(0.1 * plain[name])
    assert row.difference == pytest.approx(row["mean"] - 0.012)
    judged = row.to_frame().T.infer_objects()
    assert "Ours (nats × 0.1) [95 %]" in reproduced.beside(judged)
    assert agreement.agreement(judged, "Wood").axes[0].get_xlabel() == "test loss (nats × 0.1)"
    with pytest.raises(ValueError, match="is for losses"):
        Table.model_validate(given | {"metric": "test_accuracy"})


def test_a_number_printed_in_several_tables_counts_once():
    """The baseline of a report stands in many of its tables; the same figure for another network is another number."""
    rows = [{"trial": "a", "value": 88.0}, {"trial": "b", "value": 88.0}, {"trial": "lost", "value": 10.0}]
    given = {"study": "s", "caption": "c", "metric": "test_accuracy", "rows": rows}
    runs = {"s": simulated({"a": 0.88, "b": 0.87, "lost": 0.5, "gone": 0.5})[0]}
    runs["s"].loc[runs["s"]["trial"].isin(["lost", "gone"]), "test_accuracy"] = float("nan")
    again = given | {"rows": [rows[0], {"trial": "gone", "value": 10.0}]}
    tables = [reproduced.judge(Table.model_validate(one), runs) for one in (given, again)]
    assert list(reproduced.distinct(tables).trial) == ["a", "b", "lost", "gone"]


# --- choices ----------------------------------------------------------------------------------------------------------

PUBLISHED = {"lr 0.1": 86.0, "lr 0.01": 80.0}


def chosen(means: dict[str, tuple[float, float]], noise=0.001, **options) -> pd.DataFrame:
    """Simulated runs of choices {choice: accuracies at the two learning rates}."""
    given = {f"{name}, {lr}": mean for name, pair in means.items() for lr, mean in zip(PUBLISHED, pair, strict=True)}
    runs, _ = simulated(given, noise=noise, **options)
    return runs.assign(variant=runs["trial"].str.split(", ").str[0])


def test_the_distance_of_a_choice_is_its_root_mean_square():
    """Off by +3 and −4 points: root mean square √12.5, mean absolute 3.5."""
    runs = chosen({"ours": (0.89, 0.76), "exact": (0.86, 0.8)}).assign(test_accuracy=lambda r: r.test_accuracy.round(9))
    exact = runs["trial"].map(
        {"ours, lr 0.1": 0.89, "ours, lr 0.01": 0.76, "exact, lr 0.1": 0.86, "exact, lr 0.01": 0.8}
    )
    found = choices.distances(runs.assign(test_accuracy=exact), PUBLISHED, "ours").set_index("choice")
    assert found.rms.to_dict() == pytest.approx({"ours": np.sqrt(12.5), "exact": 0})
    assert found.absolute.to_dict() == pytest.approx({"ours": 3.5, "exact": 0})
    assert found.difference["exact"] == pytest.approx(-np.sqrt(12.5)) and found.verdict["exact"] == "closer"
    assert list(found.numbers) == [2, 2] and list(found.agree) == [0, 2]


def test_the_closest_choice_is_named_only_where_seeds_allow_it():
    runs = chosen({"ours": (0.88, 0.82), "near": (0.861, 0.801), "far": (0.7, 0.6)}, seeds=3)
    found = choices.distances(runs, PUBLISHED, "ours").set_index("choice")
    assert found.verdict.to_dict() == {"ours": "", "near": "closer", "far": "farther"}
    text = choices.says(found.reset_index())
    assert (
        text.startswith("Near comes closest to the published numbers: a root mean square of")
        and "far is farther away than ours" in text
    )
    vague = choices.distances(
        chosen({"ours": (0.87, 0.81), "near": (0.868, 0.808)}, noise=0.01, seeds=3), PUBLISHED, "ours"
    )
    assert vague.verdict[1] == "cannot tell" and "cannot be told" in choices.says(vague)
    two = choices.distances(runs[runs.seed < 2], PUBLISHED, "ours")
    assert set(two.verdict) == {"", "cannot tell"}
    best = choices.says(choices.distances(runs, PUBLISHED, "near"))
    assert best.startswith("No choice comes closer to the published numbers than ours (near)")


def test_more_choices_widen_the_interval():
    means = {"ours": (0.88, 0.82), "a": (0.87, 0.81)}
    few, many = chosen(means), chosen(means | {name: (0.87, 0.81) for name in "bcde"})
    one = choices.distances(few, PUBLISHED, "ours").iloc[1]
    expected = stats.t.interval(0.95, 5, one.difference, (one.high - one.difference) / stats.t.ppf(0.975, 5))
    assert (one.low, one.high) == pytest.approx(expected)
    row = choices.distances(many[many.variant.isin(["ours", "a"])], PUBLISHED, "ours").iloc[1]
    wide = choices.distances(many, PUBLISHED, "ours").iloc[1]
    ratio = stats.t.ppf(1 - 0.025 / 5, 5) / stats.t.ppf(0.975, 5)
    assert wide.difference == row.difference and (wide.high - wide.low) / (row.high - row.low) == pytest.approx(ratio)


def test_a_choice_that_diverges_guesses():
    runs = chosen({"ours": (0.86, 0.8), "lost": (0.86, 0.8)}, lost=["lost, lr 0.1"])
    row = choices.distances(runs, PUBLISHED, "ours").iloc[1]
    assert row.diverged == 6 and row.rms == pytest.approx(76 / np.sqrt(2), abs=0.1) and row.verdict == "farther"
    assert "diverged (6 of 12)" in choices.shown(choices.distances(runs, PUBLISHED, "ours")).to_string()


def test_the_figure_of_choices_has_a_cross_for_every_number():
    runs = chosen({"ours": (0.88, 0.82), "near": (0.86, 0.8)}, lost=["near, lr 0.1"])
    figure = agreement.choices(choices.beside(runs, PUBLISHED), "ours")
    figure.canvas.draw()
    (cross,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [86.0, 80.0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["ours (ours)", "near", "published"]


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"lr 0.1": 86.0, "lr 0.02": 80.0}, r"published: the study has no setting 'lr 0.02'; did you mean 'lr 0.01'"),
        ({"lr 0.1": 86.0}, "published: no number for the setting 'lr 0.01'"),
        ({"lr 0.1": "86", "lr 0.01": 80.0}, "published.lr 0.1: should be a valid number"),
        ({"lr 0.1": 860.0, "lr 0.01": 80.0}, "should be less than or equal to 100"),
        ({}, "published: "),
    ],
)
def test_a_published_setting_is_one_of_the_study(published, said):
    trials = {"ours, lr 0.1": "ours", "ours, lr 0.01": "ours"}
    assert choices.check({"published": PUBLISHED}, trials).metric == "test_accuracy"
    with pytest.raises(UserError, match=said) as error:
        choices.check({"published": published}, trials, "params/x/choices.yaml")
    assert "\n" not in str(error.value) and str(error.value).startswith("params/x/choices.yaml: ")


# --- claims -----------------------------------------------------------------------------------------------------------

HIGHER = {"higher": {"trial": "a", "than": ["b"]}}
BY_TWO = {"higher": {"trial": "a", "than": ["b"], "at_least": 1.5, "at_most": 2.5}}
SAME = {"same": {"trials": ["a", "b"], "margin": 0.5}}
ERROR = {"same": {"trials": ["a", "b"]}}  # within the spread over test batches, two points here
BEST = {"best": {"trial": "a"}}
TREND = {"trend": {"trials": ["b", "c", "a"]}}
LEVEL = {"level": {"trials": ["a"], "at_most": 50}}
LOWER_LOSS = {"best": {"trial": "a", "metrics": ["test_loss"]}}
FAR, NEAR, BACK = {"a": 0.88, "b": 0.86}, {"a": 0.88, "b": 0.8799}, {"a": 0.86, "b": 0.88}


@pytest.mark.parametrize(
    ("test", "means", "expected"),
    [
        (HIGHER, FAR, "holds"),
        (HIGHER, BACK, "does not hold"),
        (HIGHER, NEAR, "does not hold"),  # a lead worth the name is excluded
        (BY_TWO, FAR, "holds"),
        (BY_TWO, {"a": 0.90, "b": 0.86}, "does not hold"),
        (BY_TWO, {"a": 0.885, "b": 0.86}, "cannot be decided"),  # the interval holds 2.5
        (SAME, NEAR, "holds"),
        (SAME, FAR, "does not hold"),
        (SAME, {"a": 0.88, "b": 0.875}, "cannot be decided"),
        (ERROR, {"a": 0.88, "b": 0.87}, "holds"),
        (ERROR, {"a": 0.88, "b": 0.85}, "does not hold"),
        (BEST, {"a": 0.9, "b": 0.88, "c": 0.89}, "holds"),
        (BEST, {"a": 0.88, "b": 0.86, "c": 0.89}, "does not hold"),
        (BEST, {"a": 0.88, "b": 0.86, "c": 0.8799}, "cannot be decided"),
        (LOWER_LOSS, {"a": 0.9, "b": 0.88, "c": 0.89}, "holds"),
        (LOWER_LOSS, {"a": 0.88, "b": 0.9, "c": 0.89}, "does not hold"),
        (TREND, {"a": 0.9, "b": 0.88, "c": 0.89}, "holds"),
        (TREND, {"a": 0.9, "b": 0.88, "c": 0.91}, "does not hold"),
        (LEVEL, {"a": 0.2}, "holds"),
        (LEVEL, {"a": 0.7}, "does not hold"),
    ],
)
def test_a_claim_is_answered(test, means, expected):
    assert answer(test, means).answer == expected
    few = answer(test, means, seeds=5)
    assert few.answer == "cannot be decided" and few.found


def test_equality_is_not_claimed_for_want_of_evidence():
    """Where the runs scatter so much that a test finds no difference, equality is as undecided as the difference."""
    row = answer(SAME, NEAR, noise=0.03)
    assert row.answer == "cannot be decided" and "across a limit" in row.found
    row = answer(HIGHER, NEAR, noise=0.03)
    assert row.answer == "cannot be decided" and "No difference between a and b is detectable" in row.found


def test_equality_is_seldom_claimed_of_what_differs_by_the_margin():
    """Two one-sided tests at 2.5 %: at the margin itself they hold in one simulation of forty."""
    found = [answer(SAME, {"a": 0.88, "b": 0.875}, generator=i).answer for i in range(120)]
    assert found.count("holds") <= 9 and "cannot be decided" in found


def test_epochs_are_read_from_the_history():
    early = {"higher": {"trial": "a", "than": ["b"], "metrics": ["val_accuracy"], "at": 1, "at_most": 1.4}}
    means = {"a": 0.9, "b": 0.885}  # 1.5 points apart at the end, three quarters of that after one epoch
    row = answer(early, means)
    assert row.answer == "holds" and "a after one epoch minus b after one epoch +1.1 [" in row.found
    over = {"higher": early["higher"] | {"at": [1, 3]}}
    assert "a over epochs 1 to 3 minus" in answer(over, means).found
    late = {
        "higher": {"trial": "a", "than": ["b"], "metrics": ["val_accuracy"], "at": 1, "than_at": "end", "at_least": -1}
    }
    row = answer(late, means)
    assert row.otherwise == "For want of seeds."
    assert row.answer == "does not hold" and "a after one epoch minus b at the end" in row.found
    beyond = answer({"higher": late["higher"] | {"at": [9, 11]}}, means)
    assert beyond.answer == "cannot be decided" and "zero seeds" in beyond.found


def test_one_rise_refutes_a_falling_loss():
    runs, history = simulated(FAR)
    test = {"monotone": {"study": "s"}}
    assert answered(test, runs, history).answer == "holds"
    up = history.copy()
    up.loc[(up.run_id == "b/3") & (up.epoch == 7), "train_loss"] = 9.0
    row = answered(test, runs, up.sample(frac=1, random_state=0))
    assert row.answer == "does not hold" and "in eleven of twelve runs" in row.found and "some runs of b" in row.found
    assert "with probability 0.83" in row.found  # 6/6 of a times 5/6 of b
    assert answered({"monotone": {"study": "s", "trials": ["a"]}}, runs, up).answer == "holds"
    start = history.copy()
    start.loc[start.epoch == 0, "train_loss"] = np.nan  # nothing was trained yet
    assert answered(test, runs, start).answer == "holds"


def test_a_diverged_network_guesses():
    row = answer(BEST, {"a": 0.88, "b": 0.9}, lost=["b"])
    assert row.answer == "holds" and "six diverged runs count as guessing" in row.found
    assert answer(LEVEL, {"a": 0.88}, lost=["a"]).answer == "holds"


def test_comparisons_of_all_claims_are_one_family():
    runs, history = simulated({"a": 0.88, "b": 0.878, "c": 0.8785, "d": 0.86}, noise=0.002)
    one = answered({"higher": {"study": "s", "trial": "a", "than": ["b"]}}, runs, history).found
    tests = [{"higher": {"study": "s", "trial": "a", "than": [name]}} for name in "bcd"]
    listed = [{"says": str(i), "tests": [test]} for i, test in enumerate(tests)]
    published = Published.model_validate({"author": "A", "cite": "a", "protocol": "p", "claims": listed})
    found = claims.answers(published, {"s": runs}, {"s": history})
    p = [float(re.search(r"p [=<] ([\d.]+)", text)[1]) for text in (one, found.found[0])]
    assert "Holm-corrected" in found.found[0] and "Holm-corrected" not in one and p[1] > p[0]


def test_all_tests_of_a_claim_must_hold_and_claims_are_counted():
    runs, history = simulated({"a": 0.88, "b": 0.86, "c": 0.9})
    good, bad = ({"higher": {"study": "s", "trial": "a", "than": [name]}} for name in "bc")
    listed = [{"says": "both", "tests": [good, bad]}, {"says": "one", "tests": [good]}]
    published = Published.model_validate({"author": "A", "cite": "a", "protocol": "p", "claims": listed})
    found = claims.answers(published, {"s": runs}, {"s": history})
    assert list(found.answer) == ["does not hold", "holds"]
    assert "*(1) holds:*" in found.found[0] and "*(2) does not hold:*" in found.found[0]
    assert claims.tally(found) == "of two claims, one holds and one does not hold"


# --- published.yaml ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTS)
def test_every_number_and_claim_of_a_report_finds_its_trials(name):
    """With simulated runs for all of its trials, every table has its numbers and every claim an answer."""
    report = Report(name, "cpu")
    made = {study: simulated(dict.fromkeys(part.trials, 0.88)) for study, part in report.studies.items()}
    runs, histories = ({study: pair[i] for study, pair in made.items()} for i in (0, 1))
    found = claims.answers(report.published, runs, histories)
    assert len(found) == len(report.published.claims) > 0
    assert set(found.answer) <= set(claims.ANSWERS.values()) and found.found.str.len().min() > 20
    for table in report.published.numbers:
        assert (reproduced.judge(table, runs).n == 6).all()


GOOD = """
author: A
cite: a
protocol: p
numbers:
  - {study: s, caption: c, rows: [{trial: a, value: 87.2}]}
claims:
  - says: a beats b
    tests:
      - higher: {study: s, trial: a, than: [b]}
"""


def load(folder: Path, text: str) -> Published:
    (folder / "published.yaml").write_text(text, encoding="utf-8")
    return read(folder, {"s": ["a", "b"]})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("higher", "hihger", r"hihger: unknown key; did you mean 'higher'\? Allowed: higher, same, best"),
        ("than: [b]", "then: [b]", r"tests\.0\.higher\.then: unknown key; did you mean 'than'"),
        ("than: [b]", "than: [c]", r"claims\.0\.tests\.0: study s has no trial 'c'.*Allowed: a, b"),
        ("than: [b]", "than: [a]", "'a' is compared with itself"),
        ("than: [b]", "than: [b], at: 3", "test_accuracy is read at the end only"),
        ("than: [b]", "than: [b], metrics: [val_accuracy], at: 0", "should be an epoch from 1"),
        ("{study: s, caption", "{study: t, caption", "numbers.0: the report has no study 't'.*Allowed: s"),
        ("value: 87.2", "value: '87.2'", "numbers.0.rows.0.value: should be a valid number"),
        ("higher: {study: s, trial: a, than: [b]}", "same: {study: s, trials: [a]}", "one alone has nothing"),
        ("higher: {study: s, trial: a, than: [b]}", "level: {study: s, trials: [a]}", "at_least: or at_most is req"),
        ("higher: {study: s, trial: a, than: [b]}", "{}", "a test is of one kind; allowed are higher, same"),
    ],
)
def test_a_mistake_is_named_in_one_line(old, new, said, tmp_path):
    assert load(tmp_path, GOOD).claims[0].says == "a beats b"
    assert old in GOOD
    with pytest.raises(UserError, match=said) as error:
        load(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(error.value) and str(error.value).startswith(f"params/{tmp_path.name}/published.yaml: ")


def test_a_report_without_the_notebook_needs_no_file(tmp_path):
    assert read(tmp_path, {}, required=False) is None
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path, {})
