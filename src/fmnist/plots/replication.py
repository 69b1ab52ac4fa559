"""Figures of published numbers beside ours: what one run would give, and what we get by each choice of the unsaid."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmnist.plots.style import FAINT, INK, drawn, figure, fold_legend, in_order, look, percent_axis, style
from fmnist.replication_old.reproduced import digits_of, unit_of
from fmnist.words import metric_of, number

COLORS = {"agrees": "#0072B2", "differs": "#D55E00"}


def agreement(judged: pd.DataFrame, author: str) -> Figure:
    """A row for each row of `reproduced.judge`: our mean with the 95 % prediction interval of one run, and a cross.

    The cross is the published number, a thin line its ±; verdict and difference, ours − published, stand beside it.
    """
    metric = judged["metric"].iloc[0]
    digits = digits_of(judged)
    ends = judged[["one_low", "one_high"]].clip(*_range(metric))
    with style():
        fig = figure(0.65 + 0.22 * len(judged))
        ax = fig.subplots()
        for y, (_, row) in enumerate(judged.iterrows()):
            color = COLORS.get(row["verdict"], FAINT)
            ax.plot(ends.iloc[y], [y, y], color=color, lw=5, alpha=0.35, solid_capstyle="butt")
            ax.plot(row["mean"], y, "D", color=color, ms=4, mec="white", mew=0.6)
            ax.plot(row["published"] + row["pm"] * np.array([-1, 1]), [y, y], color=INK, lw=0.7)
            ax.plot(row["published"], y, "x", color=INK, ms=6, mew=1.4)
            beside = f"{row['verdict']}, {number(row['difference'], digits, signed=True)}"
            ax.text(1.01, y, beside, transform=ax.get_yaxis_transform(), va="center", fontsize=7.2)
        notes = [f" ({note})" if note else "" for note in judged["note"]]
        ax.set_yticks(range(len(judged)), judged["trial"] + notes)
        ax.set_ylim(len(judged) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        seen = [judged["mean"], *(judged["published"] + sign * judged["pm"].fillna(0) for sign in (-1, 1))]
        percent_axis(ax, np.concatenate([*seen, *ends.to_numpy().T]), metric, "x")
        if judged["scale"].iloc[0] != 1:
            ax.set_xlabel(f"{metric_of(metric).label} ({unit_of(judged)})")
        plus = judged["pm"].notna().any()
        handles = [
            Line2D([], [], marker="D", ms=4.5, color=COLORS["agrees"], mec="white", ls="none"),
            Line2D([], [], color=COLORS["agrees"], alpha=0.35, lw=5),
            Line2D([], [], marker="x", color=INK, mew=1.4, lw=0.7 * plus),
        ]
        fold_legend(fig, handles, ["our mean", "one run of ours, 95 %", f"{author}, ± as printed" if plus else author])
    return drawn(fig, judged)


def _range(metric: str) -> tuple[float, float]:
    return (0, 100) if "accuracy" in metric else (0, np.inf)


def choices(judged: pd.DataFrame, baseline: str) -> Figure:
    """A row for each published setting of `choices.beside`: our mean by each choice, a cross at the published number.

    Bars are 95 % intervals over seeds; `baseline`, what the report takes, is drawn larger. A thin line carries the
    published number down through the row.
    """
    names, settings = in_order(judged["choice"]), in_order(judged["setting"])
    with style():
        lines = len(names) + 2  # of a row: the cross, the choices, an empty one
        fig = figure(0.65 + 0.12 * lines * len(settings))
        ax, handles = fig.subplots(), []
        slots = (np.arange(len(names) + 1) - len(names) / 2) / lines
        rows = np.arange(len(settings))
        published = judged.drop_duplicates("setting").set_index("setting").loc[settings, "published"]
        ax.vlines(published, rows + slots[0], rows + slots[-1], color=INK, lw=0.7)
        for i, name in enumerate(names):
            mine, y = judged[judged["choice"] == name].set_index("setting").loc[settings], rows + slots[i + 1]
            dress = look(i) | {"linestyle": "none", "ms": 7 if name == baseline else 5, "mec": "white", "mew": 0.4}
            ax.plot(mine[["low", "high"]].T, [y, y], color=dress["color"], lw=1.2)
            handles += ax.plot(mine["mean"], y, **dress)
        handles += ax.plot(published, rows + slots[0], "x", color=INK, ms=6, mew=1.5, ls="none")
        ax.set_yticks(range(len(settings)), settings)
        ax.set_ylim(len(settings) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        percent_axis(ax, np.concatenate([judged["mean"], published]), judged["metric"].iloc[0], "x")
        labels = [f"{name} (ours)" if name == baseline else name for name in names]
        fold_legend(fig, handles, [*labels, "published"])
    return drawn(fig, judged)
