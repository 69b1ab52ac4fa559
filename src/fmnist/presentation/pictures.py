"""Pictures that explain rather than measure: images of the data set, confusion, the network and the pipeline.

Images are uint8 [n, 28, 28] (0 background, 255 ink) and are printed dark on white.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from fmnist.presentation.style import COLORS, FAINT, WIDTH, drawn, figure, style

GAP = 4  # pixels between images
SHARP = 4  # every pixel is embedded as SHARP x SHARP, since some viewers smooth what they enlarge


def image_grid(images: np.ndarray, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """Images [n, 28, 28] in rows of `columns`, each below its title, if `titles` are given."""
    images = np.asarray(images)
    n, height, width = images.shape
    lines = max((title.count("\n") + 1 for title in titles), default=0) if titles is not None else 0
    columns = min(columns, n)
    rows, inch = -(-n // columns), WIDTH / (columns * (width + GAP))  # inches a pixel, at full width
    inch = min(inch, 1.1 / (width + GAP))
    head = lines * 0.14 / inch  # pixels of a title
    step = height + GAP + head
    with style():
        fig = figure(rows * step * inch, columns * (width + GAP) * inch, layout=None)
        ax = fig.add_axes((0, 0, 1, 1))
        for i, image in enumerate(images):
            x, y = (i % columns) * (width + GAP) + GAP / 2, (i // columns) * step + head + GAP / 2
            sharp = np.repeat(np.repeat(image, SHARP, axis=0), SHARP, axis=1)
            ax.imshow(sharp, cmap="gray_r", vmin=0, vmax=255, extent=(x, x + width, y + height, y))
            if titles is not None:
                ax.text(x + width / 2, y - 0.045 / inch, titles[i], ha="center", va="baseline", fontsize=7)
        ax.set(xlim=(0, columns * (width + GAP)), ylim=(rows * step, 0))
        ax.set_axis_off()
    return fig if titles is None else drawn(fig, pd.DataFrame({"picture": range(1, n + 1), "title": titles}))


def class_means(images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figure:
    """The mean image of every class, five in a row, named."""
    means = np.stack([images[np.asarray(labels) == i].mean(axis=0) for i in range(len(names))])
    return image_grid(means, list(names), columns=5)


def confused_pairs(
    images: np.ndarray, labels: np.ndarray, predictions: np.ndarray, names: Sequence[str], columns: int = 6
) -> Figure:
    """Misread images with what they are and what the network read."""
    pairs = zip(labels, predictions, strict=True)
    return image_grid(images, [f"{names[a]}\nread as {names[b]}" for a, b in pairs], columns)


def class_balance(labels_by_split: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Images of each class, a panel a split: {"train": labels, "val": labels, "test": labels}."""
    table = {"class": list(names)}
    with style():
        fig = figure(0.65 + 0.19 * len(names))
        axes = fig.subplots(1, len(labels_by_split), sharey=True, squeeze=False)[0]
        for i, (ax, (split, labels)) in enumerate(zip(axes, labels_by_split.items(), strict=True)):
            table[split] = counts = np.bincount(np.asarray(labels).astype(int), minlength=len(names))
            bars = ax.barh(range(len(names)), counts, color=COLORS[i % len(COLORS)], height=0.7, alpha=0.85)
            ax.bar_label(bars, [f"{value:,}" for value in counts], fontsize=7, padding=2)
            ax.set(xlim=(0, counts.max() * 1.3), xlabel="images", title=f"{split} ({len(labels):,})")
            ax.grid(axis="y", visible=False)
            ax.locator_params(axis="x", nbins=3)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylabel("class")
        axes[0].invert_yaxis()
    return drawn(fig, pd.DataFrame(table))


def confusion_matrix(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Percent of each class (row) that was read as each class (column); errors shaded, hits on the grey diagonal.

    `matrix` holds counts (`statistics.confusion`), of one run or summed over runs.
    """
    import seaborn as sns  # here, because it takes a second and brings pyplot along

    share = 100 * np.asarray(matrix, float) / np.maximum(np.sum(matrix, axis=1, keepdims=True), 1)
    text = np.where(share >= 0.05, np.char.mod("%.1f", share), np.where(np.asarray(matrix) > 0, "<0.1", "0"))
    hits = np.eye(len(names), dtype=bool)
    look = {"cmap": "OrRd", "vmin": 0, "vmax": max(30**0.7, (share[~hits] ** 0.7).max(initial=0)), "cbar": False}
    with style():
        fig = figure(4.8, 5.4)
        ax = fig.subplots()
        words = {"annot": text, "fmt": "", "annot_kws": {"size": 7.2}, "xticklabels": names, "yticklabels": names}
        sns.heatmap(share**0.7, mask=hits, square=True, linewidths=0.8, ax=ax, **look, **words)
        for k in range(len(names)):
            ax.text(
                k + 0.5, k + 0.5, text[k, k], ha="center", va="center", fontsize=7.2, color="#555555", weight="bold"
            )
        ax.set_facecolor("#ececec")
        ax.set_xticklabels(names, rotation=40, ha="right", rotation_mode="anchor")
        ax.set(xlabel="predicted class", ylabel="true class", title="Share of each true class (%)")
        ax.grid(visible=False)
        ax.tick_params(length=0)
    return drawn(fig, pd.DataFrame(matrix, columns=names).assign(true=names)[["true", *names]])


def network_diagram(
    hidden_sizes: Sequence[int], activation: str = "relu", inputs: int = 784, classes: int = 10
) -> Figure:
    """A fully connected network, inputs → hidden layers → classes, with a few neurons a layer and its parameters."""
    sizes = [inputs, *hidden_sizes, classes]
    spread = WIDTH / max(len(sizes), 3)
    weights = [(a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False)]
    with style():
        fig = figure(3.0, layout=None)
        ax = fig.add_axes((0, 0, 1, 1))
        dots = [_neurons(size) for size in sizes]
        for i, count in enumerate(weights):
            for a in dots[i]:
                for b in dots[i + 1]:
                    ax.plot([i * spread, (i + 1) * spread], [a, b], color="#b9c6d0", linewidth=0.45, zorder=1)
            text = f"{count:,}\nparameters"
            ax.text((i + 0.5) * spread, 1.32, text, ha="center", va="bottom", fontsize=7, color="#555555")
        for i, (size, ys) in enumerate(zip(sizes, dots, strict=True)):
            _layer(ax, i * spread, size, ys, i, len(sizes), activation)
        ax.set(xlim=(-0.55 * spread, (len(sizes) - 0.45) * spread), ylim=(-2.15, 1.85))
        ax.set_axis_off()
    return fig


def _neurons(size: int) -> np.ndarray:
    """Heights of the neurons drawn for a layer: all of up to seven, else three above and three below the dots."""
    if size <= 7:
        return (np.arange(size) - (size - 1) / 2) * 0.36
    return np.array([1.17, 0.83, 0.49, -0.49, -0.83, -1.17])


def _layer(ax: Axes, x: float, size: int, ys: np.ndarray, i: int, layers: int, activation: str) -> None:
    role = "input" if i == 0 else "output" if i == layers - 1 else f"hidden {i}" if layers > 3 else "hidden"
    fact = "pixels" if i == 0 else "logits" if i == layers - 1 else activation.replace("_", " ").replace("relu", "ReLU")
    color = COLORS[2] if i == 0 else COLORS[1] if i == layers - 1 else COLORS[0]
    ax.plot(np.full(len(ys), x), ys, "o", ms=9, color=color, mec="white", mew=0.8, zorder=3)
    if len(ys) < size:
        ax.plot([x] * 3, [-0.14, 0, 0.14], "o", ms=2.2, color=color, zorder=3)
    ax.text(x, -1.45, role, ha="center", va="top", fontsize=8, weight="bold")
    ax.text(x, -1.68, f"{size:,}\n{fact}", ha="center", va="top", fontsize=8, linespacing=1.15)


def pipeline_diagram() -> Figure:
    """One run's way through the house, top to bottom: parameters to printed page."""
    with style():
        fig = figure(5.5, 4.4, layout=None)
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, 44), ylim=(55, 0))
        ax.set_axis_off()
        for box in PIPELINE:
            _box(ax, *box)
        for start, end in ARROWS:
            ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=FAINT, linewidth=1.1))
    return fig


# x, y of the centre, width, height, title, what it holds, colour; in tenths of an inch
PIPELINE = (
    (22, 3.5, 30, 5, "params/<report>/<notebook>.yaml", "what varies, and over which seeds", COLORS[3]),
    (22, 11, 30, 5, "papermill", "puts it into the notebook and executes it", COLORS[0]),
    (22, 18.5, 30, 5, "Study", "checks it; lists the runs it needs", COLORS[0]),
    (11.5, 26.5, 18, 6.8, "store", "finished runs, found\nby the hash of their config", COLORS[2]),
    (32.5, 26.5, 18, 6.8, "stacked training", "what is missing, trained\ntogether on CUDA or CPU", COLORS[2]),
    (22, 35, 30, 5, "two DataFrames", "a row a run, a row an epoch", COLORS[0]),
    (8, 42.5, 13, 5, "figure", "95 % intervals", COLORS[1]),
    (22, 42.5, 13, 5, "table", "every trial", COLORS[1]),
    (36, 42.5, 13, 5, "sentence", "computed claims", COLORS[1]),
    (22, 51, 30, 5.4, "nbconvert", "one report, as HTML and as PDF", COLORS[3]),
)
ARROWS = (
    ((22, 6), (22, 8.5)), ((22, 13.5), (22, 16)), ((17, 21), (12.5, 23.1)), ((20.5, 25.6), (23.5, 25.6)),
    ((23.5, 27.6), (20.5, 27.6)), ((12.5, 29.9), (17, 32.5)), ((14, 37.5), (9, 40)), ((22, 37.5), (22, 40)),
    ((30, 37.5), (35, 40)), ((9, 45), (14, 48.3)), ((22, 45), (22, 48.3)), ((35, 45), (30, 48.3)),
)  # fmt: skip


def _box(ax: Axes, x: float, y: float, width: float, height: float, title: str, text: str, color: str) -> None:
    corner, shape = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.8"
    ax.add_patch(FancyBboxPatch(corner, width, height, shape, facecolor=color, alpha=0.13, edgecolor="none"))
    ax.add_patch(FancyBboxPatch(corner, width, height, shape, fill=False, edgecolor=color, linewidth=1.1))
    lines = text.count("\n") + 1
    ax.text(x, y - 0.95 * lines, title, ha="center", va="center", fontsize=9, weight="bold")
    ax.text(x, y + 1.15, text, ha="center", va="center", fontsize=8, linespacing=1.2)
