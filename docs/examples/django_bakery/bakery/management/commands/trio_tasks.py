"""manage.py trio_tasks: the command trio-tasks, for this project."""

import os
import sys
from collections.abc import Sequence

from django.conf import settings
from django.core.management import BaseCommand
from trio_tasks.__main__ import main


class Command(BaseCommand):
    help = "Run the workers of this project, and look at its tasks: trio_tasks run, trio_tasks queues ..."

    def run_from_argv(self, argv: Sequence[str]) -> None:
        os.environ.setdefault("TRIO_TASKS_URL", settings.TRIO_TASKS_URL)
        command = [*argv[2:]]
        if command[:1] == ["run"]:
            command.insert(1, "bakery.worker:tasks")
        sys.argv = ["manage.py trio_tasks", *command]
        sys.exit(main())
