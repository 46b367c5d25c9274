"""The data of a run: hospital folders and the server's own public, validation and test sets."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedkim_core.data.contract import EXAMPLES_FILE
from fedkim_core.data.federation import assemble
from fedkim_core.data.simulate import SIMULATOR_VERSION, simulate_network
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError
from fedkim_core.paths import cache_folder
from fedkim_core.settings import Config, DataConfig, FederationConfig

SERVER_SETS = ("public", "validation", "test")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Network:
    """Paths of a network folder: ``sites/<name>/``, ``public/``, ``validation/``, ``test/``."""

    root: Path

    @property
    def sites(self) -> list[Path]:
        """Hospital folders by name."""
        return sorted(path for path in (self.root / "sites").glob("*") if path.is_dir())

    def server_set(self, name: str) -> Path:
        return self.root / name

    def members(self, federation: FederationConfig) -> list[tuple[Path, ...]]:
        """The site folders behind each node of a simulation.

        A simulation's workers take sites in this order. Those with most examples come first, so
        that at the end of a round no worker waits for a large one that began last.

        Raises:
            UserError: there is no such site.
        """
        sites = self.sites
        if federation.name == "public":
            return [(self.server_set("public"),)]
        if federation.name == "central":
            return [tuple(sites)]
        if federation.name == "local":
            wanted = federation.site
            own = [p for i, p in enumerate(sites) if wanted in (i, p.name)]
            if not own:
                names = ", ".join(p.name for p in sites)
                raise UserError(
                    f"federation.site={wanted}: no such site; one of {names}, or its place from 0"
                )
            return [(own[0],)]
        return [(path,) for path in sorted(sites, key=_examples, reverse=True)]


def _examples(site: Path) -> int:
    """How many a site folder has; 0 if that cannot be read, which its check will say."""
    try:
        return int(pl.scan_parquet(site / EXAMPLES_FILE).select(pl.len()).collect().item())
    except (OSError, pl.exceptions.PolarsError):
        return 0


def locate(data: DataConfig, seed: int) -> Path:
    """Where the network folder of this configuration is, or will be."""
    if data.root:
        return Path(data.root).expanduser().absolute()
    if data.kind == "sources":
        settled = data.model_dump_json(include={"source", "parts", "sites", "by", "drop"})
        digest = hashlib.sha256(settled.encode()).hexdigest()[:12]
        return cache_folder() / "data" / f"{data.name}-seed{seed}-{digest}"
    sizes = "-".join(
        str(n)
        for n in (
            data.sites,
            data.patients,
            data.public_patients,
            data.validation_patients,
            data.test_patients,
        )
    )
    return cache_folder() / "data" / f"synthetic-v{SIMULATOR_VERSION}-seed{seed}-{sizes}"


def prepare(config: Config, progress: Progress | None = None) -> Path:
    """Make the network if it is to be made and not there, and check every folder.

    Raises:
        UserError: a folder or a data set is missing, or one breaks the contract; names it.
    """
    data = config.data
    root = locate(data, config.seed)
    if data.kind not in ("folder", "server") and not root.exists():
        try:
            _make(data, root, config.seed, progress)
        except UserError:
            # Another run may have made the same network meanwhile, and a folder appears whole.
            if not root.is_dir():
                raise
    network = Network(root)
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder")
    sites = [] if data.kind == "server" else network.sites
    if not sites and data.kind != "server":
        raise UserError(f"{root / 'sites'}: holds no site folder")
    for name in SERVER_SETS:
        if not network.server_set(name).is_dir():
            raise UserError(f"{network.server_set(name)}: not found; the server needs it")
    folders = [*sites, *(network.server_set(name) for name in SERVER_SETS)]
    patients: dict[str, Path] = {}
    for done, folder in enumerate(folders):
        if progress:
            progress(f"checking {folder.name}", done, len(folders))
        site = Site.open(folder)
        for patient in site.examples["patient_id"].unique():
            if patients.setdefault(patient, folder) != folder:
                raise UserError(
                    f"{folder / 'examples.parquet'}: shares a patient with {patients[patient]}; "
                    "a patient may be in one folder only"
                )
    return root


def _make(data: DataConfig, root: Path, seed: int, progress: Progress | None) -> None:
    if data.kind == "sources":
        assemble(data, root, seed=seed, progress=progress)
        return
    simulate_network(
        root,
        seed=seed,
        sites=data.sites,
        patients=data.patients,
        public_patients=data.public_patients,
        validation_patients=data.validation_patients,
        test_patients=data.test_patients,
        progress=progress,
    )
