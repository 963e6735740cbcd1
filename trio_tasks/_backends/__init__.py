"""The backends, and the ledger and the capabilities that several of them share."""
