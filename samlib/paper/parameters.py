"""The parameters of the pages that train no data set: the mixture, the theory, the explorers."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Page(BaseModel):
    """A page's parameters. If one is None, it takes the profile's value from `profiles`, or else its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    profiles: ClassVar[dict[str, dict[str, Any]]] = {}

    profile: Literal["smoke", "quick", "standard", "paper"] = "quick"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        known = {name: value for name, value in given.items() if value is not None}
        return cls.profiles.get(str(known.get("profile")), {}) | known


class AuditExample(Page):
    """The parameters of the page that audits gradient-boosted trees, or any file of signals."""

    profiles = {"smoke": {"n_models": 8}}

    signals: str | None = None
    n_models: Annotated[int, Field(ge=2, le=10_000)] = 16
    trees: Annotated[int, Field(ge=1, le=10_000)] = 30
