"""A whole network of simulated hospitals, written as site folders."""

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from fedkim_core.data.contract import EXAMPLES_SCHEMA, TABLES_SCHEMA, SiteCard
from fedkim_core.data.simulate.hospitals import (
    PROFILES,
    Hospital,
    Origin,
    hospital_names,
    mixture,
    one_hospital,
)
from fedkim_core.data.simulate.image import draw_images
from fedkim_core.data.simulate.patients import Bools, Ints, Patients, draw_patients
from fedkim_core.data.simulate.recording import Recording, record
from fedkim_core.data.simulate.tables import TABLES, draw_tables
from fedkim_core.data.simulate.text import (
    image_questions,
    noise_questions,
    pick,
    write_notes,
    yes_no,
)
from fedkim_core.data.threads import cores
from fedkim_core.data.write import whole_folder, write_site
from fedkim_core.tasks import load_tasks

SIMULATOR_VERSION = 4
"""Raise it when the same seed gives other data."""
AGE_BANDS = ("18-39", "40-59", "60-79", "80+")
LOCAL_VALIDATION = 0.15
"""Share of a hospital's patients that it keeps for validation."""
WORTH_PROCESSES = 500
"""Patients from which on every core gets a process; one takes two seconds to start."""
Progress = Callable[[str, int, int], None]
Asked = tuple[str, int, str | None, str]
"""Task, patient, question (None: the card's own), answer."""

_NOTE = "Synthetic: every patient is simulated, none is real."


def simulate_network(
    root: Path,
    *,
    seed: int,
    sites: int,
    patients: int,
    public_patients: int,
    validation_patients: int,
    test_patients: int,
    progress: Progress | None = None,
) -> None:
    """Write ``sites/<name>``, ``public``, ``validation`` and ``test`` under ``root``.

    The same arguments give the same bytes. A hospital depends on the seed and its own name only;
    the server's sets are drawn evenly from the hospitals that take part. Unseen tasks have rows in
    ``validation`` and ``test`` alone.

    Args:
        root: must not exist yet, or be empty; appears complete or not at all.
        seed: of everything.
        sites: how many hospitals; more than five repeat the profiles.
        patients: per hospital.
        public_patients: whose labels the server may train on.
        validation_patients: for choosing between runs.
        test_patients: for the result.
        progress: called with what is being or was just made, how many are done, and of how many.

    Raises:
        UserError: ``root`` holds something already, or cannot be written.
    """
    names = hospital_names(sites)
    profiles = tuple(PROFILES[i % len(PROFILES)] for i in range(sites))
    sizes = {"public": public_patients, "validation": validation_patients, "test": test_patients}
    with whole_folder(root) as building:
        (building / "sites").mkdir()
        jobs = {
            name: partial(_write_hospital, building / "sites" / name, profile, patients, seed)
            for name, profile in zip(names, profiles, strict=True)
        } | {
            role: partial(_write_server_set, building / role, profiles[: len(PROFILES)], size, seed)
            for role, size in sizes.items()
        }
        _do(jobs, progress, parallel=sites * patients + sum(sizes.values()) >= WORTH_PROCESSES)
        parameters = {"sites": sites, "patients": patients}
        parameters |= {f"{role}_patients": size for role, size in sizes.items()}
        described = {
            "name": "synthetic",
            "synthetic": True,
            "note": _NOTE,
            "seed": seed,
            "version": SIMULATOR_VERSION,
            "parameters": parameters,
            "hospitals": {n: _plain(asdict(p)) for n, p in zip(names, profiles, strict=True)},
        }
        (building / "network.yaml").write_text(
            yaml.safe_dump(described, sort_keys=False), encoding="utf-8"
        )
    if progress:
        progress("done", len(jobs), len(jobs))


def _do(
    jobs: Mapping[str, Callable[[], None]], progress: Progress | None, *, parallel: bool
) -> None:
    """Do all jobs, in a process for each core where it is worth starting them."""
    if not parallel or cores() == 1:
        for done, (name, job) in enumerate(jobs.items()):
            if progress:
                progress(name, done, len(jobs))
            job()
        return
    with ProcessPoolExecutor(min(cores(), len(jobs)), mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(job): name for name, job in jobs.items()}
        try:
            for done, future in enumerate(as_completed(waiting)):
                future.result()
                if progress:
                    progress(waiting[future], done, len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)


def _write_hospital(folder: Path, profile: Hospital, patients: int, seed: int) -> None:
    name = folder.name
    drawn = draw_patients(one_hospital(profile, patients), _source(seed, name, "patients"))
    _write_folder(folder, name, drawn, seed, None)


def _write_server_set(
    folder: Path, profiles: tuple[Hospital, ...], patients: int, seed: int
) -> None:
    role = folder.name
    drawn = draw_with_both_answers(mixture(profiles, patients), seed, role)
    _write_folder(folder, role, drawn, seed, "train" if role == "public" else role)


def _plain(value: Any) -> Any:
    """Tuples to lists, for YAML."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _source(seed: int, *names: str | int) -> np.random.Generator:
    """Chance for one purpose, independent of every other purpose."""
    words = [n if isinstance(n, int) else zlib.crc32(n.encode()) for n in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def draw_with_both_answers(origin: Origin, seed: int, role: str) -> Patients:
    """Draw the server's patients again (at most 100 times) until every task has yes and no.

    Only small sets ever need a second draw.
    """
    for attempt in range(100):
        drawn = draw_patients(origin, _source(seed, role, "patients", attempt))
        answers = true_answers(drawn)
        if all(truth[rows].any() and not truth[rows].all() for rows, truth in answers.values()):
            break
    return drawn


def true_answers(patients: Patients) -> dict[str, tuple[Ints, Bools]]:
    """By yes/no task: the patients who have the task's modality, and the truth ``[N]``."""
    image, signal, icu = (
        np.flatnonzero(has) for has in (patients.has_image, patients.has_signal, patients.has_icu)
    )
    return {
        "lung_opacity": (image, patients.opacity),
        "covid19": (image, patients.covid > 0),
        "pleural_effusion": (image, patients.effusion > 0),
        "atelectasis": (image, patients.atelectasis > 0),
        "enlarged_cardiomediastinum": (image, patients.enlarged),
        "ecg_abnormal": (signal, patients.abnormal_ecg),
        "ectopic_beats": (signal, patients.ectopy > 0),
        "mortality": (icu, patients.death),
        "sepsis": (icu, patients.sepsis > 0),
    }


def _write_folder(
    folder: Path, name: str, patients: Patients, seed: int, split: str | None
) -> None:
    """Write one site folder; ``split`` None divides its patients for training and validation."""
    n = len(patients)
    ids = [f"{name}-{i:05d}" for i in range(n)]
    has_image, has_signal, has_icu = (
        np.flatnonzero(has) for has in (patients.has_image, patients.has_signal, patients.has_icu)
    )
    pixels = draw_images(patients.take(has_image), _source(seed, name, "image"))
    recording = record(patients.take(has_signal), _source(seed, name, "signal"))
    stays = [ids[i] for i in has_icu]
    tables = draw_tables(patients.take(has_icu), stays, _source(seed, name, "tables"))
    notes = write_notes(patients, _source(seed, name, "notes"))

    suffixes = np.where(patients.origin.each("scanner.dicom"), ".dcm", ".png")
    image_names = [f"images/{ids[i]}{suffixes[i]}" for i in has_image]
    signal_names = [f"signals/{ids[i]}" for i in has_signal]
    references = {
        "image": dict(zip(has_image.tolist(), image_names, strict=True)),
        "signal": dict(zip(has_signal.tolist(), signal_names, strict=True)),
    }
    row_of = {stay: int(row) for stay, row in zip(stays, has_icu, strict=True)}
    for table in TABLES:
        charted = tables.filter(pl.col("modality") == table)["stay_id"].unique()
        references[table] = {row_of[stay]: stay for stay in charted}

    hospitals = patients.origin.each("name").tolist()
    sexes = np.where(patients.male, "male", "female").tolist()
    bands = [AGE_BANDS[i] for i in np.digitize(patients.age, (40, 60, 80))]
    splits = [split] * n if split else _local_splits(n, _source(seed, name, "split"))
    asked: list[Asked] = [
        (task, int(row), None, yes_no(truth[row]))
        for task, (rows, truth) in true_answers(patients).items()
        for row in rows
    ]
    asked += _free_text(patients, has_image, recording, has_signal, _source(seed, name, "text"))
    trained_only = split in (None, "train")
    cards = load_tasks()
    rows = []
    for number, (task, row, question, answer) in enumerate(asked):
        if trained_only and cards[task].role != "train":
            continue
        refer = {m: references[m].get(row) for m in cards[task].encoded}
        rows.append(
            {
                "example_id": f"{name}-e{number:06d}",
                "patient_id": ids[row],
                "task": task,
                "split": splits[row],
                "question": question,
                "answer": answer,
                "text": notes[row],
                "origin": hospitals[row] if split else None,
                "sex": sexes[row] if split else None,
                "age_band": bands[row] if split else None,
                **refer,
            }
        )
    examples = pl.DataFrame(rows, schema=EXAMPLES_SCHEMA)
    offered = [task for task in cards if task in set(examples["task"])]
    write_site(
        folder,
        SiteCard(name=name, tasks=tuple(offered), synthetic=True, licence="CC0-1.0", note=_NOTE),
        examples,
        images=dict(zip(image_names, pixels, strict=True)),
        signals=dict(zip(signal_names, recording.signal, strict=True)),
        tables=tables.cast(TABLES_SCHEMA),
    )


def _free_text(
    patients: Patients,
    has_image: Ints,
    recording: Recording,
    has_signal: Ints,
    rng: np.random.Generator,
) -> list[Asked]:
    """Free-text questions about images and recordings."""
    asked: list[Asked] = []
    # Every second radiograph is asked about, in one of the two styles, every fourth recording for
    # noise: a foundation model writes its answers token by token, for which evaluation waits.
    for offset, style in enumerate(("rad", "slake")):
        rows = has_image[offset::4]
        questions = partial(image_questions, patients.take(rows), style)
        picked = pick(questions, len(rows), 1, rng)
        asked += [(f"med_vqa_{style}", int(rows[row]), q, a) for row, q, a in picked]
    rows = has_signal[::4]
    picked = pick(lambda row: noise_questions(recording, 4 * row, rng), len(rows), 1, rng)
    asked += [("ecg_noise_qa", int(rows[row]), q, a) for row, q, a in picked]
    return asked


def _local_splits(n: int, rng: np.random.Generator) -> list[str]:
    held_out = max(1, round(LOCAL_VALIDATION * n))
    order: NDArray[np.int64] = rng.permutation(n)
    return ["validation" if rank < held_out else "train" for rank in order]
