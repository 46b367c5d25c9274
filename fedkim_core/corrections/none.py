"""No correction: sites follow their own gradients (FedAvg)."""


def correction() -> None:
    return None
