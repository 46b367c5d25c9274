"""Search for good settings, in Hydra's override grammar, by Optuna."""
