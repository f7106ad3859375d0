"""The documents are tested: what they name exists, and what exists they name. (STYLE 24)"""

import importlib
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from supervisor import errors
from supervisor.cli.main import USAGE_ERROR, VERBS, root
from supervisor.clock import SystemClock
from supervisor.doctor.exposure import Facts, exposure
from supervisor.doctor.finding import Level
from supervisor.proxy.admission import Admission
from supervisor.proxy.bounds import Bounds
from supervisor.proxy.inflight import InFlight
from supervisor.proxy.limits import unlimited
from supervisor.proxy.pipeline import Pipeline, Wiring
from supervisor.proxy.ties import Ties
from supervisor.settings import yamlio
from supervisor.settings.load import load
from supervisor.types import ModelName

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "models/README.md",
    "benchmarks/README.md",
    "vendor/README.md",
    "requirements/README.md",
    "config/systemd/README.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))),
)
MAKE_VERBS = {"help", "setup", "run", "test", "lint", "type", "check", "bench", "clean"}  # CONTRACT
PURPOSES = {
    0: "done",
    1: "error",
    2: "usage",
    3: "not running",
    4: "permission",
    5: "timeout",
    6: "configuration",
    7: "conflict",
}  # CONTRACT, "Exit codes"
# What another word in the libraries table's first column stands for.
TYPE_STUBS = "types-"


def section(document: str, heading: str) -> str:
    """The text under a ``##`` heading, up to the next."""
    _, found, rest = document.partition(f"\n## {heading}\n")
    assert found, f"no section {heading!r}"
    return rest.partition("\n## ")[0]


def fenced(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    """The cells of a section's table, head and rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def tracked() -> list[Path]:
    """Every file git has or would take; in a tree without git, none."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# ---- links


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_resolve(document: str) -> None:
    path = ROOT / document
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for target, heading in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", text):
        other = (path.parent / target).read_text() if target else path.read_text()
        assert heading in {anchor(line) for line in other.splitlines() if line.startswith("#")}, heading


def anchor(heading: str) -> str:
    """How a heading is linked to: ``## On the port`` is ``#on-the-port``."""
    words = re.sub(r"[^a-z0-9 _-]", "", heading.lstrip("# ").lower())
    return words.replace(" ", "-")


# ---- security


def test_security_says_against_whom_what_not_and_how_to_report() -> None:
    """The whole of it is a promise; these are the people it is made about."""
    said = section(SECURITY, "What is promised, and against whom")
    for who in ("stranger", "web page", "client with a key", "another user", "model file", "`llama-server`"):
        assert who in said, who
    assert "Report a vulnerability" in section(SECURITY, "How to report")
    assert version("llmsup").rpartition(".")[0] in section(SECURITY, "Supported versions")
    assert section(SECURITY, "What is not promised")


def test_the_public_box_is_safe_by_doctor_s_own_word(tmp_path: Path) -> None:
    """The configuration of the guide, as it stands there."""
    operations = (ROOT / "docs/operations.md").read_text()
    config = tmp_path / "llmsup.yaml"
    text = fenced(section(operations, "A public box"), "yaml")[0]
    config.write_text(f"{text}models: {{demo: {{path: /m.gguf}}}}\n")
    (one,) = exposure(load(config, {}).settings, Facts(usable_keys=1))
    assert one.level is Level.OK, one
    assert len([line for line in text.splitlines() if line.strip()]) <= 10


# ---- the command


def documented_verbs() -> dict[str, str]:
    """First cell of each row of README's table: ``{"start": "start [--timeout S]", ...}``."""
    cells = [row[0].strip("`") for row in rows(section(README, "The command"))]
    assert all(cell.startswith("llmsup ") for cell in cells)
    return {cell.split()[1]: cell.removeprefix("llmsup ") for cell in cells}


def command_of(usage: str) -> tuple[click.Command, list[str]]:
    """The click command a table's cell is about, and what the cell says after its name."""
    verb, *rest = usage.replace("[", " ").replace("]", " ").split()
    command = root.get_command(click.Context(root), verb)
    assert command is not None, verb
    while isinstance(command, click.Group):
        inner = command.get_command(click.Context(command), rest[0])
        assert inner is not None, usage
        command, rest = inner, rest[1:]
    return command, rest


def test_every_verb_is_in_readme_and_the_other_way_round() -> None:
    assert set(documented_verbs()) == set(VERBS)


def test_every_verb_imports() -> None:
    for verb in VERBS:
        assert isinstance(importlib.import_module(f"supervisor.cli.{verb}").command, click.Command)


def test_what_readme_says_after_a_verb_can_be_said() -> None:
    for usage in documented_verbs().values():
        command, words = command_of(usage)
        options = {name for parameter in command.params for name in parameter.opts}
        arguments = {
            (p.metavar or p.name or "").lower() for p in command.params if isinstance(p, click.Argument)
        }
        taking_value = {
            name for p in command.params if isinstance(p, click.Option) and not p.is_flag for name in p.opts
        }
        for before, word in zip(["", *words], words, strict=False):
            if word.startswith("-"):
                assert word in options, usage
            else:  # an argument, or the value of the option before it
                assert before in taking_value or word.lower() in arguments, f"{word} in {usage}"


def test_every_argument_is_in_readme() -> None:
    for verb, usage in documented_verbs().items():
        command, words = command_of(usage)
        if verb == "config":  # `check [PATH]` names what --config names as well
            continue
        wanted = {
            (p.metavar or p.name or "").upper() for p in command.params if isinstance(p, click.Argument)
        }
        assert wanted <= set(words), usage


# ---- exit codes


def exit_codes(text: str) -> dict[int, str]:
    """``0 done, 7 conflict (taken)`` as ``{0: "done", 7: "conflict"}``."""
    return {int(code): words.strip() for code, words in re.findall(r"(\d) ([a-z ]+)", text)}


def test_readme_lists_the_exit_codes() -> None:
    assert (
        exit_codes(next(line for line in README.splitlines() if line.startswith("Exit codes: "))) == PURPOSES
    )


def test_help_lists_the_same_exit_codes() -> None:
    assert exit_codes(root.epilog or "") == PURPOSES


def test_the_documented_codes_are_the_errors() -> None:
    own = (errors.NotRunning, errors.PermissionDenied, errors.TimedOut, errors.ConfigError, errors.Conflict)
    said = [PURPOSES[error.exit_code] for error in own]
    assert said == ["not running", "permission", "timeout", "configuration", "conflict"]
    assert PURPOSES[errors.LlmsupError.exit_code] == "error"
    assert PURPOSES[USAGE_ERROR] == "usage"


# ---- the house


def house() -> Iterator[tuple[Path, str]]:
    """Each path of "The house" with the text beside it. Two spaces deeper is one folder deeper."""
    folders: list[tuple[int, Path]] = []
    for line in fenced(section(ARCHITECTURE, "The house"))[0].splitlines():
        indent = len(line) - len(line.lstrip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        base = folders[-1][1] if folders else ROOT
        names, _, words = line.strip().partition("  ")
        for name in names.split():
            path = base / name.rstrip("/")
            if name.endswith("/"):
                folders.append((indent, path))
            yield path, words


def test_the_house_names_what_exists() -> None:
    made_here = {ROOT / "vendor/llama.cpp"}  # fetched, and ignored by git
    for path, _ in house():
        assert path.exists() or path in made_here, path


def test_every_module_is_in_the_house() -> None:
    """By name, or in a folder none of whose files are named: that one is described as a whole."""
    named = {path for path, _ in house()}
    detailed = {path.parent for path in named if path.suffix == ".py"}
    whole = {path for path in named if path.is_dir()} - detailed
    for module in sorted((ROOT / "supervisor").rglob("*.py")):
        if module.name not in {"__init__.py", "__main__.py"}:
            assert module in named or module.parent in whole, module.relative_to(ROOT)


def test_top_level_folders_are_in_the_house() -> None:
    named = {path.relative_to(ROOT).parts[0] for path, _ in house()}
    folders = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}
    assert {name for name in folders if not name.startswith(".")} <= named


# ---- the stages


class _Refuses:
    """Traffic's neighbours, none of which is asked when a pipeline is only composed."""

    def __call__(self, *_: object) -> None:
        raise AssertionError


def composed() -> Pipeline:
    clock = SystemClock()
    bounds = Bounds(concurrent=1, queue_size=1, queue_timeout_s=1.0, silence_s=1.0)
    admission = Admission(bounds, clock)
    admission.open([], ties=Ties(_Refuses(), _Refuses(), _Refuses()), send=_Refuses())
    wiring = Wiring(
        views={},
        default=ModelName("demo"),
        trusted_proxies=(),
        limits=unlimited(clock),
        max_connections=10_000,
        max_body_bytes=1,
        clock=clock,
    )
    return Pipeline(wiring, admission, InFlight())


def test_the_stages_are_those_of_the_house() -> None:
    drawn = {
        int(found[1]): (path.stem, found[2])
        for path, words in house()
        if (found := re.match(r"([1-8]) (.+)", words.strip()))
    }
    assert [(n, q) for n, (_, q) in sorted(drawn.items())] == [
        (stage.number, stage.question) for stage in composed().stages
    ]
    for number, (name, question) in drawn.items():
        doc = importlib.import_module(f"supervisor.proxy.{name}").__doc__ or ""
        assert doc.lower().startswith(f"{number} {question}".lower().rstrip("?")), name


def test_the_drawing_has_the_stages_in_order() -> None:
    drawing = fenced(section(ARCHITECTURE, "Flow 1: a request"))[0]
    drawn = re.findall(
        r"(?<![\w.])([1-8]) (ingress|identity|route|limits|cached|admission|upstream|relay)\b", drawing
    )
    named = {path.stem: words.strip()[:1] for path, words in house() if re.match(r" *[1-8] ", words)}
    assert [(number, name) for number, name in drawn] == [(n, name) for name, n in named.items()]


# ---- libraries and their pins


def project() -> tuple[list[Requirement], list[Requirement]]:
    """Direct dependencies: of the program, and of those who work on it or set it up."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [item for group in data["dependency-groups"].values() for item in group if isinstance(item, str)]
    return [Requirement(text) for text in data["project"]["dependencies"]], [Requirement(t) for t in groups]


def extras() -> list[Requirement]:
    """What a user may add; not among the pins."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [
        Requirement(text) for group in data["project"]["optional-dependencies"].values() for text in group
    ]


def test_the_libraries_table_is_complete() -> None:
    runtime, tools = project()
    wanted = {
        canonicalize_name(item.name)
        for item in [*runtime, *extras(), *tools]
        if not item.name.startswith(TYPE_STUBS)
    }
    cells = [row[0].split(", ") for row in rows(section(ARCHITECTURE, "Libraries"))]
    said = [canonicalize_name(name.strip("` ")) for cell in cells for name in cell]
    assert sorted(said) == sorted(wanted)


def pins(name: str) -> dict[str, tuple[Requirement, int]]:
    """Of a requirements file: name -> (what it says, how many hashes)."""
    logical = (ROOT / "requirements" / name).read_text().replace("\\\n", " ").splitlines()
    lines = [line.strip() for line in logical if line.strip() and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        text, *hashes = line.split(" --hash=")
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", item.strip()) for item in hashes), line[:60]
        requirement = Requirement(text)
        found[canonicalize_name(requirement.name)] = (requirement, len(hashes))
    assert len(found) == len(lines), "a name twice"
    return found


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt"])
def test_every_requirement_is_one_version_with_hashes(name: str) -> None:
    for requirement, hashes in pins(name).values():
        assert [item.operator for item in requirement.specifier] == ["=="], requirement
        assert "*" not in str(requirement.specifier), requirement
        assert hashes, requirement


def test_the_pins_are_within_the_ranges() -> None:
    runtime, tools = project()
    for name, wanted in [("runtime.txt", runtime), ("dev.txt", [*runtime, *tools])]:
        pinned = pins(name)
        for item in wanted:
            one, _ = pinned[canonicalize_name(item.name)]
            version = next(iter(one.specifier)).version
            assert item.specifier.contains(version), f"{name}: {one} is not {item}"


def test_the_development_pins_are_a_superset() -> None:
    runtime, dev = pins("runtime.txt"), pins("dev.txt")
    assert {name: str(item) for name, (item, _) in runtime.items()}.items() <= {
        name: str(item) for name, (item, _) in dev.items()
    }.items()


# ---- make


def test_make_help_prints_every_documented_verb() -> None:
    help_text = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    listed = {line.split()[0] for line in help_text.stdout.splitlines()}
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    assert listed == phony
    assert listed >= MAKE_VERBS
    assert all(len(line.split(maxsplit=1)) == 2 for line in help_text.stdout.splitlines())
    assert help_text.stderr == ""


def test_documents_name_only_verbs_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for verb in re.findall(r"`make ([a-z-]+)", text):
            assert verb in verbs, f"{document}: make {verb}"


# ---- the example


def test_readmes_example_loads(tmp_path: Path) -> None:
    (block,) = fenced(section(README, "With your own model"), "yaml")
    file = tmp_path / "mine.yaml"
    file.write_text(block)
    settings = load(file, {}).settings
    assert settings.default_model == "mine"
    assert settings.models["mine"].context_size == 8192
    assert settings.models["mine"].parallel == 2


def test_readmes_example_is_minimal_yaml_with_two_keys_more() -> None:
    (block,) = fenced(section(README, "With your own model"), "yaml")
    example = yamlio.parse(block.encode(), "README.md").data
    minimal = yamlio.parse((ROOT / "config/minimal.yaml").read_bytes(), "minimal.yaml").data
    assert set(example) == set(minimal) == {"models"}
    (told,), (copied,) = example["models"].values(), minimal["models"].values()
    assert set(told) == {*copied, "context_size", "parallel"}


def test_an_operators_day_ends_in_the_traps() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert headings[0] == "The start of the day"
    assert headings[-1] == "Well-known traps"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_example_of_a_configuration_loads(document: str, tmp_path: Path) -> None:
    """Whole ones as they are; parts of one with a model beside them."""
    for number, block in enumerate(fenced((ROOT / document).read_text(), "yaml")):
        file = tmp_path / f"{number}.yaml"
        whole = "models" in yamlio.parse(block.encode(), document).data
        file.write_text(block if whole else f"{block}\nmodels: {{demo: {{path: demo.gguf}}}}\n")
        load(file, {})


def test_readme_names_the_version() -> None:
    from supervisor import __version__

    assert f"llmsup {__version__}  http" in README
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


# ---- nothing of where it was made


def forbidden() -> Iterator[bytes]:
    """Hosts of package registries, put together here so that this file holds none of them."""
    for host, domain in [
        ("pypi", "org"),
        ("files.pythonhosted", "org"),
        ("registry.npmjs", "org"),
        ("deb.debian", "org"),
        ("security.debian", "org"),
        ("archive.ubuntu", "com"),
        ("crates", "io"),
        ("proxy.golang", "org"),
        ("conda.anaconda", "org"),
    ]:
        yield f"{host}.{domain}".encode()


def test_no_file_names_a_package_registry_or_this_machine() -> None:
    words = [*forbidden(), b"/work" + b"/main", b"/work" + b"/shared"]
    if len(ROOT.parts) > 2:  # "/src" alone would be found in other words
        words.append(str(ROOT).encode())
    home = str(Path.home())
    if home not in {"/", "/root"}:  # which any machine may have, and a document may speak of
        words.append(home.encode())
    found = [
        f"{path.relative_to(ROOT)}: {word.decode()}"
        for path in tracked()
        for word in words
        if word in path.read_bytes()
    ]
    assert found == []
