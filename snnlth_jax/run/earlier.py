"""Runs that an earlier version began, with other defaults: the same command resumes them."""

import dataclasses
import json
from typing import Any, TypeVar

from snnlth_jax import configs, data
from snnlth_jax.errors import InputError
from snnlth_jax.run import directory

__all__ = ["adopted"]

Resolved = TypeVar("Resolved", bound=configs.ResolvedTrain)


def adopted(config: configs.TrainConfig, resolved: Resolved) -> Resolved:
    """A configuration, resolved; as an earlier version resolved it where that has begun its run.

    Args:
      config: the configuration.
      resolved: the same with the defaults of this version.
    """
    if isinstance(config, configs.ResolvedTrain):
        return resolved
    try:
        before: Any = configs.resolve_as_before(config)
    except InputError:  # it had no run
        return resolved
    candidates = [resolved, dataclasses.replace(before, workdir=resolved.workdir), before]
    candidates.append(dataclasses.replace(resolved, workdir=before.workdir))
    return next((candidate for candidate in candidates if _has_begun(candidate)), resolved)


def _has_begun(config: configs.ResolvedTrain) -> bool:
    """Whether the directory of a configuration holds its run, begun or finished."""
    recorded = recorded_identity(config.workdir)
    return recorded is not None and not _difference(config, recorded)


def recorded_identity(workdir: str) -> dict[str, Any] | None:
    """The identity of the run in a directory; None where there is none that can be read."""
    try:
        path = directory.paths(workdir).config
        return directory.read_json(path) if path.exists() else None
    except InputError:  # no name of a directory
        return None
    except Exception:
        if "://" not in workdir:
            raise
        return None  # a bucket that cannot be read is refused where it is claimed


def _difference(config: configs.ResolvedTrain, recorded: dict[str, Any]) -> str:
    """The difference between a configuration and a recorded identity, except in the images themselves."""
    name = data.spec(config.dataset, config.data_dir).name
    images = configs.Images(name, recorded.get("dataset_fingerprint"))
    wanted = json.loads(json.dumps(configs.identity(config, images)))
    if config.seeds:
        wanted["seed"] = recorded.get("seed")
    recorded, wanted = configs.completed(recorded), configs.completed(wanted)
    recorded |= configs.defaulted(recorded, wanted)
    compare = configs.not_overridable if config.override else configs.difference
    return compare(recorded, wanted)
