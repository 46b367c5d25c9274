"""What the adapters of MIMIC-III and MIMIC-IV share."""
