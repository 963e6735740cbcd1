"""From a function to a handler: its parameters, and the adapter that fills them."""
