"""Other tools' ways in: lm-eval, SAELens, endpoints."""
