"""An invented export as a German hospital might give it, and the mapping that fits.

``python -m tests.data.hospital.german FOLDER`` writes it. Every patient is made up.
"""

import gzip
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import wfdb
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
PATIENTS = 40
MAPPING = """\
site:
  name: klinik-nord
  synthetic: true
  note: invented
source: export
format:
  delimiter: ";"
  decimal: ","
  encoding: cp1252
  datetime: "%d.%m.%Y %H:%M"

stays:
  file: Faelle.csv
  stay: FALLNR
  patient: PATNR
  admitted: AUFNAHME
  discharged: ENTLASSUNG

tables:
  - file: Vitalwerte.csv
    stay: FALLNR
    time: ZEITPUNKT
    columns:
      "Herzfrequenz [1/min]": {variable: heart_rate, unit: 1/min}
      "RR syst. [mmHg]": {variable: systolic_bp, unit: mmHg}
      "Temperatur [°C]": {variable: temperature, unit: °C}
      "SpO2 [%]": {variable: spo2, unit: "%"}
  - file: Labor_*.csv.gz
    stay: FALLNR
    time: ABNAHME
    name: ANALYT
    value: ERGEBNIS
    unit: EINHEIT
    names:
      Natrium: {variable: sodium}
      Kreatinin: {variable: creatinine}
      Laktat: {variable: lactate, unit: mmol/l}
      Hämoglobin: {variable: haemoglobin}

examples:
  - task: mortality
    answer: {column: ENTLASSGRUND, yes: [verstorben], no: other}
  - task: lung_opacity
    file: Roentgen.csv
    patient: PATNR
    image: "Roentgen/{DATEI}"
    answer: {column: VERSCHATTUNG, yes: [ja], no: [nein]}
  - task: ecg_abnormal
    file: EKG.csv
    patient: PATNR
    signal: "EKG/{PATNR}_*.hea"
    answer: {column: BEFUND, yes: [pathologisch], no: [unauffällig]}

split:
  validation: 0.2
"""


def comma(number: float, digits: int = 1) -> str:
    return f"{number:.{digits}f}".replace(".", ",")


def write_csv(path: Path, rows: list[list[str]]) -> None:
    data = "".join(";".join(row) + "\r\n" for row in rows).encode("cp1252")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_dicom(path: Path, pixels: np.ndarray[Any, Any], patient: str) -> None:
    """A radiograph with the attributes that a scanner writes, the patient's among them."""
    meta: Any = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds: Any = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    ds.PatientID, ds.PatientName = patient, "Mustermann^Erika"
    ds.PatientBirthDate, ds.InstitutionName = "19400101", "Klinik Nord"
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = "CR", "MONOCHROME1", 1
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)


def write_export(folder: Path, *, patients: int = PATIENTS, seed: int = 0) -> Path:
    """Write ``export`` with its tables, radiographs and electrocardiograms."""
    rng = np.random.default_rng(seed)
    export = folder / "export"
    for name in ("Roentgen", "EKG"):
        (export / name).mkdir(parents=True)
    stays = [["FALLNR", "PATNR", "AUFNAHME", "ENTLASSUNG", "ENTLASSGRUND"]]
    vitals = [["FALLNR", "ZEITPUNKT", "Herzfrequenz [1/min]", "RR syst. [mmHg]"]]
    vitals[0] += ["Temperatur [°C]", "SpO2 [%]", "Pflegekraft"]
    labs = [["FALLNR", "ABNAHME", "ANALYT", "ERGEBNIS", "EINHEIT"]]
    films = [["PATNR", "DATEI", "VERSCHATTUNG"]]
    ecgs = [["PATNR", "BEFUND"]]
    for number in range(patients):
        patient, stay = f"{70000 + 13 * number}", f"{2100000 + 7 * number}"
        dies, opaque, abnormal = number % 4 == 0, number % 3 == 0, number % 2 == 0
        arrival = datetime(2021, 3, 1, 6, 0) + timedelta(hours=int(rng.integers(0, 5000)))
        leaves = arrival + timedelta(hours=60)
        reason = "verstorben" if dies else ("nach Hause", "verlegt")[number % 2]
        stamp = "%d.%m.%Y %H:%M"
        stays.append([stay, patient, arrival.strftime(stamp), leaves.strftime(stamp), reason])
        for hour in range(0, 30, 2):
            when = (arrival + timedelta(hours=hour, minutes=20)).strftime(stamp)
            pulse, pressure = rng.normal(85 + 20 * dies, 8), rng.normal(125 - 25 * dies, 8)
            fever = comma(rng.normal(37, 0.4)) if hour % 6 == 0 else ""
            saturation = comma(min(100, rng.normal(96, 1.5)), 0)
            vitals.append(
                [stay, when, comma(pulse, 0), comma(pressure, 0), fever, saturation, "Schmidt"]
            )
        for hour in (1, 13):
            when = (arrival + timedelta(hours=hour)).strftime(stamp)
            creatinine = rng.uniform(0.7, 1.4)
            metric = number % 2 == 0  # the laboratory changed its units
            labs += [
                [stay, when, "Natrium", comma(rng.normal(139, 3), 0), "mmol/l"],
                [stay, when, "Kreatinin", comma(creatinine * 88.42, 0), "µmol/l"]
                if metric
                else [stay, when, "Kreatinin", comma(creatinine, 2), "mg/dl"],
                [stay, when, "Laktat", "<0,5" if hour == 13 else comma(rng.uniform(0.6, 4)), ""],
                [stay, when, "Hämoglobin", comma(rng.normal(12, 1.5)), "g/dl"],
                [stay, when, "TSH basal", comma(rng.uniform(0.5, 4), 2), "mU/l"],
            ]
        films.append([patient, f"{patient}_pa.dcm", "ja" if opaque else "nein"])
        pixels = rng.integers(0, 4096, (48, 40))
        write_dicom(export / "Roentgen" / f"{patient}_pa.dcm", pixels, patient)
        ecgs.append([patient, "pathologisch" if abnormal else "unauffällig"])
        wfdb.wrsamp(
            f"{patient}_ekg",
            fs=100,
            units=["mV"] * 12,
            sig_name=LEADS,
            p_signal=rng.normal(0, 0.2, (1000, 12)).round(3),
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            comments=["Mustermann, Erika"],
            write_dir=str(export / "EKG"),
        )
    half = len(labs) // 2
    write_csv(export / "Faelle.csv", stays)
    write_csv(export / "Vitalwerte.csv", vitals)
    write_csv(export / "Labor_2021a.csv.gz", labs[:half])
    write_csv(export / "Labor_2021b.csv.gz", [labs[0], *labs[half:]])
    write_csv(export / "Roentgen.csv", films)
    write_csv(export / "EKG.csv", ecgs)
    return export


if __name__ == "__main__":
    write_export(Path(sys.argv[1]))
