"""The storage in a journal file, and its engine: rows in memory, and every change in the journal."""
