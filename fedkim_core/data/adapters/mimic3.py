"""MIMIC-III: intensive care at the Beth Israel Deaconess Medical Center, 2001 to 2012.

Johnson A, Pollard T, Shen L, et al. MIMIC-III, a freely accessible critical care database.
Scientific Data 3:160035 (2016), doi:10.1038/sdata.2016.35. Tables:
https://mimic.mit.edu/docs/iii/tables/. Written for release 1.4.

Examples, hours and labels are those of :mod:`fedkim_core.data.adapters.mimic4`. What differs:

- Two systems were in use. MetaVision has infusions with start and end. In CareVue an amount was
  given by its time and is spread over the hour before, and a rate holds from its time until the
  next row of its item, at most an hour.
- ``prescriptions`` gives the day on which a drug began, not the time. Days are compared then: the
  antibiotic from one day before to three days after the culture; infection is suspected from the
  start of that day.
- Diagnoses are ICD-9-CM only: with ``--set sepsis=icd`` the codes 995.91, 995.92 and 785.52.

Which items are read is in ``conf/source/mimic.yaml`` and ``mimic3.yaml``. Rows marked as errors
(``ERROR``, ``ISERROR``) and rewritten orders are left out.
"""

from pathlib import Path

from fedkim_core.data.mimic.layout import Layout
from fedkim_core.data.mimic.read import MODALITIES, TASKS, read_mimic
from fedkim_core.data.prepare import SourceData

__all__ = ["LICENCE", "MODALITIES", "NAME", "OBTAIN", "TASKS", "read"]
NAME = "mimic3"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0 (the demo: ODbL 1.0)"
OBTAIN = (
    "MIMIC-III 1.4 from https://physionet.org/content/mimiciii/1.4/ (a demo is open to all:"
    " https://physionet.org/content/mimiciii-demo/1.4/)"
)
_LAYOUT = Layout(
    name=NAME,
    obtain=OBTAIN,
    stay="icustay_id",
    patient=("dob",),
    infusions="inputevents_mv",
    codes=("icd9_code",),
    ordered="startdate",
    ordered_by_day=True,
)


def read(source: Path, scratch: Path, *, sepsis: str = "sepsis3") -> SourceData:
    """Read the official layout, ``*.csv.gz`` or ``*.csv`` in one folder.

    Args:
        source: the folder.
        scratch: for the tables.
        sepsis: ``sepsis3`` or ``icd``, see the labels of MIMIC-IV.

    Raises:
        UserError: names the file, the row where there is one, and the rule.
    """
    note = "MIMIC-III, Johnson et al. 2016, doi:10.13026/C2XW26; real, de-identified patients"
    return read_mimic(_LAYOUT, source, scratch, sepsis=sepsis, licence=LICENCE, note=note)
