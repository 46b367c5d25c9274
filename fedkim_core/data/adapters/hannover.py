"""COVID-19 Image Repository of Hannover Medical School: chest radiographs of COVID-19 patients.

Winther HB, Laser H, Gerbel S, et al. COVID-19 Image Repository (2020),
doi:10.25835/0090041, https://github.com/ml-workgroup/covid-19-image-repository.

Label: ``covid19`` is "yes" for every image; all patients of the repository have COVID-19. **It
holds one class**, so it is of use only together with another set that has the "no", and a model can
then learn to tell the hospitals apart instead of the disease. The COVID-19 Radiography Database
contains images of this repository: do not put both into one federation.
"""

import re
from pathlib import Path

from fedkim_core.data.csv_rows import csv_rows
from fedkim_core.data.pixels import Radiograph, collect, files_in
from fedkim_core.data.prepare import SourceData
from fedkim_core.errors import UserError

NAME = "hannover"
MODALITIES = ("image",)
TASKS = ("covid19",)
LICENCE = "CC BY 3.0"
OBTAIN = (
    "data.csv and the folder png from https://github.com/ml-workgroup/covid-19-image-repository"
)

_TABLE, _IMAGES = "data.csv", "png"
_RADIOGRAPHY = ("CR", "DX")
"""Computed and digital radiography, DICOM PS3.3 C.7.3.1.1.1."""


def read(source: Path, scratch: Path) -> SourceData:
    """Read ``data.csv``; images are decoded when they are written.

    Args:
        source: the repository, or ``data.csv`` and ``png`` of it.
        scratch: not needed.

    Raises:
        UserError: names the file, the row and the rule that it breaks.
    """
    found: dict[str, Radiograph] = {}
    left_out: list[tuple[str, str]] = []
    listed: set[str] = set()
    columns = ("patient_id", "image_id", "modality")
    for where, row in csv_rows(source / _TABLE, columns, OBTAIN):
        for column in ("patient_id", "image_id"):
            if not re.fullmatch(r"[\w-]+", row[column]):
                raise UserError(f"{where}: {column} is not made of letters, digits and hyphens")
        file = f"{_IMAGES}/{row['image_id']}.png"
        earlier = found.get(file)
        if earlier and earlier.patient != row["patient_id"]:
            raise UserError(f"{where}: image_id is another patient's in an earlier row")
        if file in listed:
            left_out.append((Path(where).name, "row repeats an earlier image_id"))
        elif row["modality"] not in _RADIOGRAPHY:
            left_out.append((file, f"modality is none of: {', '.join(_RADIOGRAPHY)}"))
        else:
            found[file] = Radiograph(file, row["patient_id"], {"covid19": True})
        listed.add(file)
    left_out += [
        (f"{_IMAGES}/{name}", f"image is not listed in {_TABLE}")
        for name in files_in(source / _IMAGES)
        if f"{_IMAGES}/{name}" not in listed
    ]
    return collect(
        source,
        found.values(),
        name=NAME,
        licence=LICENCE,
        note="COVID-19 Image Repository, Winther et al. 2020, doi:10.25835/0090041; real,"
        " de-identified patients",
        obtain=OBTAIN,
        left_out=left_out,
    )
