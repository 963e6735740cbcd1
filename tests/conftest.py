"""What all tests share; pytest-trio gives them `autojump_clock` and `nursery`."""

from hypothesis import settings

# Under a mock clock the wall clock says nothing about an example, so no deadline.
settings.register_profile("trio_tasks", deadline=None, print_blob=True)
settings.load_profile("trio_tasks")
