"""The strict models that the blocks of config.yaml are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, create_model, model_validator

from mto.config.typed import Part, hints


class Model(BaseModel):
    """A block of config.yaml: immutable, closed to unknown keys, to .inf and .nan, to `true` or "3" for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def written(self) -> dict[str, Any]:
        """Returns the keys that were given, and no default."""
        return self.model_dump(exclude_unset=True)


def settings(part: type[Part]) -> Any:
    """Returns the model of a part that config.yaml sets as a job has it: its keys, bounds, defaults and own check."""

    def check(self: Any) -> Any:
        part.check(self)
        return self

    keys: dict[str, Any] = {name: (hints(part)[name], getattr(part, name, ...)) for name in part.keys}
    validators: Any = {"check": model_validator(mode="after")(check)}
    told: dict[str, Any] = {"__module__": part.__module__, "__doc__": part.__doc__, "__validators__": validators}
    return create_model(part.__name__, __base__=Model, **told, **keys)
