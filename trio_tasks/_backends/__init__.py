"""The backends, and the parts that several of them share."""
