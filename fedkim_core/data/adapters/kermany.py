"""Chest radiographs of 1- to 5-year-old children from Guangzhou: 5,856 images.

Kermany DS, Goldbaum M, Cai W, et al. Identifying medical diagnoses and treatable diseases by
image-based deep learning. Cell 172:1122-1131 (2018), doi:10.1016/j.cell.2018.02.010; data
doi:10.17632/rscbjbr9sj.

Label: ``lung_opacity`` is "yes" for the folder ``PNEUMONIA`` and "no" for ``NORMAL``. Two
physicians graded the images (a third checked the test set): bacterial pneumonia shows as a focal
consolidation, viral pneumonia as a diffuse interstitial pattern, a normal radiograph has clear
lungs (figure S6). So a "yes" is a diagnosis of pneumonia, and an opacity of another cause does not
occur; adult sets such as RSNA ask for any opacity suspicious for pneumonia.

With ``covid19=true`` every image is also a "no" of ``covid19``: the set is of 2018, before the
disease. Beside adults with COVID-19 this teaches a model to tell children and another hospital's
machines from them; a high AUROC then says little about the disease.

Patients come from the names: ``person123_bacteria_456.jpeg``, ``IM-0123-0001.jpeg``,
``NORMAL2-IM-0123-0001.jpeg``, and in version 3 ``BACTERIA-123456-0001.jpeg``. The numbers begin
anew in other folders and batches, and nothing says which of them are the same child. Equal numbers
of one class count as one child, so that no child can be on both sides of a split. For the same
reason the official folders ``train``, ``val`` and ``test`` are pooled.
"""

import re
from pathlib import Path

from fedkim_core.data.pixels import Radiograph, collect, files_in
from fedkim_core.data.prepare import SourceData

NAME = "kermany"
MODALITIES = ("image",)
TASKS = ("lung_opacity", "covid19")
LICENCE = "CC BY 4.0"
OBTAIN = "chest_xray from https://data.mendeley.com/datasets/rscbjbr9sj/2"

_NAMES = {
    "NORMAL": (
        re.compile(r"(?:NORMAL2-)?IM-(?P<child>\d+)-\d+(?:-\d+)?\.jpeg"),
        re.compile(r"NORMAL-(?P<child>\d+)-\d+\.jpeg"),
    ),
    "PNEUMONIA": (
        re.compile(r"person(?P<child>\d+)_(?P<germ>bacteria|virus)_\d+\.jpeg"),
        re.compile(r"(?P<germ>BACTERIA|VIRUS)-(?P<child>\d+)-\d+\.jpeg"),
    ),
}


def read(source: Path, scratch: Path, *, covid19: bool = False) -> SourceData:
    """List the images; they are decoded when they are written.

    Args:
        source: ``chest_xray`` or the folder that holds it.
        scratch: not needed.
        covid19: whether the images serve as "no" of ``covid19`` too.

    Raises:
        UserError: there is no image.
    """
    if (source / "chest_xray").is_dir():
        source = source / "chest_xray"
    found: list[Radiograph] = []
    left_out: list[tuple[str, str]] = []
    for split in ("train", "val", "test"):
        for label, patterns in _NAMES.items():
            for name in files_in(source / split / label):
                file = f"{split}/{label}/{name}"
                match = patterns[0].fullmatch(name) or patterns[1].fullmatch(name)
                if not match:
                    left_out.append((file, "name does not tell the patient"))
                    continue
                named = match.groupdict()
                found.append(
                    Radiograph(
                        file=file,
                        patient=f"{label.lower()}-{int(named['child']):04d}",
                        answers={"lung_opacity": label == "PNEUMONIA"}
                        | ({"covid19": False} if covid19 else {}),
                        group=named.get("germ", "").lower(),
                    )
                )
    return collect(
        source,
        found,
        name=NAME,
        licence=LICENCE,
        note="Chest X-Ray Images, Kermany et al. 2018, doi:10.17632/rscbjbr9sj; real, de-identified"
        " patients",
        obtain=OBTAIN,
        left_out=left_out,
    )
