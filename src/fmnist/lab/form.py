"""The fields of one trial as a form: what the panel `explore` trains."""

import re
from typing import Any, get_args

import ipywidgets as widgets

from fmnist.config import RunConfig, UserError, sizes_text, validate
from fmnist.engine.workers import devices, resolve_device
from fmnist.study import StudySpec

STYLE = {"description_width": "92px"}
NARROW = {"width": "270px"}


def allowed(field: str) -> tuple[str, ...]:
    """The values that a field of a run config may have, in its order."""
    return get_args(RunConfig.model_fields[field].annotation)


def whole_numbers(text: str, what: str) -> list[int]:
    """ "400-400", "0, 1 2" → [400, 400], [0, 1, 2]; "none" → []. Raises `UserError` for anything else."""
    parts = [part for part in re.split(r"[-,;\s\[\]]+", text) if part and part != "none"]
    if any(not part.isdigit() for part in parts):
        raise UserError(f"{what}: should be whole numbers, such as 400-400 or 0, 1, 2 (got {text!r})")
    return [int(part) for part in parts]


class Form(widgets.VBox):
    """Fields for a trial and its seeds; `base` holds their first values, and fields that the form does not show.

    Raises `UserError` for a base that no run config can have, or a device that is not there.
    """

    def __init__(self, base: dict[str, Any], seeds: list[int], device: str):
        first = validate(RunConfig, base, "base")
        self.base = base

        def choice(field: str, name: str) -> widgets.Dropdown:
            return self._field(widgets.Dropdown, name, getattr(first, field), options=allowed(field))

        self.hidden_sizes = self._field(widgets.Text, "layers", sizes_text(first.hidden_sizes))
        self.hidden_sizes.tooltip = "widths of the hidden layers, such as 400-400; none without any"
        self.activation = choice("activation", "activation")
        self.dropout = self._field(widgets.BoundedFloatText, "dropout", first.dropout, min=0, max=0.99, step=0.05)
        self.batch_norm = widgets.Checkbox(first.batch_norm, description="batch norm", layout=NARROW, style=STYLE)
        self.init = choice("init", "initial weights")
        self.optimizer = choice("optimizer", "optimizer")
        self.lr = self._field(widgets.FloatText, "learning rate", first.lr)
        self.batch_size = self._field(widgets.BoundedIntText, "batch size", first.batch_size, min=1, max=60_000)
        self.epochs = self._field(widgets.BoundedIntText, "epochs", first.epochs, min=1, max=10_000)
        self.seeds = self._field(widgets.Text, "seeds", ", ".join(map(str, seeds)))
        resolve_device(device)
        self.device = self._field(widgets.Dropdown, "device", device, options=devices())
        super().__init__([getattr(self, name) for name in (*self.fields, "seeds", "device")])

    fields = ("hidden_sizes", "activation", "dropout", "batch_norm", "init", "optimizer", "lr", "batch_size", "epochs")

    @staticmethod
    def _field(kind: type, name: str, value: Any, **more: Any):
        return kind(value=value, description=name, layout=NARROW, style=STYLE, **more)

    def configs(self) -> list[RunConfig]:
        """What the form asks for, a config a seed. Raises `UserError` for what is not allowed."""
        values = {name: getattr(self, name).value for name in self.fields}
        values["hidden_sizes"] = whole_numbers(self.hidden_sizes.value, "layers")
        if self.optimizer.value not in ("SGD", "RMSprop"):  # what `base` has for the first optimizer
            values["momentum"] = 0.0
        if self.optimizer.value != "SGD":
            values["nesterov"] = False
        if "normal" not in (self.init.value, self.base.get("bias_init")):
            values["init_std"] = 1.0
        seeds = validate(StudySpec, {"seeds": whole_numbers(self.seeds.value, "seeds")}, "form").seeds
        return [validate(RunConfig, {**self.base, **values, "seed": seed}, "form") for seed in dict.fromkeys(seeds)]
