"""What `trio-tasks run bakery.worker:tasks` imports: Django is set up before the models are."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bakery.settings")
django.setup()

from .tasks import tasks as tasks  # noqa: E402  models need a Django that is set up
