"""A backend that injects faults, and the parts that it is made of."""
