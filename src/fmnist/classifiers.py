"""scikit-learn's classifiers beside the networks: on the same images, split by the same seeds, judged in the same way.

What one reached is kept in `classifiers/` of the store, a small file addressed by the hash of all it depends on,
written aside and renamed, so that nothing is fitted twice.
"""

import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fmnist.config import FASHION, TRAIN_IMAGES, UserError, nearest, runs_folder
from fmnist.store import check_writable
from fmnist.study import watched
from fmnist.words import joined

if TYPE_CHECKING:
    from fmnist.data import Data

HOMES = {  # name in scikit-learn → its module
    "ExtraTreesClassifier": "ensemble",
    "HistGradientBoostingClassifier": "ensemble",
    "KNeighborsClassifier": "neighbors",
    "LinearSVC": "svm",
    "LogisticRegression": "linear_model",
    "RandomForestClassifier": "ensemble",
    "SVC": "svm",
}
VERSION = 1  # raised when the same classifier would be judged otherwise; part of every address
TEST_BATCH = 256  # as for the networks
COLUMNS = ("val_accuracy", "test_accuracy", "test_accuracy_std", "diverged", "seconds")


def fit(
    classifiers: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    val_size: int = 6_000,
    train_images: int = TRAIN_IMAGES,
    dataset: str = FASHION,
) -> pd.DataFrame:
    """Every classifier with every seed, a row each: trial, seed, train_images and COLUMNS, as `Study.runs` has them.

    A classifier is {"model": a name of HOMES, ...} with scikit-learn's parameters. A seed sets the split, the same as
    that of a network's run, and what is random in the classifier; it learns from the first `train_images` of the train
    split, pixels in [0, 1]. Raises `UserError` for an unknown name or parameter before anything is fitted, for a value
    that scikit-learn refuses, and for a data set that cannot be had.
    """
    from tqdm.auto import tqdm

    from fmnist.data import load

    check(classifiers)
    data, todo = load(dataset=dataset), [(name, seed) for name in classifiers for seed in seeds]
    train_images = min(train_images, len(data.train_labels) - val_size)
    check_writable()
    rows: list[dict[str, Any]] = []
    for name, seed in tqdm(todo, "classifiers", disable=not watched(), leave=False):
        record = _fitted(name, classifiers[name], seed, val_size, train_images, data)
        rows.append(
            {"trial": name, "seed": seed, "train_images": train_images} | {column: record[column] for column in COLUMNS}
        )
    return pd.DataFrame(rows)


def check(classifiers: Mapping[str, Mapping[str, Any]], where: str = "classifiers") -> None:
    """Raises `UserError` for a model or a parameter that there is not."""
    for name, given in classifiers.items():
        _build(f"{where}: {name}", given, seed=0)


def described(classifiers: Mapping[str, Mapping[str, Any]]) -> str:
    """The classifiers with their parameters in words (Markdown)."""
    said = []
    for name, given in classifiers.items():
        settings = [f"`{value}`" if key == "model" else f"`{key}` {value}" for key, value in given.items()]
        said.append(f"{name} ({', '.join(settings)})")
    return joined(said)


def _build(where: str, given: Mapping[str, Any], seed: int):
    """The estimator; UserError for a model or a parameter that there is not."""
    if not isinstance(given, Mapping) or (model := given.get("model")) not in HOMES:
        got = given.get("model", "") if isinstance(given, Mapping) else given
        raise UserError(f"{where}: model: {got!r} is not allowed{nearest(str(got), list(HOMES))}")
    parameters = {key: value for key, value in given.items() if key != "model"}
    estimator = getattr(import_module(f"sklearn.{HOMES[model]}"), model)()
    known = [key for key in estimator.get_params() if key not in ("random_state", "n_jobs", "verbose")]
    if unknown := [key for key in parameters if key not in known]:
        raise UserError(f"{where}: {unknown[0]}: {model} has no such parameter{nearest(unknown[0], known)}")
    random = {"random_state": seed} if "random_state" in estimator.get_params() else {}
    return estimator.set_params(**parameters, **random)


def _fitted(
    name: str, given: Mapping[str, Any], seed: int, val_size: int, train_images: int, data: "Data"
) -> dict[str, Any]:
    """What is on disk, or else is fitted and put there."""
    about = {"version": VERSION, "classifier": dict(given), "seed": seed, "val_size": val_size}
    about |= {"train_images": train_images, "data_checksum": data.checksum, "sklearn": version("scikit-learn")}
    address = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    path = runs_folder() / "classifiers" / f"{address}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if {key: record[key] for key in about} == about and record.keys() >= {*COLUMNS}:
            return record
    except (OSError, ValueError, LookupError, AttributeError):
        pass  # absent or damaged
    record = about | _judge(name, _build(f"classifiers: {name}", given, seed), seed, val_size, train_images, data)
    _keep(path, json.dumps(record, indent=1) + "\n")
    return record


def _judge(name: str, estimator, seed: int, val_size: int, train_images: int, data: "Data") -> dict[str, Any]:
    """Fit on the train split, read validation, then the test set, once."""
    from joblib import parallel_config
    from sklearn.exceptions import ConvergenceWarning

    from fmnist.data import split

    begin = time.perf_counter()
    images, labels = data.train_images.numpy(), data.train_labels.numpy()
    train, val = (rows.numpy() for rows in split(len(labels), val_size, seed))
    train = train[:train_images]
    with warnings.catch_warnings(), parallel_config("threading", n_jobs=-1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is a choice, as with the networks
        try:
            estimator.fit(_scaled(images[train]), labels[train])
        except (ValueError, TypeError) as error:
            raise UserError(f"classifiers: {name}: {' '.join(str(error).split())}") from None
        right_val = estimator.predict(_scaled(images[val])) == labels[val]
        right = estimator.predict(_scaled(data.test_images.numpy())) == data.test_labels.numpy()
    batches = [right[start : start + TEST_BATCH].mean() for start in range(0, len(right), TEST_BATCH)]
    return {
        "val_accuracy": float(right_val.mean()),
        "test_accuracy": float(right.mean()),
        "test_accuracy_std": float(np.std(batches, ddof=1)),
        "diverged": False,
        "seconds": time.perf_counter() - begin,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


def _keep(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path.parent}: a result cannot be stored: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
