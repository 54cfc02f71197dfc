"""The verbs that have verbs of their own, and what all verbs share; winnow.py is the front door."""
