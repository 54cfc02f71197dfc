"""Verdicts -> checkpoint: starter, contrastive pairs, reward training, evaluation, calibration, publishing."""
