"""A bookshop: orders over HTTP, and what has to be done after them, as tasks in the same SQLite file."""
