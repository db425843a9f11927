"""Pages of the site beyond those in this directory, made from the code, and the links to them.

The documents are written to be read in the repository. In the site README.md is the first page; the commands
are described from their dataclasses, the experiments and the library from their docstrings.
"""

import ast
import dataclasses
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from snnlth_jax import cli, configs

ROOT = Path(__file__).parent.parent
REFERENCE = (
    *("surrogate", "neurons", "masks", "pruning", "losses", "errors", "tickets"),
    *("models", "models.vgg", "models.resnet", "models.layers", "models.norms", "models.own"),
    *("data.contract", "data.dataset", "data.own", "data.arrays", "data.folder", "data.idx", "data.frames"),
    *("data.tiny_imagenet", "data.augment"),
    *("analysis.sparsity", "analysis.activity", "analysis.energy", "analysis.health", "analysis.flops"),
    *("analysis.comparison",),
    *("tickets.comparing", "tickets.combining"),
    *("networks", "networks.recipe", "networks.storage", "networks.classifier", "networks.images"),
    *("networks.predictions", "evaluation"),
    *("interop.torch", "interop.torch_files", "interop.pickles", "interop.imported", "interop.layers"),
    *("interop.nir", "interop.onnx", "interop.arrays"),
    *("machine.sharding", "train.optimizers", "train.step", "train.loop"),
    *("configs", "configs.parts", "configs.commands", "run.results", "run.events"),
    *("search.imp", "search.early_bird", "search.early_time", "search.one_shot", "search.transfer"),
    *("search.dynamic", "search.retrain", "search.stability"),
    *("search.phases", "search.session", "search.programs"),
)
SHARED = {
    configs.TrainConfig: "Every search",
    configs.Rounds: "Rounds",
    configs.EarlyTime: "Early-Time",
    configs.Divergence: "Divergence of timesteps",
    configs.Controls: "Controls",
}


def _order(path: Path) -> tuple[bool, bool, int, str]:
    """Tables, figures by their number, the rest."""
    number = re.search(r"\d+", path.stem)
    kinds = (not path.stem.startswith("table"), not path.stem.startswith("fig"))
    return (*kinds, int(number[0]) if number else 0, path.stem)


def _source_file(name: str) -> str:
    """The file of a module or of a package."""
    path = f"snnlth_jax/{name.replace('.', '/')}"
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


EXPERIMENTS = sorted(
    (
        path
        for path in ROOT.glob("experiments/*.py")
        if path.stem not in ("grid", "figures", "findings", "claims", "costs")
    ),
    key=_order,
)
MADE = {  # files of the repository, and the pages made of them
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    **{f"experiments/{path.name}": f"experiments/{path.stem}.md" for path in EXPERIMENTS},
    **{_source_file(name): f"reference/{name}.md" for name in REFERENCE},
}


# --- pages


def on_config(config: Any) -> None:
    """Add the pages that are made to the navigation, below the headings that wait for them."""
    below = {
        "Experiments": [f"experiments/{path.stem}.md" for path in EXPERIMENTS],
        "Reference": [{name: f"reference/{name}.md"} for name in REFERENCE],
    }
    for entry in config["nav"]:
        if isinstance(entry, dict):
            entry |= {title: pages + below[title] for title, pages in entry.items() if title in below}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    texts = {MADE[name]: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
    texts["commands.md"] = commands()
    texts |= {f"reference/{name}.md": f"::: snnlth_jax.{name}\n" for name in REFERENCE}
    texts |= {f"experiments/{path.stem}.md": experiment(path) for path in EXPERIMENTS}
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    return files


def experiment(path: Path) -> str:
    """The page of a script: its head, then its code."""
    source = path.read_text()
    title, _, head = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    code = source.split('"""', 2)[2].strip()
    return f"# {path.stem}\n\n{title}\n\n```text\n{head.strip()}\n```\n\n```python\n{code}\n```\n"


def commands() -> str:
    """The page of the commands: the options of each, and once those that several share."""
    lines = ["# Commands", "", (cli.__doc__ or "").partition("\n\n")[2], ""]
    for name, (command, _) in cli.COMMANDS.items():
        lines += [f"## snnlth {name}", "", *_options(command)]
        also = [base for base in command.__mro__[1:] if base in SHARED]
        if also:
            links = (f"[{SHARED[base]}](#{SHARED[base].lower().replace(' ', '-')})" for base in also)
            lines += [f"And the options of: {', '.join(links)}.", ""]
    for command, title in SHARED.items():
        lines += [f"## {title}", "", *_options(command)]
    return "\n".join(lines)


def _options(command: type) -> list[str]:
    """Definitions: the docstring of a dataclass, and of each field that is described nowhere else."""
    elsewhere = {*SHARED}
    if command is not configs.TrainConfig and issubclass(command, configs.TrainConfig):
        elsewhere |= {*configs.TrainConfig.__mro__}
    lines = [_source(command).docstring.value, ""]
    for field in dataclasses.fields(command):
        owner = next(base for base in command.__mro__ if field.name in vars(base).get("__annotations__", {}))
        if owner is not command and owner in elsewhere:
            continue
        docstring = _source(owner)[field.name].docstring
        lines += [_flag(field), f":   {docstring.value if docstring else ''}".replace("\n", "\n    "), ""]
    return lines


def _source(command: type) -> Any:
    return _SOURCE[command.__module__.removeprefix("snnlth_jax.")][command.__name__]


def _flag(field: dataclasses.Field[Any]) -> str:
    """The flag as a user types it, with the default if that is a value."""
    flag = f"--{field.name.replace('_', '-')}"
    if "Positional" in str(field.type):
        return f"`{field.name.upper()}`"
    if isinstance(field.default, bool) and "tuple" not in str(field.type):
        return f"`--no-{flag[2:]}`" if field.default else f"`{flag}`"
    plain = field.default not in (None, (), True, dataclasses.MISSING)
    return f"`{flag}`" + (f" (default {field.default})" if plain else "")


_SOURCE = griffe.load("snnlth_jax", search_paths=[ROOT])


# --- links


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Make links into the repository links to the page made of that file, or plain text."""
    here = page.file.src_uri
    directory = posixpath.dirname(next((path for path, made in MADE.items() if made == here), f"docs/{here}"))

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match.groups("")
        path = posixpath.normpath(posixpath.join(directory, target))
        site = MADE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if site is None:
            return text if (ROOT / path).exists() else match[0]
        return f"[{text}]({posixpath.relpath(site, posixpath.dirname(here) or '.')}{anchor})"

    return re.sub(r"\[([^\]]+)\]\((?!http|#)([^)#\s]+)(#[^)]*)?\)", link, markdown)
