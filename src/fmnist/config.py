"""What a run is: every hyperparameter of one training, validated once, frozen and hashable.

All that a user can write passes through `validate`: bad input fails here, with file, key and what is allowed.
"""

import difflib
import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import parent_process
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, SequenceNode

RESULTS_VERSION = 2  # raised when the same config gives other results; part of every run's address
TRAIN_IMAGES, TEST_IMAGES, INPUTS, OUTPUTS = 60_000, 10_000, 784, 10
FASHION = "FashionMNIST"  # the data set of every run that does not say otherwise
GUESS = 1 / OUTPUTS  # accuracy of guessing
DEEPEST, LARGEST, LONGEST = 100, 10**9, 10**6  # most hidden layers, weights and epochs of a run: beyond is a slip
LAST = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "test_accuracy_std")
BEST = ("best_val_accuracy", "best_val_test_loss", "best_val_test_accuracy", "best_val_test_accuracy_std")
METRICS = (*LAST, *BEST, "best_epoch", "diverged", "seconds")  # of a finished run, at its last and best epoch
TEMPLATES = Path(__file__).with_name("templates")
TEST_BATCH = 256  # the published reports' "±" is the spread of accuracy over test batches of this size


class UserError(ValueError):
    """A mistake the user can mend, said in one clear line: what, where, what is allowed, what to do."""


def project_root() -> Path:
    """The nearest folder from here upwards that holds `params/` and `notebooks/`; else the working directory."""
    here = Path.cwd().resolve()
    return next((p for p in (here, *here.parents) if (p / "params").is_dir() and (p / "notebooks").is_dir()), here)


def runs_folder() -> Path:
    """Where finished runs are kept: `FMNIST_RUNS`, else `runs/`, both seen from the project, wherever a kernel runs."""
    chosen = Path(os.environ.get("FMNIST_RUNS") or "runs").expanduser()
    return Path(os.path.realpath(project_root() / chosen))  # Path.resolve raises where links lead in a circle


def owner() -> str:
    """This machine and process, as "machine.123": who writes what is not finished."""
    return f"{platform.node().replace('.', '-')}.{os.getpid()}"


@contextmanager
def apart() -> Iterator[None]:
    """Processes that start meanwhile do not run the caller's script again, and keep still at Ctrl-C."""
    main, signals = sys.modules["__main__"], getattr(signal, "pthread_sigmask", lambda *_: set())
    before = signals(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signals(signal.SIG_SETMASK, before)


def follow_parent(interrupted: bool) -> None:
    """In a process begun `apart`: it ends when its parent does, or has before, and by Ctrl-C if `interrupted`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL if interrupted else signal.SIG_IGN)
    getattr(signal, "pthread_sigmask", lambda *_: None)(getattr(signal, "SIG_UNBLOCK", 0), {signal.SIGINT})
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def beside(path: Path, mark: str = "") -> Path:
    """A hidden name beside `path` that nobody else has, with a mark or with who writes."""
    return path.with_name(f".{path.name}.{mark or owner()}.{uuid.uuid4().hex[:8]}")


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to, which takes its place at the end: whole or not at all."""
    part = beside(path)
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


Model = TypeVar("Model", bound=BaseModel)
Init = Literal["default", "xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform", "normal", "zeros"]


class Strict(BaseModel):
    """A frozen record that takes no unknown key, converts no type and holds no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        known = list(cls.model_fields)
        for key in values if isinstance(values, dict) else ():
            if key not in known:
                raise PydanticCustomError("unknown_key", f"{key}: unknown key{nearest(str(key), known)}")
        return values


class RunConfig(Strict):
    """Every hyperparameter of one training. Names and meanings are PyTorch's. `validate` makes errors readable."""

    dataset: Literal["FashionMNIST", "MNIST", "KMNIST"] = "FashionMNIST"  # as torchvision calls them; all of one form
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(strict=False, max_length=DEEPEST)] = (128,)  # a list will do
    activation: Literal["relu", "leaky_relu", "tanh", "sigmoid"] = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that a hidden unit is dropped
    batch_norm: bool = False  # after each hidden linear layer, before its activation
    layer_norm: bool = False  # the same place
    residual: bool = False  # a hidden layer as wide as the one before it adds its output to that one's
    init: Init = "default"  # of the weights, by torch.nn.init; default is what torch.nn.Linear does
    bias_init: Literal["default", "zeros", "normal"] = "default"
    init_std: Annotated[float, Field(gt=0)] = 1.0  # of `normal`, weights and biases alike

    optimizer: Literal["SGD", "Adam", "AdamW", "RMSprop", "Adadelta"] = "SGD"
    lr: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # as torch.optim: λ·w joins the gradient (AdamW: decoupled)
    batch_size: Annotated[PositiveInt, Field(le=TRAIN_IMAGES)] = 512  # images
    epochs: Annotated[int, Field(ge=0, le=LONGEST)] = 50  # passes through the train split
    loss_scale: Annotated[float, Field(gt=0)] = 1.0  # multiplies the gradient of the loss, not what is reported
    schedule: Literal["constant", "cosine", "one_cycle", "linear", "steps"] = "constant"  # see optim.learning_rates
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0  # in which the rate rises linearly, before its schedule
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of a target that all classes have alike
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # above 0, the network is its weights' moving average
    teachers: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()  # to learn from: what each has otherwise
    distill_weight: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of the loss that their mean probabilities have

    augment_shift: Annotated[int, Field(ge=0, lt=28)] = 0  # most pixels by which an image moves, along either axis
    augment_flip: bool = False  # left to right, every other image
    augment_rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # most degrees, either way
    augment_erasing: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability that a rectangle is blackened
    mixup: Annotated[float, Field(ge=0)] = 0.0  # α of the Beta distribution of an image's share in a mixture

    input_scaling: Literal["none", "symmetric", "standardized", "mnist"] = "none"  # pixels in [0, 1]; see data.scaling
    val_size: Annotated[int, Field(gt=0, lt=TRAIN_IMAGES)] = 6_000  # of the 60,000; the rest is trained on
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["float64", "float32", "bfloat16"] = "float32"  # weights, loss and updates are never bfloat16

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        values = dict(self)
        for name, (applies, message) in APPLIES.items():
            if values[name] != DEFAULTS[name] and not applies(values):
                raise ValueError(f"{name}: {message.format(**values)}")
        if (weights := self.parameters) > LARGEST:
            raise ValueError(f"hidden_sizes: {weights:,} weights; a network has at most {LARGEST:,} here")
        last_batch = (TRAIN_IMAGES - self.val_size) % self.batch_size
        if self.batch_norm and 1 in (self.batch_size, last_batch):
            raise ValueError("batch_size: batch norm needs two images or more in every batch, the last one too")
        self.teacher_configs  # noqa: B018
        return self

    @property
    def teacher_configs(self) -> list["RunConfig"]:
        """The runs whose mean probabilities this one learns: each is this run, seed included, but for its overrides,
        and less what these leave without a meaning (SGD's momentum beside Adam).
        """
        own, found = self.model_dump() | {"teachers": ()} if self.teachers else {}, []
        for i, teacher in enumerate(self.teachers):
            for key, value in teacher.items():
                validate_field(key, value, f"teachers.{i}")
                if key in ("teachers", "distill_weight", "dataset", "val_size"):
                    raise UserError(f"teachers.{i}.{key}: teachers have the images of the run, and no teachers")
            found.append(validate(RunConfig, without_unused(own | teacher) | teacher, f"teachers.{i}"))
        return found

    @property  # not cached: model_copy would take the address along
    def run_id(self) -> str:
        """Address in the store: 16 hexadecimal digits of the SHA-256 of the whole config."""
        return self._address()

    @property
    def trial_id(self) -> str:  # the same for runs that differ in seed alone
        return self._address("seed")

    def __hash__(self) -> int:  # pydantic's would hash the teachers, which are dicts
        return hash(self.run_id)

    def _address(self, *but: str) -> str:
        unused = [name for name in ADDED_FIELDS if getattr(self, name) == DEFAULTS[name]]
        record = {"results_version": RESULTS_VERSION, **self.model_dump(mode="json", exclude={*but, *unused})}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def augments(self) -> bool:  # images are changed at random, each by itself
        return any(getattr(self, name) for name in AUGMENTATIONS)

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        """(in, out) of every linear layer: [(784, 128), (128, 10)]."""
        return list(pairwise([INPUTS, *self.hidden_sizes, OUTPUTS]))

    @property
    def parameters(self) -> int:
        """Trained numbers in the network: weights, biases and, with batch or layer norm, its scale and shift."""
        norm = 2 * sum(self.hidden_sizes) if self.batch_norm or self.layer_norm else 0
        return sum(n_in * n_out + n_out for n_in, n_out in self.layer_sizes) + norm

    def row(self) -> dict[str, Any]:
        """The config as one row of a table; `hidden_sizes` as "400-400", `teachers` as JSON."""
        teachers = json.dumps(self.teachers)[1:-1]
        return {**self.model_dump(), "hidden_sizes": sizes_text(self.hidden_sizes), "teachers": teachers}


TRIAL_FIELDS = tuple(name for name in RunConfig.model_fields if name != "seed")
DEFAULTS = {name: field.default for name, field in RunConfig.model_fields.items()}
AUGMENTATIONS = tuple(name for name in TRIAL_FIELDS if name.startswith("augment_"))
# Not in an address where they have their default: runs stored before they came are found.
ADDED_FIELDS = ("dataset", "layer_norm", "residual", "schedule", "warmup_epochs", "label_smoothing", "ema_decay")
ADDED_FIELDS += ("mixup", "teachers", "distill_weight", *AUGMENTATIONS)
APPLIES = {  # fields that have a meaning beside some values of others only: beside which, and what a message says
    "momentum": (lambda run: run["optimizer"] in ("SGD", "RMSprop"), "only with SGD or RMSprop, not {optimizer}"),
    "nesterov": (lambda run: run["optimizer"] == "SGD" and run["momentum"], "only with SGD and momentum > 0"),
    "init_std": (lambda run: "normal" in (run["init"], run["bias_init"]), "only with init or bias_init: normal"),
    "layer_norm": (lambda run: not run["batch_norm"], "not beside batch_norm"),
    "residual": (
        lambda run: any(a == b for a, b in pairwise(run["hidden_sizes"])),
        "only with two neighbouring hidden layers of one width",
    ),
    "distill_weight": (lambda run: run["teachers"], "only with teachers"),
    "warmup_epochs": (lambda run: run["schedule"] != "one_cycle", "not with schedule one_cycle, which rises by itself"),
}


def without_unused(values: dict[str, Any]) -> dict[str, Any]:
    """`values` of config fields, where those that have no meaning beside the others are what they are by default."""
    used = dict(values)
    for name, (applies, _) in APPLIES.items():
        if name in used and not applies({**DEFAULTS, **used}):
            used[name] = DEFAULTS[name]
    return used


def sizes_text(hidden_sizes: tuple[int, ...]) -> str:
    """(400, 400) → "400-400"; no hidden layer → "none"."""
    return "-".join(map(str, hidden_sizes)) or "none"


def validate(model: type[Model], values: Any, where: str) -> Model:
    """`values` as a `model`; raises `UserError` with `where`, the key and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {'; '.join(map(_explained, error.errors()[:SEVERAL]))}") from None


def validate_field(key: str, value: Any, where: str) -> None:
    """Raises `UserError` if no trial may hold this value, whatever its other fields are."""
    if key not in TRIAL_FIELDS:
        hint = "; seeds are listed under `seeds`" if key == "seed" else nearest(key, list(TRIAL_FIELDS))
        raise UserError(f"{where}.{key}: unknown key{hint}")
    try:
        RunConfig.model_validate({key: value})
    except ValidationError as error:
        if of_the_field := [item for item in error.errors() if item["loc"] or key == "hidden_sizes"][:SEVERAL]:
            raise UserError(f"{where}: {'; '.join(map(_explained, of_the_field))}") from None


SEVERAL = 5  # mistakes that a message names
PLAIN = {  # pydantic's words in ours
    "missing": "is required",
    **dict.fromkeys(("dict_type", "model_type"), "should be keys with values"),
    "tuple_type": "should be a list of widths, such as [400, 400]",
    "string_type": "should be text; put it in quotes",
    "bool_type": "should be true or false",
    "too_short": "should not be empty",
    "too_long": "should have at most {max_length:,} items",
}


def _explained(error: dict[str, Any]) -> str:
    """One of pydantic's errors: key, what is wrong, what was given or what is allowed."""
    key, given = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "unknown_key":
        return f"{key}.{error['msg']}" if key else error["msg"]
    if error["type"] == "literal_error":
        allowed = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{key}: {given!r:.60} is not allowed{nearest(str(given), allowed)}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] in PLAIN:
        message = PLAIN[error["type"]].format_map(error.get("ctx", {}))
    got = "" if error["type"] == "missing" else f" (got {given!r:.60})"
    return f"{key}: {message}{got}" if key else message


OTHERWISE = {"learning_rate": "lr", "hidden_layers": "hidden_sizes", "layers": "hidden_sizes"}  # as others call it


def nearest(name: str, allowed: list[str]) -> str:
    """The tail of a message: "; did you mean 'lr'? Allowed: …"."""
    folded = {other: choice for other, choice in OTHERWISE.items() if choice in allowed}
    folded |= {choice.lower(): choice for choice in allowed}
    close = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.5)
    return (f"; did you mean '{folded[close[0]]}'?" if close else ".") + f" Allowed: {', '.join(allowed)}"


SIZE, LEVELS = 20_000, 20  # most bytes of a YAML file, which are read in a second, and nested levels
UNREADABLE = (YAMLError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


class _Plain(Composer):
    """Refuses aliases, by which a few lines can stand for a billion values, and tags."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        if getattr(event, "tag", None) or isinstance(event, AliasEvent):
            said = "an alias (*) or a tag (!!); write the value out"
            raise ComposerError(problem=said, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer, yaml.max_depth = _Plain, LEVELS
    return yaml


def read_yaml(path: Path) -> dict[str, Any]:
    """The YAML 1.2 file as plain dicts and lists: 1e-4 is a number, `no` is a word, a key stands once; empty is {}."""
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))
        raise UserError(f"{path}: no such file{nearest(path.name, others) if others else ''}")
    if (size := path.stat().st_size) > SIZE:
        raise UserError(f"{path}: {size:,} bytes; parameters are read from files of at most {SIZE:,}")
    try:
        values = _yaml().load(path.read_text(encoding="utf-8")) or {}
    except UNREADABLE as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(problem.split(" with value")[0].split(", if necessary")[0].split())
        raise UserError(f"{path}{line}: not readable as YAML: {problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys with values, got {values!r:.60}")
    return values


def located(message: str) -> str:
    """A message that begins with a YAML file and a key, "params/a/b.yaml: base: lr: …", with the line of that key."""
    file, _, said = message.partition(": ")
    path = project_root() / file
    try:
        node = _yaml().compose(path) if path.suffix == ".yaml" and path.stat().st_size <= SIZE else None
    except UNREADABLE:  # that is what the message says
        return message
    line, rest = 0, said
    while isinstance(node, MappingNode | SequenceNode):
        pairs = node.value if isinstance(node, MappingNode) else [(each, each) for each in node.value]
        parts = {str(i if key is part else key.value): (key, part) for i, (key, part) in enumerate(pairs)}
        here = max((name for name in parts if rest.startswith((f"{name}.", f"{name}:"))), key=len, default=None)
        if here is None:
            break
        (key, node), rest = parts[here], rest[len(here) + 1 :].lstrip()
        line = key.start_mark.line + 1
    return f"{file}, line {line}: {said}" if line else message
