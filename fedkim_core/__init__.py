"""fedkim: federated knowledge injection for medical foundation models."""

__version__ = "0.1.0"
