"""A hospital's own export becomes a site folder; the guide is docs/hospital-data.md.

:mod:`mapping` is what ``mapping.yaml`` may say, :mod:`load` reads it, :mod:`prepare` applies it:
:mod:`tables` to stays and observations, :mod:`rows` to questions, :mod:`files` to images and
signals. :mod:`proposal` writes a first mapping.
"""

from fedkim_core.data.hospital.prepare import Prepared, prepare_site

__all__ = ["Prepared", "prepare_site"]
