"""The conformance kit: what every backend must do, as rules that are tried on one."""
