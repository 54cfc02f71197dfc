"""The gate: Kafka in, decision, Kafka out. Five stages, read top to bottom in gate.py."""
