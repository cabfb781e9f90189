"""The fields of a config."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from stp_jax.errors import InputError


def model_config(cls, values: ConfigDict):
    """The model's config dataclass of `config.model`.

    Raises:
      InputError: a field that it does not have, or a value that it cannot have.
    """
    fields = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - fields)
    if unknown:
        raise InputError(f"config.model has no field {unknown[0]!r}; it has {', '.join(sorted(fields))}.")
    try:
        return cls(**values.to_dict())
    except ValueError as error:
        raise InputError(f"config.model: {error}") from None
