"""Immutable versions of the model, movable aliases. Knows no Kafka, no record and no torch."""
