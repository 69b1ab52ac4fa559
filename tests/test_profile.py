"""`fmnist profile` says where the time goes, and leaves nothing behind."""

import pytest

from fmnist import cli
from fmnist.config import RunConfig, UserError
from fmnist.presentation.tables import profile_table
from fmnist.studies import profile, store


@pytest.fixture
def configs(small, monkeypatch, tmp_path) -> list[RunConfig]:
    monkeypatch.setattr(profile, "load", lambda *_: small)
    monkeypatch.setenv("FMNIST_RUNS", str(tmp_path / "runs"))
    base = RunConfig(hidden_sizes=(30, 20), val_size=1_000, batch_size=50, epochs=40)
    wide = base.model_copy(update={"hidden_sizes": (600,), "dropout": 0.5})
    return [*(base.model_copy(update={"seed": seed}) for seed in range(3)), wide]


def test_every_kind_of_stack_has_its_row_and_every_phase_its_time(configs):
    spent = profile.profile(configs, "cpu")
    assert dict(zip(spent["network"], spent["runs"], strict=True)) == {
        "30-20, batch 50, float32": 3,
        "600, dropout, batch 50, float32": 1,
    }
    assert (spent[list(profile.PHASES)] > 0).all(axis=None)
    assert spent["total"].to_list() == pytest.approx(spent[list(profile.PHASES)].sum(axis=1).to_list())
    assert spent["network"][0].startswith("600")  # 40 epochs of the larger network take longest
    assert store.all_runs() == []


def test_its_table_adds_up(configs):
    text = profile_table(profile.profile(configs[:1], "cpu"))
    header, row, whole, share = text.splitlines()[:4]
    assert row.split()[-len(profile.PHASES) - 1 :] == whole.split()[-len(profile.PHASES) - 1 :]
    assert header.split()[-1] == "total" and share.split()[-1] == "100%"


@pytest.mark.parametrize("text", ["4XB", "-1GB", "much", "", "GB"])
def test_a_memory_that_is_no_size_is_refused(text, capsys):
    assert cli.main(["profile", "params/smoke", f"--memory={text}"]) == 2
    assert capsys.readouterr().err == f"fmnist: --memory {text}: not a size; write it as 4GB or 800MB\n"


def test_memory_is_understood_in_giga_and_megabytes():
    assert [cli._bytes(text) for text in ("4GB", "1.5GiB", "800 MB")] == [4 * 10**9, 3 * 2**29, 8 * 10**8]
    assert cli._bytes(None) is None


def test_a_bound_that_no_run_fits_is_refused(configs):
    with pytest.raises(UserError, match="memory: 10 MB, of which .* too little for one of these runs"):
        profile.profile(configs, "cpu", 10_000_000)
