"""The Django project beside this file, tried: two orders, and the worker that bakes one of them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent / "django_bakery"
sys.path.insert(0, str(PROJECT))
os.environ["DJANGO_SETTINGS_MODULE"] = "bakery.settings"

import django  # noqa: E402  the settings have to be known
from django.apps import apps  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402

if __name__ == "__main__":
    django.setup()
    logging.disable()
    call_command("migrate", run_syncdb=True, verbosity=0)
    for item in ("a rye loaf", "a wedding cake"):
        response = Client().post("/orders", {"item": item})
        print(response.status_code, response.content.decode())
    worker = [sys.executable, str(PROJECT / "manage.py"), "trio_tasks", "run", "--until-idle", "--no-json"]
    print(subprocess.run(worker, check=True, capture_output=True, text=True).stdout.strip())

    print(*apps.get_model("bakery.Order")._default_manager.all())
