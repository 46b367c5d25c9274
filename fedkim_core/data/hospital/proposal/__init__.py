"""A first ``mapping.yaml`` for an export, to be corrected by somebody who knows the data."""

from fedkim_core.data.hospital.proposal.build import propose

__all__ = ["propose"]
