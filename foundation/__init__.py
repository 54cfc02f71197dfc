"""What every room stands on: the error tree, the settings loader, the log format. Knows nothing of records or models."""
