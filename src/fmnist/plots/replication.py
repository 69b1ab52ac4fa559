"""Published numbers beside ours, in one figure: a forest of what one more run of ours would give."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmnist.plots.style import COLORS, FAINT, INK, drawn, figure, fold_legend, percent_axis, style
from fmnist.words import metric_of, number

VERDICTS = {"agrees": COLORS[0], "differs": COLORS[1]}


def forest(judged: pd.DataFrame, author: str, runs: pd.DataFrame | None = None) -> Figure:
    """A row for each row of `replication.judge`, which rests on `runs`: our mean, and the 95 % interval of one run.

    A cross is the published number, a thin line its ±; verdict and difference, ours − published, stand beside it.
    """
    metric, scale, rows = judged["metric"].iloc[0], judged["scale"].iloc[0], np.arange(len(judged))
    ends = judged[["one_low", "one_high"]].clip(0, 100 if metric_of(metric).unit == "points" else np.inf)
    published, pm = judged["published"], judged["pm"].fillna(0)
    with style():
        fig = figure(0.65 + 0.22 * len(judged))
        ax = fig.subplots()
        colors = [VERDICTS.get(verdict, FAINT) for verdict in judged["verdict"]]
        ax.hlines(rows, *ends.to_numpy(float).T, color=colors, lw=5, alpha=0.35)
        ax.hlines(rows, published - pm, published + pm, color=INK, lw=0.7)
        (cross,) = ax.plot(published, rows, "x", color=INK, ms=6, mew=1.4)
        for y, row in enumerate(judged.itertuples()):
            ax.plot(row.mean, y, "D", ms=4.5, color=colors[y], mec="white", mew=0.6)
            text = f"{row.verdict}, {number(row.difference, metric_of(metric).digits, signed=True)}"
            ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7.2)
        ax.set_yticks(rows, judged["trial"] + [f" ({note})" if note else "" for note in judged["note"]])
        ax.set_ylim(len(judged) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        values = np.concatenate([judged["mean"], published - pm, published + pm, *ends.to_numpy().T])
        percent_axis(ax, values, metric, "x")
        if scale != 1:
            ax.set_xlabel(f"{metric_of(metric).axis[:-1]} × {scale:g})")
        ours = Line2D([], [], marker="D", ms=4.5, color=COLORS[0], mec="white", ls="none")
        one = Line2D([], [], color=COLORS[0], alpha=0.35, lw=5)
        fold_legend(
            fig, [ours, one, cross], ["our mean", "one run of ours, 95 %", author + ", ± as printed" * bool(pm.any())]
        )
    return drawn(fig, judged, runs=runs)
