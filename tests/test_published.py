"""What a reader relies on where published numbers and claims are held against our runs. All runs here are simulated."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from reference import simulated
from scipy import stats

from fmnist import replication
from fmnist.config import GUESS, UserError
from fmnist.paper.report import Report
from fmnist.replication import ANSWERS, Published, read, select
from fmnist.study import Study

ROOT = Path(__file__).parents[1]
REPORTS = sorted(path.parent.name for path in (ROOT / "params").glob("*/published.yaml"))


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
        ({"lr": 0.1}, ["A, lr 0.1", "B, lr 0.1"]),
        ({"hidden_sizes": [[128], [64, 64]], "lr": 0.1}, ["B, lr 0.1", "A, lr 0.1"]),
    ],
)
def test_trials_are_found_by_their_fields(where, labels):
    assert select(SETTINGS, where) == labels


def test_the_prediction_interval_is_that_of_one_more_value():
    values = np.array([88.1, 88.4, 87.9, 88.6, 88.2, 88.0])
    low, high = replication.prediction([*values, np.nan])
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 5, values.mean(), values.std(ddof=1) * np.sqrt(7 / 6)))
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


def published(**options) -> Published:
    given = {"author": "A", "cite": "a", "protocol": "p", "claims": [{"says": "so", "tests": [{"study": "s"} | OVER]}]}
    return Published.model_validate(given | options)


def judge(*values: float, lost=(), seeds=6, noise=0.001, runs=None, row=None, **table) -> pd.DataFrame:
    rows = [{"of": of("a"), "value": value, "pm": 2.1} | (row or {}) for value in values]
    runs = simulated({"a": 0.88, "b": 0.5}, lost=lost, seeds=seeds, noise=noise)[0] if runs is None else runs
    return replication.judge(published(numbers=[{"study": "s", "rows": rows} | table]), runs)


def verdicts(*values: float, **options) -> list[str]:
    return list(judge(*values, **options).verdict)


def test_a_number_agrees_inside_the_interval_and_differs_outside():
    row = judge(88.0).iloc[0]
    assert (row.verdict, row.n, row.pm) == ("agrees", 6, 2.1)
    assert row.one_low < row["mean"] < row.one_high
    assert verdicts(row.one_low + 1e-6, row.one_high - 1e-6) == ["agrees", "agrees"]
    assert verdicts(row.one_low - 1e-6, row.one_high + 1e-6) == ["differs", "differs"]
    assert verdicts(round(row.one_high, 1), round(row.one_high + 0.1, 1)) == ["agrees", "differs"]  # it was rounded
    assert judge(90.0).difference[0] == pytest.approx(row["mean"] - 90)
    assert verdicts(0.12, 0.5, metric="test_loss") == ["agrees", "differs"]


def test_an_interval_stays_within_a_hundred_percent():
    runs = simulated({"a": 0.985}, noise=0.008)[0].assign(test_accuracy=lambda runs: runs.test_accuracy.clip(upper=1))
    row = judge(99.0, runs=runs).iloc[0]
    assert 90 < row.one_low < row["mean"] < row.one_high < 100


def test_a_crash_says_nothing_about_a_run_that_did_not():
    """One seed of six at chance: the other five judge, as if it were not there."""
    runs = simulated({"a": 0.88})[0]
    five = judge(88.0, runs=runs[runs.seed != 5]).iloc[0]
    runs.loc[runs.seed == 5, "test_accuracy"] = 0.1
    row = judge(88.0, runs=runs).iloc[0]
    assert (row.verdict, row.n, row.runs) == ("agrees", 5, 6)
    assert (row.one_low, row.one_high) == (five.one_low, five.one_high)


def test_what_is_not_judged_says_why():
    assert verdicts(88.0, seeds=2) == verdicts(88.0, lost=["a"]) == verdicts(88.0, noise=0.05) == ["cannot tell"]
    assert verdicts(88.0, seeds=3) == ["agrees"]
    assert verdicts(10.4) == ["at chance"]
    assert verdicts(88.0, row={"fit": True}) == ["fitted"]
    assert verdicts(1.5, metric="test_loss", counted=False) == ["unknown unit"]


def test_a_lead_is_a_difference_paired_by_seed():
    runs = simulated({"a": 0.88, "b": 0.85})[0]
    row = judge(3.0, runs=runs, row={"over": of("b"), "pm": None}).iloc[0]
    assert row.verdict == "agrees" and row["mean"] == pytest.approx(3, abs=0.1)
    assert verdicts(4.0, runs=runs, row={"over": of("b"), "pm": None}) == ["differs"]
    assert verdicts(4.0, runs=runs, row={"over": of("b"), "pm": 1.0}) == ["agrees"]  # printed as "three to five points"


def test_a_scale_makes_a_divided_loss_comparable():
    row, plain = (judge(0.012, metric="test_loss", scale=scale).iloc[0] for scale in (0.1, 1.0))
    assert (row.verdict, plain.verdict) == ("agrees", "differs")
    names = ["mean", "one_low", "one_high"]
    assert row[names].tolist() == pytest.approx((0.1 * plain[names]).tolist())


NUMBERS = [{"study": "s", "rows": [
    {"of": {"lr": 0.1}, "value": 86.0, "fit": True}, {"of": {"lr": 0.01}, "value": 80.0, "fit": True},
    {"of": {"lr": 0.001}, "value": 70.0},
]}]  # fmt: skip
STUDIES = {"s": Study({"input_scaling": "standardized", "weight_decay": 0.01}, {}, {"lr": [0.1, 0.01, 0.001]})}
SCALINGS = {"input_scaling": {"plain": "none", "standardized": "standardized"}}


def planned(unsaid=None) -> tuple[pd.DataFrame, dict]:
    return replication.protocols(published(numbers=NUMBERS), STUDIES, unsaid or SCALINGS)


def test_protocols_are_all_combinations_and_the_first_guess_has_every_number():
    plan, variants = planned(SCALINGS | {"epochs": {"five": 5, "one": 1}})
    assert plan.groupby("protocol", sort=False).size().to_dict() == {
        "plain, five": 3, "plain, one": 2, "standardized, five": 2, "standardized, one": 2,
    }  # fmt: skip
    config = variants["plain, one: lr 0.1"]
    assert config == {"epochs": 1, "lr": 0.1, "weight_decay": 0.01}  # and no scaling, the default
    assert not plan.taken.any()  # the study itself trains for ten epochs
    assert planned()[0].groupby("protocol").taken.all().to_dict() == {"plain": False, "standardized": True}
    _, decays = planned({"times_weight_decay": {"once": 1, "twice": 2.0}})
    assert [one["weight_decay"] for one in decays.values()] == [0.01] * 3 + [0.02] * 2


def test_protocols_that_are_one_config_are_trained_once():
    plan, variants = planned({"times_weight_decay": {"once": 1, "again": 1.0}})
    assert len(plan) == 5 and len(variants) == 3 and plan.taken.all()


def test_the_closest_protocol_is_that_with_the_least_distance():
    """Off by +3 and −4 points: a root mean square of √12.5; of what is not fitted, 2 points by the first guess."""
    plan, _ = planned()
    ours = {"plain: lr 0.1": 0.89, "plain: lr 0.01": 0.76, "plain: lr 0.001": 0.72}
    ours |= {"standardized: lr 0.1": 0.861, "standardized: lr 0.01": 0.799}
    runs = pd.DataFrame(
        [{"trial": name, "seed": seed, "test_accuracy": mean} for name, mean in ours.items() for seed in (0, 1)]
    )
    table, found = distances(plan, runs)
    assert list(found.protocol) == ["standardized", "plain"] and list(found["first"]) == [False, True]
    assert list(found.rms) == pytest.approx([0.1, np.sqrt(12.5)])
    assert table.difference.tolist() == pytest.approx([3, -4, 2, 0.1, -0.1])
    lost = runs.assign(test_accuracy=runs.test_accuracy.mask(runs.trial == "standardized: lr 0.1"))
    assert distances(plan, lost)[1].protocol[0] == "plain"  # what diverged guesses


def distances(plan: pd.DataFrame, fits: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What two cells of the notebook make of a plan."""
    names = {"plan": plan, "fits": fits, "unsaid": True, "np": np, "pd": pd, "GUESS": GUESS}
    for cell in nbformat.read(ROOT / "notebooks" / "reproduction.ipynb", as_version=4).cells:
        if cell.id in ("run-away", "run-distances"):
            exec(cell.source, names)
    return names["plan"], names["found"]


@pytest.mark.parametrize(
    ("unsaid", "said"),
    [
        ({"scaling": {"a": "none"}}, "x: unsaid.scaling: unknown key"),
        ({"input_scaling": {"a": "nine"}}, "x: unsaid: input_scaling: .*standardized"),
        ({"input_scaling": "none"}, "x: unsaid: input_scaling: should be values by the names"),
    ],
)
def test_an_unsaid_field_that_is_none_is_refused(unsaid, said):
    with pytest.raises(UserError, match=said):
        replication.protocols(published(numbers=NUMBERS), STUDIES, unsaid, "x")


OVER, BEST, RISING = {"of": of("a"), "over": of("b")}, {"best": of("a")}, {"rising": of("b", "c", "a")}
BY_TWO, LEVEL = OVER | {"at_least": 1.5, "at_most": 2.5}, {"of": of("a"), "at_most": 50}
SAME, TO = {"same": of("a", "b")}, {"same": of("a"), "to": of("b")}  # within two points
FAR, NEAR, BACK = {"a": 0.88, "b": 0.86}, {"a": 0.88, "b": 0.8799}, {"a": 0.86, "b": 0.88}


@pytest.mark.parametrize(
    ("test", "means", "expected"),
    [
        (OVER, FAR, "clearly holds"),
        (OVER, BACK, "clearly fails"),
        (OVER, NEAR, "fails"),  # a lead worth the name is excluded
        (OVER, {"a": 0.88, "b": 0.8765}, "holds"),  # and one that is small, though in every seed, is not clear
        (BY_TWO, {"a": 0.90, "b": 0.86}, "clearly fails"),
        (BY_TWO, {"a": 0.885, "b": 0.86}, "open"),  # the interval holds 2.5
        (SAME, NEAR, "clearly holds"),
        (SAME, {"a": 0.88, "b": 0.86}, "open"),
        (TO, {"a": 0.88, "b": 0.87}, "clearly holds"),
        (TO, {"a": 0.88, "b": 0.85}, "clearly fails"),
        (BEST, {"a": 0.9, "b": 0.88, "c": 0.89}, "clearly holds"),
        (BEST, {"a": 0.88, "b": 0.86, "c": 0.89}, "clearly fails"),
        (BEST, {"a": 0.88, "b": 0.86, "c": 0.8799}, "open"),
        (BEST | {"among": of("b")}, {"a": 0.88, "b": 0.86, "c": 0.89}, "clearly holds"),
        (BEST | {"metrics": ["test_loss"]}, {"a": 0.88, "b": 0.9, "c": 0.89}, "clearly fails"),
        (RISING, {"a": 0.9, "b": 0.88, "c": 0.89}, "clearly holds"),
        (RISING, {"a": 0.9, "b": 0.88, "c": 0.91}, "clearly fails"),
        (LEVEL, {"a": 0.7}, "clearly fails"),
    ],
)
def test_a_claim_is_answered(test, means, expected):
    assert answer(test, means).answer == expected
    assert answer(test, means, seeds=1).answer == "open"
    few = answer(test, means, seeds=5).answer  # provisional: only what all five say
    assert few == {"clearly holds": "holds", "clearly fails": "fails"}.get(expected, "open")


def test_equality_is_not_claimed_for_want_of_evidence():
    """Where the runs scatter so much that a test finds no difference, equality is as undecided as the difference."""
    assert answer(SAME, NEAR, noise=0.03).answer == answer(OVER, NEAR, noise=0.03).answer == "open"


def test_a_crash_in_one_seed_leaves_the_others_what_they_are():
    """Then both sides are compared at their best epochs, which the crash came after."""
    runs, history = simulated(FAR)
    runs.loc[(runs.trial == "a") & (runs.seed == 2), "test_accuracy"] = 0.1
    row = found([OVER], runs, history).iloc[0]
    assert (row.answer, row.metric, row.n) == ("clearly holds", "best_val_test_accuracy", 6)


def test_epochs_are_read_from_the_history():
    early = OVER | {"metrics": ["val_accuracy"], "at": 1, "at_most": 1.4}
    means = {"a": 0.9, "b": 0.885}  # 1.5 points apart at the end, three quarters of that after one epoch
    row = answer(early, means)
    assert (row.answer, row.trial, row.baseline) == ("clearly holds", "a at epoch 1", "b at epoch 1")
    assert row.difference == pytest.approx(0.01125, abs=0.002)
    late = OVER | {"metrics": ["val_accuracy"], "at": [1, 3], "over_at": "end", "at_least": -1}
    row = answer(late, means)
    assert (row.answer, row.trial, row.baseline) == ("clearly fails", "a at epochs 1 to 3", "b at the end")
    beyond = answer(late | {"at": [9, 11]}, means)
    assert (beyond.answer, beyond.n) == ("open", 0)


def test_one_rise_refutes_a_falling_loss():
    runs, history = simulated(FAR)
    history.loc[history.epoch == 0, "train_loss"] = np.nan  # nothing was trained yet
    assert set(found([{"falling": "train_loss"}], runs, history).answer) == {"clearly holds"}
    seventh = (history.trial == "b") & (history.epoch == 7)
    history.loc[seventh & (history.seed == 3), "train_loss"] = 9.0
    table = found([{"falling": "train_loss"}], runs, history.sample(frac=1, random_state=0))
    assert set(table.answer) == {"open"} and list(table.difference) == pytest.approx([1, 5 / 6])
    assert set(found([{"falling": "train_loss", "of": of("a")}], runs, history).answer) == {"clearly holds"}
    history.loc[seventh, "train_loss"] = 1.805 + 0.01  # above the sixth, by less than an eye would find
    assert set(found([{"falling": "train_loss"}], runs, history).answer) == {"clearly holds"}
    history.loc[seventh, "train_loss"] = 2.0
    assert set(found([{"falling": "train_loss"}], runs, history).answer) == {"clearly fails"}


def test_a_diverged_network_guesses():
    row = answer(BEST, {"a": 0.88, "b": 0.9}, lost=["b"])
    assert row.answer == "clearly holds" and row.difference == pytest.approx(0.78, abs=0.01)
    assert answer(LEVEL, {"a": 0.88}, lost=["a"]).answer == "clearly holds"


def test_the_comparisons_of_one_claim_are_a_family():
    runs, history = simulated({"a": 0.88, "b": 0.878, "c": 0.8785, "d": 0.86}, noise=0.002)
    three = evidence([[{"of": of("a"), "over": of(name)} for name in "bcd"], [OVER]], runs, history)
    assert three.p_holm[3] == three.p[3]  # another claim
    one = found([OVER], runs, history).iloc[0]
    assert one.p == one.p_holm == three.p[0] < three.p_holm[0]
    mixed = found([OVER, SAME, LEVEL], runs, history)  # what bounds decide is not in it
    assert mixed.p_holm[0] == one.p and mixed.p_holm[1:].isna().all()


def test_all_tests_of_a_claim_must_hold():
    good, bad = OVER, {"of": of("a"), "over": of("c")}
    table = evidence([[good, bad], [good]], *simulated({"a": 0.88, "b": 0.86, "c": 0.9}))
    assert list(table.answer) == ["clearly fails", "clearly fails", "clearly holds"] and list(table.test) == [0, 1, 0]


@pytest.mark.parametrize("name", REPORTS)
def test_every_number_and_claim_of_a_report_finds_its_trials(name):
    """With simulated runs for all of its trials, every table has its numbers and every claim an answer."""
    chapters = [one for one in Report(name, "cpu").chapters if one.kind == "study"]
    settings = {one.name: one.study.settings() for one in chapters}
    published = read(ROOT / "params" / name, settings)
    rows = pd.concat([table.assign(study=study, accuracy=0.88) for study, table in settings.items()])
    runs, history = simulated(rows)
    table = replication.evidence(published, runs, history)
    assert table.claim.nunique() == len(published.claims) > 0 and set(table.status) <= {*ANSWERS}
    assert (replication.judge(published, runs).n == 6).all()


GOOD = """
{author: A, cite: a, protocol: p, numbers: [{study: s, rows: [{of: {variant: a}, value: 87.2}]}],
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
        (TEST, "same: {variant: a}", "needs two different trials"),
        (TEST, "best: {lr: 0.1}", r"claims\.0\.best: .* should be of one trial, and is of a; b"),
        (TEST, TEST + ", at: 3", "training and validation metrics are read at an epoch, others at the end only"),
        (TEST, TEST + ", to: {variant: b}", "to: does not stand beside over"),
        (TEST, "same: {variant: [a, b]}, metrics: [val_loss]", "same: is asked of accuracies"),
        (TEST, "of: {variant: a}", "asks nothing"),
        ("numbers: [{study: s", "numbers: [{study: t", "numbers.0: the report has no study 't'.*Allowed: s"),
        (TEST, TEST + ", metrics: [val_loss], at: [2, 6]", "claims.0: at: epoch 6 is beyond the 5 of 'a'"),
        ("value: 87.2", "value: 101", "numbers.0: rows.0: value: should be at most 100, as test_accuracy is"),
    ],
)
def test_a_mistake_is_named_in_one_line(old, new, said, tmp_path):
    assert load(tmp_path, GOOD).claims[0].says == "a beats b"
    with pytest.raises(UserError, match=said) as error:
        load(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(error.value) and str(error.value).startswith(f"params/{tmp_path.name}/published.yaml: ")
