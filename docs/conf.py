"""The configuration of Sphinx. It also draws the drawings, so that they are never out of date."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

project = "trio_tasks"
author = "the trio_tasks authors"
project_copyright = "the trio_tasks authors"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.extlinks"]
exclude_patterns = ["_build", "_generated", "examples", "drawings"]

# There are no inventories of other projects here, so their names cannot be links.
nitpick_ignore_regex = [("py:.*", r"(trio|trio_util|collections|datetime|typing|outcome)\..*")]

html_theme = "furo"
html_title = "trio_tasks"
html_static_path = ["_static"]
html_css_files = ["trio_tasks.css"]
html_show_sourcelink = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

# Every claim about another library is pinned to the commit at which it was read.
_READ_AT = {
    "apalis": ("apalis-dev/apalis", "fbe4db276b09f44cefd482a8a0de1a3d2c9f0669"),
    "apscheduler": ("agronholm/apscheduler", "f2337f7aa675718ba5f0af33e0cb53006304ab0a"),
    "arq": ("python-arq/arq", "3914e48c530f0e5acf02cb340b1f8f3e201ba895"),
    "dramatiq": ("Bogdanp/dramatiq", "848b35f2f960457ff54a72f9edb3af0de754f72f"),
    "streaq": ("tastyware/streaq", "56567dc3797e89ac4470ac3998b432024b527c90"),
    "taskiq": ("taskiq-python/taskiq", "ae2b788007a4c985394dda913f4df875ec79711a"),
    "taskiq-redis": ("taskiq-python/taskiq-redis", "374c789739b63f6cec765a09d71606193be26197"),
}
extlinks = {
    name: (f"https://github.com/{repository}/blob/{commit}/%s", "%s")
    for name, (repository, commit) in _READ_AT.items()
}


def _draw() -> None:
    drawings = HERE / "drawings"
    sys.path.insert(0, str(drawings))
    try:
        target = HERE / "_generated"
        target.mkdir(exist_ok=True)
        for name in ("floors", "shutdown"):
            svg = importlib.import_module(name).draw()
            (target / f"{name}.svg").write_text(svg, encoding="utf-8")
    finally:
        sys.path.remove(str(drawings))


_draw()
