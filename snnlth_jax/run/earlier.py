"""Runs that are there already: begun by an earlier version, with other defaults, or in another directory."""

import contextlib
import dataclasses
import json
import logging
from typing import Any, TypeVar

from etils import epath

from snnlth_jax import configs, data
from snnlth_jax.errors import InputError, flag
from snnlth_jax.run import directory

__all__ = ["adopted"]

log = logging.getLogger(__name__)

Resolved = TypeVar("Resolved", bound=configs.ResolvedTrain)


def adopted(config: configs.TrainConfig, resolved: Resolved) -> Resolved:
    """A configuration, resolved; as the run that it resumes was resolved, if another version began that.

    With `override`, and without `workdir`, the directory is that of the one run that may be resumed so.

    Args:
      config: the configuration.
      resolved: the same with the defaults of this version.

    Raises:
      InputError: `override` may mean several runs.
    """
    if isinstance(config, configs.ResolvedTrain):
        return resolved
    candidates = [resolved]
    with contextlib.suppress(InputError):  # it had no such run
        before: Any = configs.resolve_as_before(config)
        candidates += [dataclasses.replace(before, workdir=resolved.workdir), before]
        candidates.append(dataclasses.replace(resolved, workdir=before.workdir))
        if resolved.augment is True and config.augment is not True:  # earlier versions told the two apart
            with_steps: Any = configs.resolve_with_steps(config)
            candidates.append(with_steps)
    for candidate in candidates:
        recorded = recorded_identity(candidate.workdir)
        if recorded is not None and not _differing(candidate, recorded):
            return candidate
    if config.workdir is not None or recorded_identity(resolved.workdir) is not None:
        return resolved
    others = {one: _differing(resolved, recorded) for one, recorded in _of_method(resolved)}
    if config.override:
        fitting = [one for one, names in others.items() if names <= {*configs.overridable()}]
        if len(fitting) > 1:
            several = f"may be for {', '.join(fitting[:5])}"
            raise InputError("`override`", problem=several, allowed="with `workdir`, one of them")
        return dataclasses.replace(resolved, workdir=fitting[0]) if fitting else resolved
    for one, names in others.items():
        if names <= {*directory.LENGTH}:
            flags = ", ".join(map(flag, sorted(names)))
            log.info("%s differs in %s alone: --override --workdir %s resumes that one", one, flags, one)
    return resolved


def _of_method(config: configs.ResolvedTrain) -> list[tuple[str, dict[str, Any]]]:
    """The runs of the same method beside the default directory of a configuration, with their identities."""
    above, _, name = config.workdir.rpartition("/")
    start = configs.method_name(config).replace(" ", "_")
    try:
        names = sorted(path.name for path in epath.Path(above).iterdir() if path.name.startswith(start))
    except OSError:
        return []
    identities = ((f"{above}/{one}", recorded_identity(f"{above}/{one}")) for one in names if one != name)
    return [(one, recorded) for one, recorded in identities if recorded is not None]


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


def _differing(config: configs.ResolvedTrain, recorded: dict[str, Any]) -> set[str]:
    """The fields in which a configuration and a recorded identity differ; the images themselves are none."""
    name = data.spec(config.dataset, config.data_dir).name
    images = configs.Images(name, recorded.get("dataset_fingerprint"))
    wanted = json.loads(json.dumps(configs.identity(config, images)))
    if config.seeds:
        wanted["seed"] = "one of --seeds"
    recorded, wanted = configs.completed(recorded), configs.completed(wanted)
    recorded |= configs.defaulted(recorded, wanted)
    return {name for name in {**recorded, **wanted} if recorded.get(name) != wanted.get(name)}
