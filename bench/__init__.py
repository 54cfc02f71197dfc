"""One command each; the last line that a bench prints is one JSON object."""
