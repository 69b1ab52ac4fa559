"""What a reader of the report's numbers relies on. All runs here are simulated; none was trained."""

import re

import numpy as np
import pandas as pd
import pytest
from reference import simulated
from scipy import stats

from fmnist import statistics, tables, words
from fmnist.config import UserError


def simulated_runs(means, noise=0.002, **options):
    """Runs of trials with the given mean accuracies {trial: mean}; `lost` names (trial, seed) pairs that diverged."""
    return simulated(means, noise=noise, epochs=0, **options)[0]


TWO = {"SGD, lr 0.01": 0.85, "Adam, lr 0.001": 0.88}


def test_intervals_are_scipys_and_one_seed_has_none():
    runs = simulated_runs(TWO)
    assert list(statistics.summary(runs).trial) == list(TWO), "groups keep their order"
    row = statistics.summary(runs).iloc[0]
    values = runs.loc[runs.trial == row.trial, "test_accuracy"]
    low, high = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert (row.n, row["mean"]) == (6, pytest.approx(values.mean()))
    assert (row.low, row.high) == (pytest.approx(low), pytest.approx(high))
    row = statistics.summary(simulated_runs(TWO, seeds=1)).iloc[0]
    assert row.n == 1 and np.isfinite(row["mean"]) and np.isnan([row.low, row.high]).all()


def test_differences_are_paired_by_seed():
    runs = simulated_runs(TWO).sample(frac=1, random_state=1)  # the order of rows does not matter
    row = statistics.compare(runs, "SGD, lr 0.01").iloc[0]
    wide = runs.pivot(index="seed", columns="trial", values="test_accuracy")
    expected = stats.ttest_rel(wide["Adam, lr 0.001"], wide["SGD, lr 0.01"])
    limits = expected.confidence_interval(0.95)
    assert (row.p, row.p_holm) == (pytest.approx(expected.pvalue), pytest.approx(expected.pvalue))
    assert (row.low, row.high) == (pytest.approx(limits.low), pytest.approx(limits.high))
    assert row.verdict == "higher"


def test_holm_on_the_textbook_example():
    table = pd.DataFrame({"n": 6, "p": [0.01, 0.04, 0.03, 0.005], "difference": 1.0})
    judged = statistics.together([table[:2], table[2:]])  # one family, whichever tables they stand in
    assert judged.p_holm.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert judged.verdict.tolist() == ["higher", "no difference detectable", "no difference detectable", "higher"]


def test_fewer_than_six_pairs_claim_nothing():
    for runs in (simulated_runs(TWO, seeds=5), simulated_runs(TWO, lost=[("Adam, lr 0.001", 2)])):
        row = statistics.compare(runs, "SGD, lr 0.01").iloc[0]
        assert row.verdict == "too few seeds" and row.n == 5 and np.isnan(row.p_holm)
        assert "provisional, n = 5" in words.finding(statistics.compare(runs, "SGD, lr 0.01"))


def test_differences_without_variance_are_handled():
    runs = simulated_runs(TWO)
    runs["test_accuracy"] = 0.1
    row = statistics.compare(runs, "SGD, lr 0.01").iloc[0]
    assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1)
    assert row.verdict == "no difference detectable"
    runs.loc[runs.trial == "SGD, lr 0.01", "test_accuracy"] = 0.2
    row = statistics.compare(runs, "SGD, lr 0.01").iloc[0]
    assert (row.p, row.verdict) == (0, "lower")


def test_an_unknown_baseline_and_runs_of_several_trials_are_named():
    with pytest.raises(UserError, match="'SDG'.*SGD, lr 0.01, Adam"):
        statistics.compare(simulated_runs(TWO), "SDG")
    with pytest.raises(UserError, match="not replications"):
        statistics.summary(simulated_runs({"SGD, lr 0.01": 0.85, "SGD, lr 0.1": 0.88}), by="variant")


def test_selection_never_reads_test_columns():
    runs = simulated_runs({f"SGD, lr {i}": 0.88 for i in range(8)})
    chosen, per = statistics.best(runs), statistics.best_per(runs)
    for seed in range(5):
        shuffled = runs.copy()
        for column in [name for name in runs if name.startswith("test")]:
            shuffled[column] = runs[column].sample(frac=1, random_state=seed).to_numpy()
        assert statistics.best(shuffled) == chosen and statistics.best_per(shuffled).equals(per)


def test_a_trial_that_diverged_is_not_selected_on_its_survivors():
    runs = simulated_runs(TWO, lost=[("Adam, lr 0.001", 0)])
    assert statistics.best(runs) == "SGD, lr 0.01"
    everything = simulated_runs(TWO, lost=TWO)
    with pytest.raises(UserError, match="every run diverged"):
        statistics.best_of({"lost": everything})  # which asks `best`
    assert statistics.best_of({"lost": everything, "optimizer": simulated_runs(TWO)}) == ("optimizer", "Adam, lr 0.001")


def test_diverged_runs_are_counted_and_shown():
    lost = [("Adam, lr 0.001", 1), ("Adam, lr 0.001", 4)]
    runs = simulated_runs(TWO, lost=lost)
    row = statistics.summary(runs).iloc[1]
    assert (row.n, row.diverged, row.runs) == (4, 2, 6)
    assert "diverged (2 of 6)" in tables.summary_table(runs).printed.to_string()
    assert "two pairs lost to divergence" in words.finding(statistics.compare(runs, "SGD, lr 0.01"))
    gone = simulated_runs(TWO, lost=["Adam, lr 0.001"])
    shown = tables.summary_table(gone, baseline="SGD, lr 0.01").printed
    assert (shown["Seeds"][1], shown["Test (%) [95 %]"][1]) == ("0; diverged (6 of 6)", words.MISSING)


def test_a_finding_says_what_its_table_says():
    row = {"trial": "Adam", "baseline": "SGD", "metric": "test_accuracy", "n": 6, "diverged": 0, "difference": 0.021}
    row |= {"low": 0.018, "high": 0.024, "p_holm": 0.0004, "verdict": "higher"}

    def said(**changes):
        return words.finding(pd.DataFrame([row | changes]))

    assert said() == "Adam lies above SGD on the test set, by 2.1 points."
    below = {"difference": -0.021, "low": -0.024, "high": -0.018}
    assert said(**below, verdict="lower") == "Adam lies below SGD on the test set, by 2.1 points."
    same = said(difference=0.001, low=-0.002, high=0.004, diverged=1, verdict="no difference detectable")
    assert same == "Adam cannot be told from SGD on the test set (0.1 points apart; one pair lost to divergence)."
    few = said(n=3, p_holm=np.nan, verdict="too few seeds")
    assert few == "Adam lies above SGD on the test set, by 2.1 points (provisional, n = 3)."
    assert said(n=0, difference=np.nan) == "There is nothing to compare."


def test_a_finding_counts_every_comparison_and_names_the_extremes():
    means = {"a": 0.85, "b": 0.9, "c": 0.8, "d": 0.85, "e": 0.95}
    text = words.finding(statistics.compare(simulated_runs(means), "a"))
    assert re.fullmatch(
        r"B and e lie above a on the test set, by \d\.\d \(b\) to \d+\.\d points \(e\); "
        r"c lies below it, by \d\.\d points; d cannot be told from it \(\d\.\d points apart\)\.",
        text,
    )
    every = words.finding(statistics.compare(simulated_runs({"a": 0.85, "b": 0.9, "c": 0.95}), "a"))
    assert every.startswith("Every alternative lies above a on the test set, by ")
    none = words.finding(statistics.compare(simulated_runs(dict.fromkeys("abcd", 0.85)), "a"))
    assert none.startswith("No alternative can be told from a on the test set")
    several = statistics.together([statistics.compare(simulated_runs(means), name) for name in ("a", "c")])
    assert words.finding(several).startswith("Six of eight alternatives lie above its baseline on the test set, by ")
    assert tables.summary_table(simulated_runs(means), baseline=several[:4]).printed["p (Holm)"][1] == "< 0.001"


def test_numbers_are_printed_one_way_and_a_rate_at_the_edge_of_the_grid_is_named():
    runs = pd.DataFrame({"variant": ["SGD", "Adam"], "lr": [1.0, 0.01]})
    assert words.edge(runs, [1.0, 0.1, 0.01, 0.001]) == "*SGD* may want a rate above 1, the largest we tried."
    assert words.edge(runs, [0.001, 10.0]) == ""
    assert words.percent(0.889, 0.886, 0.892) == "88.9 % [88.6, 89.2]"
    assert words.percent(0.889) == "88.9 %" and words.percent(np.nan) == words.MISSING
    assert words.number(-0.04) == "0.0" and words.number(-1.25, 2) == "\N{MINUS SIGN}1.25"
    assert words.number(2, 1, signed=True) == "+2.0"
    assert words.metric(0.0214, "test_accuracy", 0.018, 0.024, signed=True) == "+2.1 [+1.8, +2.4]"
    assert words.metric(0.3124, "val_loss") == "0.312" and words.metric(np.nan, "val_loss", 0, 1) == words.MISSING
    assert [words.count(n, "seed") for n in (0, 1, 6, 24)] == ["zero seeds", "one seed", "six seeds", "24 seeds"]
    assert [words.significant(x) for x in (4912.0, 0.2741, 4.91e-5, 1.0)] == ["4,900", "0.27", "0.000049", "1"]
    p_values = (0.0004, 0.0312, 0.5, 1.0)
    assert [words.probability(p) for p in p_values] == ["< 0.001", "0.031", "0.50", "> 0.99"]


def test_tables_fit_a_page_and_carry_their_numbers():
    runs = simulated_runs(TWO)
    runs.loc[runs.trial == "SGD, lr 0.01", "parameters"] = 5
    table = tables.summary_table(runs, baseline="SGD, lr 0.01")
    shown, data = table.printed, table.data
    assert len(shown.columns) <= 8 and shown.map(lambda cell: isinstance(cell, str)).all(axis=None)
    assert shown["Difference [95 %]"][0] == words.MISSING and shown["Validation (%)"][1].startswith("(best) ")
    assert shown["Parameters"].tolist() == ["5", "101,770"] and table.run_ids == tuple(sorted(runs.run_id))
    assert data["mean"].tolist() == statistics.summary(runs)["mean"].tolist() and np.isnan(data.vs_difference[0])
    assert data.vs_difference[1] == statistics.compare(runs, "SGD, lr 0.01").difference[0]


def test_what_a_choice_is_worth_by_training_budget():
    runs = simulated_runs({"SGD": 0.85, "Adam": 0.88, "RMSprop": 0.87, "Adam, wide": 0.95, "SGD, wide": 0.99})
    runs["wide"] = runs.trial.str.endswith("wide")
    levels = {0: 0.1, 1: 0.6, 2: 1.0}
    parts = [runs.assign(epoch=epoch, val_accuracy=runs.val_accuracy * level) for epoch, level in levels.items()]
    history = pd.concat(parts).sample(frac=1, random_state=0)
    assert {*statistics.gains(runs, history, "SGD").trial} == {"Adam, wide"}  # SGD is no alternative to SGD
    gains = statistics.gains(runs, history, "SGD", same=["wide"])
    assert {*gains.trial} == {"Adam"} and {*gains.epoch} == {1, 2}  # wide networks are another question
    wide = runs.pivot(index="seed", columns="trial", values="val_accuracy")
    end = gains[gains.epoch == 2].set_index("seed").gain
    assert end.to_dict() == pytest.approx((wide.Adam - wide.SGD).to_dict())
    assert statistics.overtakes(history, "SGD").dropna().eq(2).all()
    assert statistics.overtakes(history[history.epoch < 2], "SGD, wide").isna().sum() == 4
