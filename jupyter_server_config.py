"""How `make lab` starts JupyterLab, which reads this file only when it is named with --config."""

import warnings

warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")  # Jupyter reads its settings twice


def keep_machine_out(model, **_):
    """Opening a notebook and saving it leaves it as it was: which Python there is, is not stored."""
    if model["type"] == "notebook" and model["content"]["metadata"].get("language_info"):
        model["content"]["metadata"]["language_info"] = {"name": "python"}


c = get_config()  # noqa: F821
c.ServerApp.root_dir = "."
c.LabApp.default_url = "/lab/tree/notebooks/welcome.ipynb"
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.news_url = None
c.LabApp.extension_manager = "readonly"
c.ContentsManager.pre_save_hook = keep_machine_out
