"""The vocabulary: tasks, outcomes, errors and retry policies; trio is not needed for it."""
