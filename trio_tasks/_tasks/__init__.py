"""Tasks, outcomes, errors and retry policies: the vocabulary of the library, which does not need trio."""
