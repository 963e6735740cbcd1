"""Run the cells of a notebook by IPython, one after the other: python run_notebook.py FILE."""

import json
import sys
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

shell: Any = InteractiveShell.instance()
shell.history_manager.enabled = False
for cell in json.loads(Path(sys.argv[1]).read_text("utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        shell.run_cell("".join(cell["source"])).raise_error()
