"""Published numbers beside ours, in one figure: how far ours are, before and after what is unsaid was inferred."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmnist.plots.style import COLORS, FAINT, INK, OUTWARD, drawn, figure, fold_legend, style

VERDICTS = {"agrees": COLORS[0], "differs": COLORS[1]}
FARTHEST = 20.0  # points; what lies beyond is drawn at the edge, as an arrow


def forest(judged: pd.DataFrame, runs: pd.DataFrame | None = None) -> Figure:
    """A row for each accuracy of `replication.judge`, which rests on `runs`: ours − published, in points.

    A diamond is the mean of our runs, its bar the 95 % interval of one run of ours; a cross is what we had under the
    first guess, a column `first`, if there is one. The line at zero is what was published.
    """
    rows, published = np.arange(len(judged)), judged["published"]
    with style():
        fig = figure(0.7 + 0.2 * len(judged))
        ax = fig.subplots()
        colors = [VERDICTS.get(verdict, FAINT) for verdict in judged["verdict"]]
        ax.axvline(0, color=INK, lw=0.9)
        bars = judged[["one_low", "one_high"]].sub(published, axis=0).to_numpy(float)
        guesses = judged["first"] - published if "first" in judged else published[:0]
        reach = min(FARTHEST, np.nanmax(np.abs([*bars.ravel(), *judged["difference"], *guesses])))
        ax.hlines(rows, *bars.clip(-reach, reach).T, color=colors, lw=5, alpha=0.35)
        for y, (ours, color) in enumerate(zip(judged["difference"], colors, strict=True)):
            _mark(ax, ours, y, "D", reach, color=color, mec="white", mew=0.6)
        for y, before in enumerate(guesses):
            _mark(ax, before, y, "x", reach, color=INK, mew=1.1)
        ax.set_yticks(rows, judged["trial"] + [f" ({note})" if note else "" for note in judged["note"]])
        ax.grid(axis="y", visible=False)
        ax.set(xlabel="ours \N{MINUS SIGN} published (points)", xlim=1.05 * reach * OUTWARD, ylim=(len(rows), -1))
        marks = [Line2D([], [], marker="D", ms=4.5, color=color, mec="white", ls="none") for color in VERDICTS.values()]
        marks += [Line2D([], [], color=FAINT, alpha=0.6, lw=5)]
        marks += [Line2D([], [], marker="x", ms=4.5, color=INK, mew=1.1, ls="none")] * ("first" in judged)
        fold_legend(fig, marks, [*VERDICTS, "one run of ours, 95 %", "first guess"][: len(marks)])
    return drawn(fig, judged, runs=runs)


def _mark(ax, x: float, y: int, marker: str, reach: float, **options) -> None:
    beyond = "<" if x < -reach else ">" if x > reach else marker
    ax.plot(np.clip(x, -reach, reach), y, beyond, ms=4.5, ls="none", **options)
