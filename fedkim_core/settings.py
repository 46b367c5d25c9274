"""What may be set: the name, type and range of every setting, and what it means.

The YAML files in ``conf`` hold the values; :mod:`fedkim_core.config` puts them together.
"""

from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from fedkim_core.tasks import TaskCard, load_tasks

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[str, ...], Strict(False)]
"""A list, as YAML has no tuple."""
Score = Literal["auroc", "auprc", "f1", "accuracy", "precision", "recall", "mcc"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PartConfig(_Section):
    """One public data set of a federation."""

    adapter: str
    """A name of ``fedkim prepare --list``."""
    folder: str
    """Where it is, counted from ``data.source``."""
    settings: dict[str, str | int | float | bool] = {}
    """As ``fedkim prepare NAME --set``."""


class DataConfig(_Section):
    """Where the site folders are."""

    name: str
    kind: Literal["synthetic", "folder", "sources", "server"]
    root: str | None = None
    """Folder with ``sites/<name>/``, ``public/``, ``validation/`` and ``test/`` (kind server:
    without ``sites/``); unless kind is folder or server, where to make it (default: the cache
    folder)."""
    sites: Positive = 5
    """Unless kind is folder: how many hospitals."""
    source: str | None = None
    """Kind sources: the folder of the data sets, as their owners ship them."""
    parts: list[PartConfig] = []
    """Kind sources: the data sets that make up the federation."""
    by: str = "iid"
    """Kind sources: how patients are dealt out; ``iid``, ``dirichlet:ALPHA`` or ``natural``."""
    drop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Kind sources: chance that a hospital lacks a modality."""
    patients: Annotated[int, Field(ge=10)] = 400
    """Synthetic data only: patients of each hospital; below, those of the server's sets."""
    public_patients: Annotated[int, Field(ge=1)] = 280
    validation_patients: Annotated[int, Field(ge=1)] = 100
    test_patients: Annotated[int, Field(ge=1)] = 300
    image_size: Annotated[int, Field(ge=16, le=1024)] = 64
    """Images are resized to this many pixels a side when they are read."""

    @model_validator(mode="after")
    def _has_root(self) -> "DataConfig":
        if self.kind in ("folder", "server") and not self.root:
            raise ValueError(f"kind {self.kind} needs data.root, the folder of the site folders")
        if self.kind == "sources" and not (self.source and self.parts):
            raise ValueError(
                "kind sources needs data.source, the folder of the data sets (or FEDKIM_REALDATA)"
            )
        return self


class Chosen(BaseModel):
    """A part that is chosen by the name of its file, and that file's own settings.

    One that has no settings can be written as its name alone.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class EncoderConfig(Chosen):
    """Which encoder (a file in ``models/encoders``) and its own settings."""


class EncodersConfig(_Section):
    image: EncoderConfig
    signal: EncoderConfig
    table: EncoderConfig


class ExtractorConfig(_Section):
    """The knowledge extractor: what trains at the sites and travels."""

    name: str
    width: Annotated[int, Field(ge=8, le=4096)]
    """Width of a token."""
    tokens: Annotated[int, Field(ge=1, le=8)]
    """Tokens per modality that the foundation model sees."""
    encoders: EncodersConfig
    head_hidden: Positive
    dropout: Probability


class FoundationCard(_Section):
    """What is known of a foundation model without having it; nothing is computed from it."""

    licence: str
    obtain: str
    """Where to get it."""
    parameters: Positive | None = None
    width: Positive | None = None
    """Of a token embedding."""
    note: str = ""


class FoundationConfig(_Section):
    """The frozen foundation model."""

    name: str
    source: Literal["bundled", "huggingface", "tiny"]
    model: str | None = None
    """Folder or Hugging Face name, for ``source: huggingface``."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the frozen layers; auto: bfloat16 where the processor has it."""
    quantised: Literal["none", "int8", "nf4"] = "none"
    """How the frozen linear layers are kept: as they are; in 8 bits (LLM.int8, Dettmers et al.
    2022) or in 4 (NF4, Dettmers et al. 2023), both by bitsandbytes."""
    device: str = "auto"
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """Lays the layers over all GPUs of this machine, as accelerate places them, for a model that
    is too large for one. null: the whole model on ``device``."""
    compile: Literal["inductor", "aot_eager", "eager"] | None = None
    """A backend of torch.compile for its layers; generation stays as it is. inductor is the fast
    one, and takes minutes before the first step; the others are for looking for faults."""
    card: FoundationCard | None = None

    @model_validator(mode="after")
    def _can_be_loaded(self) -> "FoundationConfig":
        if self.source == "huggingface" and not self.model:
            raise ValueError("source huggingface needs foundation.model, a folder or a name")
        if self.device_map and (self.device != "auto" or self.compile):
            other = "compile" if self.device == "auto" else "device"
            raise ValueError(f"foundation.device_map and foundation.{other}: give one of them")
        return self


class FederationConfig(_Section):
    """Whose patients train the extractor: the federation, or what it is compared with."""

    name: Literal["federated", "public", "local", "central"] = "federated"
    """federated: every site its own; public: nobody but the server, its public set (FedKIM_pub);
    local: one site alone; central: one client that holds the patients of all sites."""
    site: str | Count | None = None
    """Of ``local``: which site, by its name or by its place (0, 1, ...) in the order of names."""
    public_epochs: Count = 0
    """Epochs over the public set by which the server tunes what it has aggregated, every round."""
    record: bool = False
    """Keep every round's aggregate in the run folder, for runs that replay it."""
    replay: str | None = None
    """A run folder whose recorded rounds are used again: no site is asked."""

    @model_validator(mode="after")
    def _local_names_a_site(self) -> "FederationConfig":
        if (self.name == "local") != (self.site is not None):
            raise ValueError(
                "local, and no other, needs federation.site, a site's name or its number"
            )
        return self


class GateConfig(_Section):
    kind: Literal["learned", "uniform"] = "learned"
    """uniform: every expert weighs 1/P, whatever the task; nothing is learned."""
    top_k: Count = 0
    """Only so many experts answer, with their weights scaled to sum to 1; 0: all of them."""
    task_description: bool = True
    """False: the gate reads the same neutral sentence for every task (without T)."""
    modality_description: bool = True
    """False: the same neutral sentence whatever the modalities (without M)."""
    width: Positive
    """d_k of the attention over descriptions."""
    normalise: bool
    """Layer norm on the two descriptions. Without it the gate stays uniform."""
    learning_rate: Rate
    mutual_information: NonNegative
    """Weight of I(task; expert) over the trained tasks, added to what is maximised."""


class InjectorConfig(_Section):
    """The knowledge injector on the server."""

    name: str
    enabled: bool = True
    """False: the foundation model is neither trained nor asked; only the extractor is measured."""
    experts: Annotated[int, Field(ge=0, le=256)]
    """P. 0: no adapter (FedPlug); 1: one plain LoRA (FedPlug_L)."""
    rank: Positive
    """r of one expert."""
    alpha: Annotated[float, Field(gt=0)]
    """lora_alpha; the experts' output is scaled by alpha / rank."""
    dropout: Probability
    targets: str | Names
    """``all-linear`` or the names of the linear layers to adapt."""
    learning_rate: Rate
    """Of the experts."""
    feature_learning_rate: Rate
    """Of the connectors and encoders."""
    gate: GateConfig
    steps: Count
    """Optimiser steps per round, on average over the run."""
    growth: Annotated[float, Field(ge=1, le=10)] = 1.0
    """Each round takes so many times the steps of the round before it, and the run as many as
    ever: what is learned of the first rounds' encoders is soon out of date."""
    batch_size: Positive
    weight_decay: NonNegative
    warmup: Probability
    """Share of the run's steps over which the learning rate rises."""
    clip_norm: Annotated[float, Field(gt=0)]
    gradient_checkpointing: bool = False
    """Keep of each frozen layer its input alone for the backward pass, in which it runs again: less
    memory, about a third more time."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """That share every batch, each with the foundation model on a GPU of its own, or without
    GPUs on its share of the processor. Their sum rounds otherwise than one process."""
    train_encoders: bool
    distillation: NonNegative = 0.0
    """Weight of what the federated heads say of the public patients; 0 is the paper's objective."""
    few_shot: Count = 0
    """Examples of each unseen task that the last round is tuned on, from the server's public set
    or, if it has none, its validation set. 0: unseen tasks stay unseen (zero-shot)."""
    few_shot_steps: Count = 50
    """Optimiser steps of that tuning, in which trained and unseen tasks take turns."""

    @model_validator(mode="after")
    def _as_many_experts(self) -> "InjectorConfig":
        if self.processes > self.batch_size:
            raise ValueError(
                f"injector.processes={self.processes}: a batch has {self.batch_size} rows"
            )
        if self.experts > 1 and self.gate.top_k > self.experts:
            raise ValueError(
                f"injector.gate.top_k={self.gate.top_k}: there are {self.experts} experts"
            )
        return self


class StrategyConfig(_Section):
    """What a round is: who trains, how long, and how the updates become one model."""

    name: str
    aggregation: Chosen
    """A file of fedkim_core/aggregation: how the updates of a round become one."""
    server_optimiser: Chosen
    """A file of fedkim_core/server_optimisers: how the server moves towards that one."""
    codec: Chosen = Chosen(name="fp32")
    """A file of fedkim_core/codecs: how the updates travel, and how many bytes that takes."""
    correction: Chosen = Chosen(name="none")
    """A file of fedkim_core/corrections: how a site's steps are kept in line with the others'."""
    overlap: Literal[0, 1] = 0
    """1: sites train the next round while the server injects this one (docs/strategies.md)."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """Of the sites' local epochs."""
    proximal_mu: NonNegative
    fraction: Rate
    """Share of the sites sampled in a round."""
    local_epochs: Positive
    batch_size: Positive
    learning_rate: Rate
    """Of the sites' first round."""
    schedule: Literal["cosine", "constant"] = "constant"
    """Of the learning rate over the rounds (fedkim_core/local_optimisers.py)."""
    weight_decay: NonNegative
    clip_norm: Annotated[float, Field(gt=0)]
    class_balance: bool
    """Weigh the rarer answer of each task up, at most tenfold."""
    minimum_sites: Positive
    """Sites that must be connected before the first round."""
    minimum_examples: Positive
    """An encoder or head that all sites together trained on fewer examples keeps its value."""
    quorum: Rate | Positive
    """Sites whose valid update a round needs: a share of those sampled (0.5; 1.0 is all of them)
    or a number (2; 1 is one site)."""
    deadline: Annotated[float, Field(gt=0)]
    """Seconds to wait for the sites, each time they are asked."""
    retries: Count
    """How often the sites that are missing are asked again in a round below its quorum."""
    norm_bound: Annotated[float, Field(gt=0)] | None
    """k of the bound on the size of an update (fedkim_core/outliers.py); null: no bound."""


class PrivacyConfig(_Section):
    """What a site does to its update before sending."""

    name: str
    clip_norm: Annotated[float, Field(gt=0)] | None
    noise_multiplier: NonNegative

    @model_validator(mode="after")
    def _noise_needs_clip(self) -> "PrivacyConfig":
        if self.noise_multiplier and self.clip_norm is None:
            raise ValueError("noise_multiplier needs privacy.clip_norm")
        return self


class EvaluationConfig(_Section):
    batch_size: Positive
    bootstrap: Count
    """Resamples (by patient) for the 95 % intervals."""
    max_new_tokens: Positive
    controls: bool = False
    """Ask the injected model again with one thing spoilt (server_app/controls.py): about four
    times the test phase more. ``fedkim evaluate RUN --controls`` does it afterwards."""
    merge_experts: bool = True
    """Ask many alike questions with the experts merged into the frozen weights, where these are not
    quantised. Faster, and it takes these weights a second time in memory."""
    every: Positive = 1
    """Rounds from one look at the validation set to the next; the last round always has one. What
    the sites say of their own validation patients comes every round."""
    best: Score = "auroc"
    """The validation score of the injected model, mean over the trained tasks, by which the best
    round is told."""


class Config(_Section):
    """A whole run."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    rounds: Positive
    tasks: Literal["all"] | Names
    output: str | None
    """The run folder; default ``outputs/<time>``."""
    resume: str | None = None
    """A run folder to go on with, instead of a new run (fedkim_core/resume.py)."""
    tracking: Names = ("tensorboard",)
    """Files of fedkim_core/trackers, where curves are drawn: tensorboard, mlflow, or none."""
    data: DataConfig
    federation: FederationConfig = FederationConfig()
    extractor: ExtractorConfig
    foundation: FoundationConfig
    injector: InjectorConfig
    strategy: StrategyConfig
    privacy: PrivacyConfig
    evaluation: EvaluationConfig

    @model_validator(mode="after")
    def _known_names(self) -> "Config":
        known = load_tasks()
        for name in () if self.tasks == "all" else self.tasks:
            if name not in known:
                raise ValueError(f"unknown task {name!r}; known: {', '.join(known)}")
        if not any(card.role == "train" for card in self.cards().values()):
            raise ValueError("tasks: none of them is a trained task, nothing would be learned")
        return self

    @model_validator(mode="after")
    def _graph_or_recomputation(self) -> "Config":
        if self.injector.gradient_checkpointing and self.foundation.compile:
            raise ValueError(
                f"injector.gradient_checkpointing=true: not with foundation.compile="
                f"{self.foundation.compile}, whose graph does not know of it; choose one of the two"
            )
        return self

    def cards(self) -> dict[str, TaskCard]:
        """The task cards of this run, trained tasks first."""
        known = load_tasks()
        return {n: c for n, c in known.items() if self.tasks == "all" or n in self.tasks}

    def site_settings(self) -> dict[str, Any]:
        """Every setting on which it hangs what the sites learn, unless encoders are injected."""
        server = {"output", "resume", "tracking", "injector", "foundation", "evaluation"}
        settings = self.model_dump(mode="json", exclude=server)
        del settings["federation"]["record"], settings["federation"]["replay"]
        return settings

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.model_dump(mode="json")))
