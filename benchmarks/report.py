"""The table and the targets of a results file: `report.py results/<machine>.json` prints them again."""

import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

COLUMNS = {  # (implementation, precision) → heading
    ("fmnist", "bfloat16"): "fmnist bfloat16",
    ("fmnist", "float32"): "fmnist float32",
    ("jax", "float32"): "jax",
    ("torch_func", "float32"): "torch_func",
    ("tensor_loop", "float32"): "tensor_loop",
    ("sklearn", "float32"): "sklearn",
    ("dataloader", "float32"): "dataloader",
}
TARGETS = {  # ratio of seconds: what it should at least be
    "jax / fmnist float32": 1.0,
    "best peer / fmnist bfloat16": 1.5,
    "dataloader / fmnist float32": 20.0,
}
DATALOADER_NETWORK = "784-128-10"


def by_network(rows: list[dict[str, Any]]) -> dict[str, dict[tuple[str, str], float]]:
    """network → (implementation, precision) → seconds per run and epoch, of eight runs."""
    table: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        if row["runs"] == 8:
            key = row["implementation"], row["precision"]
            table.setdefault(row["network"], {})[key] = row["seconds_per_run_epoch"]
    return table


def best_peer(seconds: dict[tuple[str, str], float]) -> float:
    """The quickest of all but fmnist; NaN if there is none."""
    return min((value for (name, _), value in seconds.items() if name != "fmnist"), default=float("nan"))


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target for each network it is set for: the ratio, what it should at least be, and whether it is."""
    found = []
    for name, target in TARGETS.items():
        peer, ours = name.split(" / ")
        for network, seconds in by_network(rows).items():
            peers = {**{other: value for (other, _), value in seconds.items()}, "best peer": best_peer(seconds)}
            mine = seconds.get(tuple(ours.split()))
            if mine is None or peer not in peers or peer == "dataloader" and network != DATALOADER_NETWORK:
                continue
            ratio = peers[peer] / mine
            found.append({"ratio": name, "network": network, "value": ratio, "target": target, "met": ratio >= target})
    return found


def replaced(old: dict[str, Any], new: dict[str, Any], network: str) -> dict[str, Any]:
    """The results with one network measured again, all its implementations side by side."""
    rows = [row for row in old["rows"] if row["network"] != network or row["runs"] != 8] + new["rows"]
    limits = {precision: {**of, **new["limit"][precision]} for precision, of in old["limit"].items()}
    networks = list(limits["float32"])
    rows.sort(key=lambda row: (row["runs"] != 8, networks.index(row["network"])))
    return {**old, "limit": limits, "targets": targets(rows), "date": new["date"], "rows": rows}


def text(results: dict[str, Any]) -> str:
    """Milliseconds per run and epoch, each with its ratio to the best peer; the limits; whether each target is met."""
    lines = []
    for network, seconds in by_network(results["rows"]).items():
        best, line = best_peer(seconds), [network]
        for key in COLUMNS:
            line.append(f"{1e3 * seconds[key]:.1f} ({seconds[key] / best:.2f})" if key in seconds else "")
        for precision in ("bfloat16", "float32"):
            least = results["limit"][precision].get(network)
            line.append(f"{1e3 * least['seconds_per_run_epoch']:.1f}" if least else "")
        lines.append(line)
    headings = ["network", *COLUMNS.values(), "limit bfloat16", "limit float32"]
    parts = [
        f"{results['machine']['name']}: ms per run and epoch of eight runs (in parentheses: of the best peer's)",
        tabulate(lines, headings, stralign="right", colalign=("left",), disable_numparse=True),
        tabulate(
            [[t["ratio"], t["network"], f"{t['value']:.2f}", t["target"], verdict(t)] for t in results["targets"]],
            ["ratio", "network", "measured", "at least", "met"],
        ),
    ]
    for network, a in results["bfloat16_accuracy"].items():
        low, high = a["interval_95"]
        parts.append(f"bfloat16 - float32, {network}: {a['difference_points']:+.2f} points [{low:+.2f}, {high:+.2f}]")
    for precision, many in results["many_runs"].items():
        parts.append(f"{many['runs']:,} runs x {many['epochs']} epochs, {precision}: {many['seconds']:.1f} s")
    return "\n\n".join(parts)


def verdict(target: dict[str, Any]) -> str:
    return "yes" if target["met"] else "no"


if __name__ == "__main__":
    print(text(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
