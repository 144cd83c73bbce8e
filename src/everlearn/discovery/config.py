"""What a campaign was asked to do: typed, checked, and kept in the run's ``campaign.toml``."""

from __future__ import annotations

import tomllib
from itertools import product
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everlearn.errors import RunError, SettingError, first_fault
from everlearn.kinds import kind_of

Inputs = Literal["smiles", "composition", "columns"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Target(_Part):
    """A measured column and which way it is wanted."""

    name: str = Field(min_length=1)
    minimise: bool = False


class Limit(_Part):
    """A column of the pool, or a target, that must stay on one side of a bound."""

    column: str = Field(min_length=1)
    sign: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        return f"{self.column}{self.sign}{self.bound:g}"


class CampaignConfig(_Part):
    """All settings of a campaign.

    Examples
    --------
    >>> config = CampaignConfig.of({"targets": [{"name": "gap", "minimise": True}], "inputs": "smiles"})
    >>> config.batch, config.targets[0].minimise
    (8, True)
    """

    targets: tuple[Target, ...] = Field(min_length=1)
    inputs: Inputs | None = Field(None, description="by default what the pool's columns are named after")
    column: str | None = Field(None, description="column of the SMILES or formulas")
    identity: str | None = Field(None, description="column of the candidates' names")
    ignore: tuple[str, ...] = Field((), description="columns that are not inputs, with inputs = columns")
    limits: tuple[Limit, ...] = ()
    cost: str | None = Field(None, description="column of what an experiment costs")
    structures: str | None = Field(None, description="column of crystal structures: CIF, POSCAR or pymatgen JSON")
    stability: float | None = Field(
        None, ge=0, description="eV per atom above the hull, beyond which a crystal is not proposed"
    )
    share: float = Field(
        0.01, gt=0, le=0.5, description="of the pool that counts as good: the best of it are looked for"
    )
    batch: int = Field(8, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)
    pool: str = Field("", description="SHA-256 of pool.csv, entered when the campaign is begun")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> CampaignConfig:
        """Check a dictionary of settings; raises `SettingError` that names the first bad one."""
        try:
            config = cls.model_validate(settings)
        except ValidationError as error:
            raise SettingError(first_fault(error)) from error
        if config.stability is not None and config.structures is None:
            raise SettingError("stability is judged by structures; name their column with structures (--structures)")
        config._check_columns()
        return config

    @classmethod
    def load(cls, file: Path) -> CampaignConfig:
        """Read ``campaign.toml``."""
        try:
            return cls.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            another = of_another_kind(file.parent)
            raise RunError(another or f"{file.parent} is not a discovery run: it has no {file.name}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise RunError(f"cannot read {file}: {error}") from error
        except ValidationError as error:
            raise RunError(f"{file}: {first_fault(error)}") from error

    def dump(self) -> str:
        """The text of ``campaign.toml``."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    def _check_columns(self) -> None:
        """Refuse a column that is given twice, or two parts that exclude each other."""
        names = [target.name for target in self.targets]
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise SettingError(f"the target {twice[0]!r} is given twice; give each target once")
        others = [("column", self.column), ("name", self.identity), ("cost", self.cost)]
        others += [("structures", self.structures), *(("ignore", name) for name in self.ignore)]
        if wrong := next((pair for pair in others if pair[1] in names), None):
            raise SettingError(f"{wrong[0]} is {wrong[1]!r}, which is a target; name another column, or leave it out")
        upper, lower = ([limit for limit in self.limits if limit.sign == sign] for sign in ("<=", ">="))
        for high, low in product(upper, lower):
            if high.column == low.column and high.bound < low.bound:
                raise SettingError(f"no value keeps both {high} and {low}; widen one of them")
        if self.inputs == "columns" and self.column is not None:
            raise SettingError(
                f"column is {self.column!r}, but with inputs = columns all columns are; leave it out, or name those "
                "that are no inputs with ignore"
            )


def of_another_kind(folder: Path) -> str | None:
    """What a directory holds that is no campaign, and which verb reads it; None where it is not known."""
    kind = kind_of(folder)
    if kind == "pretraining":
        return f"{folder} is a pretraining run, not a campaign; expected everlearn pretrain --resume {folder}"
    if kind == "learner":
        return f"{folder} is a run of a learner, not a campaign; expected everlearn report {folder}, or learn --resume"
    return None
