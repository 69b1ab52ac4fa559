"""The README's figure of a results file: `figure.py results/<machine>.json` draws it again."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from fmnist.plots.style import FAINT, INK, figure, fold_legend, look, style
from report import COLUMNS, by_network

LOOKS = {key: look(index) | {"linestyle": "none"} for index, key in enumerate(COLUMNS)}
LIMITS = {"bfloat16": ":", "float32": "-"}
HEIGHT, DPI = 3.6, 200  # inches, before the legend


def draw(results: dict[str, Any], path: Path) -> None:
    """Left: seconds per run and epoch of eight runs, by network. Right: seconds per epoch against runs."""
    with style():
        fig = figure(HEIGHT)
        fig.suptitle(results["machine"]["name"], x=0.01, ha="left", fontsize=8)
        left, right = fig.subplots(1, 2, width_ratios=[1.9, 1])
        _dots(left, results)
        _scaling(right, results["rows"])
        shown = [key for key in COLUMNS if any(key in seconds for seconds in by_network(results["rows"]).values())]
        handles = [Line2D([], [], mec="white", mew=0.5, ms=6, **{k: v for k, v in LOOKS[key].items()}) for key in shown]
        handles += [Line2D([], [], color=INK, linestyle=line, lw=1.2) for line in LIMITS.values()]
        fold_legend(fig, handles, [COLUMNS[key] for key in shown] + [f"limit, {name}" for name in LIMITS])
        fig.savefig(path.with_suffix(".png"), dpi=DPI)


def _dots(ax: Axes, results: dict[str, Any]) -> None:
    """A band a network, a line of it an implementation, from top to bottom as in the legend; a bar is a limit."""
    table, spread = by_network(results["rows"]), np.linspace(-0.34, 0.34, len(COLUMNS))
    for y, (network, seconds) in enumerate(table.items()):
        ax.axhline(y + 0.5, color="#e4e4e4", lw=0.6, zorder=0)
        for key, offset in zip(COLUMNS, spread, strict=True):
            ax.plot(seconds.get(key, np.nan), y + offset, mec="white", mew=0.5, ms=5, **LOOKS[key])
        for precision, line in LIMITS.items():
            if least := results["limit"][precision].get(network):
                x = least["seconds_per_run_epoch"]
                ax.plot([x, x], [y - 0.43, y + 0.43], color=INK, linestyle=line, lw=1.2, zorder=1)
    batch = {row["network"]: row["batch_size"] for row in results["rows"]}
    names = [f"{network}\nbatch {batch[network]}" for network in table]
    ax.set_yticks(range(len(table)), names)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="seconds per run and epoch", title="Eight runs")
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def _scaling(ax: Axes, rows: list[dict[str, Any]]) -> None:
    found = sorted(
        (row["runs"], row["runs"] * row["seconds_per_run_epoch"], row["network"])
        for row in rows
        if row["implementation"] == "fmnist" and row["precision"] == "float32"
    )
    networks = [network for runs, _, network in found if runs != 8]
    points = [(runs, seconds) for runs, seconds, network in found if network in networks]
    if not points:
        return
    runs, seconds = zip(*points, strict=True)
    at_eight = dict(points).get(8, seconds[0] * 8 / runs[0])
    ax.plot(runs, [at_eight / 8 * n for n in runs], color=FAINT, lw=1, linestyle=(0, (5, 1.5)), zorder=1)
    ax.plot(runs, seconds, mec="white", mew=0.5, ms=6.5, **LOOKS["fmnist", "float32"])
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(runs, [f"{n:,}" for n in runs])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set(xlabel=f"runs of {networks[0]}", ylabel="seconds per epoch of all", title="Cost against runs")
    ax.text(24, at_eight / 8 * 24, "  linear", color=FAINT, fontsize=7.5, va="top")


if __name__ == "__main__":
    source = Path(sys.argv[1])
    draw(json.loads(source.read_text(encoding="utf-8")), source)
