"""Laws that the source text keeps: no input or output, no unpickling, arrows that point one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ctrlgen

ROOT = Path(ctrlgen.__file__).parents[1]
FOLDERS = ("ctrlgen", "costs", "domains", "experiments", "benchmarks")


def files(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def name(node: ast.expr) -> str:
    """The dotted name of an expression, as far as it has one."""
    if isinstance(node, ast.Attribute):
        return f"{name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call):
            yield name(node.func), node


def imports(file: Path, everywhere: bool = True) -> Iterator[str]:
    """Modules that a file imports; at import time only, unless everywhere."""
    body = tree(file)
    nodes = list(ast.walk(body)) if everywhere else list(at_import(body))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and name(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from at_import(child)


def test_the_scan_sees_the_source() -> None:
    assert len(files("ctrlgen")) > 25 and len(files("costs", "domains")) > 20
    assert "torch" in set(imports(ROOT / "ctrlgen" / "priors" / "flows.py"))


# ------------------------------------------------------------------ law 8

# Modules of the core whose work it is to read, write or talk.
OUTSIDE = (
    "commands", "comparison/folder.py", "comparison/parts.py", "report", "runs", "training",
    "priors/cards.py", "priors/documents.py", "priors/prior.py", "priors/storage.py",
    "priors/weights.py",
)  # fmt: skip
LOUD = {"print", "open", "input", "breakpoint", "exec", "eval"}
WRITING = (".write_text", ".write_bytes", ".read_text", ".read_bytes", ".mkdir", ".unlink", ".open")


def test_algorithms_do_no_input_or_output() -> None:
    talking = {"logging", "tqdm", "rich", "tensorboard", "wandb", "matplotlib"}
    outside = tuple(f"ctrlgen/{room}" for room in OUTSIDE)
    for file in files("ctrlgen", "costs"):
        if file.relative_to(ROOT).as_posix().startswith(outside):
            continue
        loud = [n for n, _ in calls(file) if n in LOUD or n.endswith(WRITING)]
        assert not loud, f"{file}: {loud}"
        used = {module.split(".")[0] for module in imports(file)} & talking
        assert not used, f"{file} imports {used}"


# ------------------------------------------------------------------ law 10

PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_unpickled(folder: str) -> None:
    for file in files(folder):
        used = {module.split(".")[0] for module in imports(file)} & PICKLING
        assert not used, f"{file} imports {used}"
        check_that_nothing_is_unpickled(file)


def check_that_nothing_is_unpickled(file: Path) -> None:
    for called, call in calls(file):
        keywords = {k.arg: k.value for k in call.keywords}
        assert called != "torch.save", f"{file}:{call.lineno}: weights are safetensors"
        if called == "torch.load":  # of a third party's weights: tensors and nothing else
            only = keywords.get("weights_only")
            assert isinstance(only, ast.Constant) and only.value is True, f"{file}:{call.lineno}"
        pickles = keywords.get("allow_pickle")
        refused = pickles is None or (isinstance(pickles, ast.Constant) and not pickles.value)
        assert refused, f"{file}:{call.lineno}: allow_pickle"


# ------------------------------------------------------------------ arrows

PACKAGES = {name: f"ctrlgen.{name}" for name in ("costs", "domains", "experiments")}
FORBIDDEN = {
    "ctrlgen": ("costs", "domains", "experiments"),
    "costs": ("domains", "experiments"),
    "domains": ("experiments",),
}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrows_point_one_way(folder: str) -> None:
    """experiments → domains → costs → ctrlgen; the public surface and the command line gather."""
    for file in files(folder):
        gathers = file.relative_to(ROOT).as_posix() in (
            "ctrlgen/__init__.py",
            "ctrlgen/commands/main.py",
        )
        used = set(imports(file, everywhere=not gathers))
        for other in FORBIDDEN[folder]:
            package = PACKAGES[other]
            wrong = {m for m in used if m == package or m.startswith(f"{package}.")}
            assert not wrong, f"{file} imports {wrong}"
            assert other not in {m.split(".")[0] for m in used}, f"{file} imports {other} bare"


def test_every_package_is_installed() -> None:
    """A folder that pyproject.toml does not list is missing from a wheel, and from no checkout."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        file.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ("ctrlgen", *PACKAGES)
        for file in (ROOT / top).rglob("__init__.py")
    }
    named = {f if f.split(".")[0] == "ctrlgen" else f"ctrlgen.{f}" for f in folders}
    assert set(settings["packages"]) == named


COMMAND = re.compile(
    r"python -m ((?:ctrlgen|benchmarks)(?:\.[a-z_]+)+)"
    r"|python (benchmarks/\w+\.py)|`(experiments(?:\.[a-z_]+)+)`"
)


def test_commands_that_documents_name_are_there() -> None:
    """Documents, cards and modules name a command to be run; a module that moved takes it along."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    cards = (ROOT / "domains").rglob("*.json")
    named = {
        (file.name, "".join(command))
        for file in (*documents, *cards, *files(*FOLDERS))
        for command in COMMAND.findall(file.read_text())
    }
    assert len(named) > 40
    for where, command in named:
        path = command.removeprefix("ctrlgen.") if command.split(".")[1] in PACKAGES else command
        script = ROOT / (path if path.endswith(".py") else path.replace(".", "/") + ".py")
        assert script.is_file(), f"{where} names {command}"
        assert '__name__ == "__main__"' in script.read_text(), f"{command} of {where} does nothing"


def test_modules_are_short() -> None:
    """One noun fits on a few screens: at most 300 lines, 500 where tests list cases."""
    for folder, most in (*((folder, 300) for folder in FOLDERS), ("tests", 500)):
        for file in files(folder):
            lines, place = file.read_text().count("\n"), file.relative_to(ROOT).as_posix()
            assert lines <= most, f"{place}: expected at most {most} lines, got {lines}"


def test_domains_do_not_know_each_other() -> None:
    domains = [d.name for d in (ROOT / "domains").iterdir() if (d / "__init__.py").exists()]
    for domain in domains:
        for file in files(f"domains/{domain}"):
            others = {f"ctrlgen.domains.{other}" for other in domains if other != domain}
            assert not {m for m in imports(file) if m.startswith(tuple(others))}, file


# ------------------------------------------------------------------ a light import

OPTIONAL = (
    "PIL", "matplotlib", "scipy", "diffusers", "transformers", "huggingface_hub", "soundfile",
    "rdkit", "e3nn", "torchmetrics", "torchvision", "torchaudio", "ray", "azula", "deepinv",
    "typer", "rich", "torchdiffeq",
)  # fmt: skip

PROGRAM = """
import sys, time
import torch
before = set(sys.modules)
start = time.process_time()
import ctrlgen
spent = time.process_time() - start
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(spent, *new)
"""


def test_importing_is_quick_and_pulls_in_nothing_optional() -> None:
    """Processor time: the wall's depends on who else is at work."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120
    )
    seconds, *modules = run.stdout.split()
    assert float(seconds) < 2
    assert "ctrlgen" in modules
    assert not set(modules) & set(OPTIONAL)


def test_optional_packages_are_imported_where_they_are_used() -> None:
    """Inside functions, so that a missing extra is named when it is needed, not before."""
    for file in files("ctrlgen"):
        if file.parent == ROOT / "ctrlgen" / "commands":
            continue  # typer and rich are no extras
        used = {module.split(".")[0] for module in imports(file, everywhere=False)}
        assert not used & set(OPTIONAL), f"{file}"
