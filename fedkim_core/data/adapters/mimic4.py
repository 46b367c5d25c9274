"""MIMIC-IV: intensive care at the Beth Israel Deaconess Medical Center, 2008 to 2022.

Johnson A, Bulgarelli L, Shen L, et al. MIMIC-IV, a freely accessible electronic health record
dataset. Scientific Data 10:1 (2023), doi:10.1038/s41597-022-01899-x. Tables:
https://mimic.mit.edu/docs/iv/modules/. Tested with release 2.2; the demo has the same form.

Examples are the first ICU stay of every hospital admission of patients of 18 years or more. Hour 0
is the admission to the ICU; what was recorded in the stay and its first 168 hours is read.

Labels:

- ``mortality`` is "yes" if and only if ``hospital_expire_flag`` of the admission is 1. It is asked
  only of stays of 24 hours or more: an earlier end of the records would give the answer away.
- ``sepsis`` is "yes" if and only if the stay meets the Sepsis-3 criteria within the hours that are
  read, as :mod:`fedkim_core.data.sepsis` computes them (its text names what is missing from the
  SOFA score). Antibiotics are systemic antibacterial drugs in ``prescriptions``, cultures are rows
  of ``microbiologyevents`` that are no screening and no serology. With ``--set sepsis=icd`` it is
  "yes" if and only if the admission has one of the explicit codes ICD-9-CM 995.91, 995.92, 785.52
  or ICD-10-CM A40, A41, R65.2: of the whole admission and given at discharge, but usable without
  ``chartevents``.

Which items are read is in ``conf/source/mimic.yaml`` and ``mimic4.yaml``. PaO2 and PaCO2 are taken
only from samples that the laboratory calls arterial. A missing table of events is no error: its
modality is then absent. Infusions are rates averaged over each hour; volumes that came out become
rates as :func:`fedkim_core.data.records.hourly_rates` has it.
"""

from pathlib import Path

from fedkim_core.data.mimic.layout import Layout
from fedkim_core.data.mimic.read import MODALITIES, TASKS, read_mimic
from fedkim_core.data.prepare import SourceData

__all__ = ["LICENCE", "MODALITIES", "NAME", "OBTAIN", "TASKS", "read"]
NAME = "mimic4"
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0 (the demo: ODbL 1.0)"
OBTAIN = (
    "MIMIC-IV 2.2 or later from https://physionet.org/content/mimiciv/ (folders hosp and icu; a"
    " demo is open to all: https://physionet.org/content/mimic-iv-demo/2.2/)"
)
_LAYOUT = Layout(
    name=NAME,
    obtain=OBTAIN,
    stay="stay_id",
    patient=("anchor_age", "anchor_year"),
    infusions="inputevents",
    codes=("icd_code", "icd_version"),
    ordered="starttime",
    ordered_by_day=False,
)


def read(source: Path, scratch: Path, *, sepsis: str = "sepsis3") -> SourceData:
    """Read the official layout, ``*.csv.gz`` or ``*.csv`` in ``hosp`` and ``icu`` or one folder.

    Args:
        source: the folder.
        scratch: for the tables.
        sepsis: ``sepsis3`` or ``icd``, see the labels above.

    Raises:
        UserError: names the file, the row where there is one, and the rule.
    """
    note = "MIMIC-IV, Johnson et al. 2023, doi:10.13026/6mm1-ek67; real, de-identified patients"
    return read_mimic(_LAYOUT, source, scratch, sepsis=sepsis, licence=LICENCE, note=note)
