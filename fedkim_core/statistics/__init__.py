"""What may be concluded from answers: intervals, tests, calibration (docs/evaluation.md)."""
