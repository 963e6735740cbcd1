"""The command line ``trio-tasks``, which needs click and rich: the extra ``trio_tasks[cli]``."""
