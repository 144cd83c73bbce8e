"""What a pretraining run is asked to do: one TOML file, typed and checked."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everlearn.errors import SettingError, first_fault
from everlearn.models.language import LanguageConfig
from everlearn.scaling.plan.config import LARGEST, ModelShape, load_shape


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Share = Annotated[float, Field(ge=0, lt=1)]


class Data(_Part):
    """Where tokens come from: token files, or text files that the run's tokenizer turns into some beside them."""

    train: list[str] = Field(min_length=1, description="token files, or text files (.txt, .txt.gz)")
    weights: list[float] | None = Field(None, description="share of each file in what is read; by default their sizes")
    valid: list[str] = Field(default_factory=list)
    tokenizer: str = Field("bytes", description="bytes, bpe:SIZE of the training text, a tokenizer.json, or a .gguf")
    replay: list[str] = Field(default_factory=list, description="files of corpora learned before, to replay some of")
    replay_share: float = Field(0.01, ge=0, lt=1, description="of the sequences that are replayed")
    memory: int = Field(0, ge=0, description="windows of the earlier corpora that are remembered; 0: all")
    replay_by: Literal["uniform", "value"] = Field("uniform", description="which of the memory's windows are replayed")
    kept: float = Field(0.25, gt=0, le=1, description="by value: the share of the memory that is replayed, the best")
    watch: list[str] = Field(default_factory=list, description="further files to validate on, each by itself")

    @property
    def files(self) -> list[str]:
        """All that is read."""
        return [*self.train, *self.valid, *self.replay, *self.watch]

    @property
    def watch_names(self) -> list[str]:
        """What each watched file's loss is called: its name less the last suffix, or whole if another has the same."""
        stems = [Path(file).stem for file in self.watch]
        return [stem if stems.count(stem) == 1 else Path(file).name for stem, file in zip(stems, self.watch)]


class Optimiser(_Part):
    """The optimiser and its constants."""

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float = Field(3e-4, gt=0)
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 leaves gradients as they are")


class Schedule(_Part):
    """Warm-up, stable, decay: a run can go on from the end of its stable part."""

    warmup: int = Field(100, ge=0)
    decay: int = Field(0, ge=0, description="steps of the decay that ends the run")
    floor: float = Field(0.0, ge=0, le=1, description="learning rate at the end, as a share of the highest")


class Train(_Part):
    """How long, how much at a time, and what is done in between."""

    steps: int = Field(ge=1)
    global_batch: int = Field(8, ge=1, description="sequences of a step")
    seq_len: int = Field(0, ge=0, description="tokens of a sequence; by default the model's")
    checkpoint_every: int = Field(100, ge=1)
    evaluate_every: int = Field(0, ge=0, description="steps between validations; 0: at the end only")
    valid_batches: int = Field(16, ge=1, description="batches of a validation")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    spike: float = Field(0.0, ge=0, description="loss above the running mean by so much is a spike; 0: only NaN is")
    balance_rate: float = Field(1e-3, ge=0, description="step of the experts' biases")
    timeout: float = Field(600.0, gt=0, description="seconds after which a silent process counts as hung")
    peak_tflops: float = Field(0.0, ge=0, description="of one device, for MFU; 0: not shown")


class Layout(_Part):
    """How a step is cut over the processes; the words are those of the planner's layout."""

    dp: int = Field(0, ge=0, description="0: all processes that the rest leaves")
    tp: int = Field(1, ge=1)
    pp: int = Field(1, ge=1)
    vpp: int = Field(1, ge=1)
    cp: int = Field(1, ge=1)
    ep: int = Field(1, ge=1)
    micro_batch: int = Field(1, ge=1, description="sequences of one pass")
    zero: Literal[0, 1, 2, 3] = Field(3, description="0: copies; 1, 2: weights stay gathered; 3: sharded")
    shard: int = Field(0, ge=0, description="replicas that share one copy of the weights (HSDP); 0: all of dp")
    sequence_parallel: bool = True
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble", "zbv"] = "1f1b"
    context: Literal["ulysses", "gather"] = "gather"
    recompute: Literal["none", "selective", "full"] = "none"
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    exact: bool = Field(False, description="whole copies whose steps give the same bits with any number of processes")

    @property
    def words(self) -> str:
        """The layout in a few words."""
        names = {"dp": self.dp, "tp": self.tp, "pp": self.pp, "vpp": self.vpp, "cp": self.cp, "ep": self.ep}
        words = [f"{name}{n}" for name, n in names.items() if n > 1] or ["one process"]
        if self.dp > 1:
            sharded = "fsdp" if self.zero == 3 else f"zero{self.zero}"
            sharded = f"shard{self.shard}" if 0 < self.shard < self.dp else sharded
            words.append("exact" if self.exact else "copies" if self.zero == 0 else sharded)
        if self.tp > 1 and self.sequence_parallel:
            words.append("sp")
        if self.pp > 1:
            words.append(self.schedule)
        if self.cp > 1:
            words.append(self.context)
        if self.recompute != "none":
            words.append(f"recompute-{self.recompute}")
        return " ".join(words)


class Settings(_Part):
    """All settings of a pretraining run.

    Examples
    --------
    >>> model, data = {"preset": "smollm2-135m"}, {"train": ["a.txt"]}
    >>> settings = Settings.of({"model": model, "data": data, "train": {"steps": 9}})
    >>> settings.language().hidden, settings.layout.words
    (576, 'one process')
    """

    model: dict[str, Any]
    data: Data
    train: Train
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    layout: Layout = Layout()
    start: str = Field("", description="weights to begin with: a run, a .gguf file, a folder with config.json")
    seed: int = Field(0, ge=0, lt=2**31)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Settings:
        """Check a dictionary of settings; raises `SettingError` that names the first bad one."""
        try:
            found = cls.model_validate(settings)
        except ValidationError as error:
            raise SettingError(first_fault(error)) from error
        names = found.data.watch_names
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise SettingError(f"data.watch has {twice[0]} twice; losses are told by the files' names, so rename one")
        return found

    @classmethod
    def load(cls, file: Path) -> Settings:
        """Read a TOML file."""
        try:
            return cls.of(tomllib.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise SettingError(f"there is no configuration {file}; give a TOML file") from error
        except IsADirectoryError as error:
            raise SettingError(
                f"{file} is a directory; expected a TOML file, or --resume {file} to go on with a run"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise SettingError(f"cannot read {file}: {error}") from error
        except SettingError as error:
            raise SettingError(f"{file}: {error}") from error

    def dump(self) -> str:
        """The text of the TOML file."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    def absolute(self) -> Settings:
        """With the paths of files that are here made absolute, so that the run can go on from anywhere."""

        def whole(names: list[str]) -> list[str]:
            return [str(Path(name).absolute()) if Path(name).exists() else name for name in names]

        data = self.data
        changed: dict[str, Any] = {name: whole(getattr(data, name)) for name in ("train", "valid", "replay", "watch")}
        changed["tokenizer"] = whole([data.tokenizer])[0]
        start = whole([self.start])[0] if self.start else ""
        return self.model_copy(update={"data": data.model_copy(update=changed), "start": start})

    def language(self, vocab: int = 0) -> LanguageConfig:
        """The model's configuration.

        Where the table says no vocabulary it is the tokenizer's, ``vocab``, rounded up to a multiple of 64 that layouts
        divide.
        """
        given = (
            {} if self.model.get("vocab") or "preset" in self.model or not vocab else {"vocab": -(-vocab // 64) * 64}
        )
        return language_config(self.model | given)


def language_config(table: dict[str, Any]) -> LanguageConfig:
    """A model from a table: ``preset`` names a shape of the package or a TOML file, the rest are its fields.

    Raises
    ------
    SettingError
        If a field is unknown, missing, or the preset has parts that this model has not.
    """
    known = LanguageConfig.__dataclass_fields__
    table = dict(table)
    preset = table.pop("preset", None)
    if not isinstance(preset, str | None):
        raise SettingError(f"the model's preset is {preset!r}; expected a preset's name, or a TOML file's")
    values = from_shape(load_shape(preset)) if preset is not None else {}
    if unknown := sorted(set(table) - set(known)):
        raise SettingError(f"unknown model setting {unknown[0]!r}; known are preset, {', '.join(known)}")
    values |= table
    if missing := sorted({"layers", "hidden", "heads", "vocab"} - set(values)):
        raise SettingError(f"the model's {missing[0]} is missing; give it, or a preset")
    for name, value in values.items():
        kind = str(known[name].type)
        fits = isinstance(value, {"int": int, "float": int | float, "bool": bool, "str": str}[kind])
        if not fits or (isinstance(value, bool) and kind != "bool"):
            raise SettingError(f"the model's {name} is {value!r}; expected {kind}")
        if kind in ("int", "float") and not 0 <= value <= LARGEST:
            raise SettingError(f"the model's {name} is {value!r}; expected 0 to {LARGEST:,}")
    return LanguageConfig(**{"ffn": 0} | values)


def from_shape(shape: ModelShape) -> dict[str, Any]:
    """The planner's shape as fields of `LanguageConfig`; latent attention and Mamba are refused."""
    for name in ("kv_rank", "mamba_layers", "latent", "mtp"):
        if getattr(shape, name):
            raise SettingError(
                f"{shape.name} has {name} {getattr(shape, name)}, which this model has not; choose another"
            )
    shared = {field.name for field in fields(shape)} & set(LanguageConfig.__dataclass_fields__)
    return {name: getattr(shape, name) for name in sorted(shared)}
