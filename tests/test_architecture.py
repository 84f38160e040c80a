"""The layers of the house, file sizes and a few banned habits. `LAYERS` is the architecture document."""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 360
MAX_FUNCTION_LINES = 60

# Module (or package) of ours -> what of ours it may import. A package's modules may import one another.
LAYERS: dict[str, set[str]] = {
    "trocr": set(),
    "trocr.hub": set(),
    "trocr.atomic_write": set(),
    "trocr.nearest": set(),
    "trocr.tokenizers": {"trocr.atomic_write"},
    "trocr.image_array": set(),
    "trocr.image_input": {"trocr.image_array"},
    "trocr.image_pixels": {"trocr.image_array"},
    "trocr.image_settings": {"trocr.atomic_write", "trocr.image_array"},
    "trocr.batch_feature": set(),
    "trocr.image": {
        "trocr.batch_feature",
        "trocr.image_array",
        "trocr.image_input",
        "trocr.image_pixels",
        "trocr.image_settings",
    },
    "trocr.native_aspect": {"trocr.config", "trocr.image"},
    "trocr.config_keys": set(),
    "trocr.config_read": {"trocr.atomic_write", "trocr.config_keys"},
    "trocr.config_base": {"trocr.config_read", "trocr.hub"},
    "trocr.config_shapes": {"trocr.config_base", "trocr.config_read"},
    "trocr.config_timm": {"trocr.config_base", "trocr.config_read"},
    "trocr.config": {"trocr.config_base", "trocr.config_read", "trocr.config_shapes", "trocr.config_timm"},
    "trocr.official": {"trocr.config"},
    "trocr.cache": set(),
    "trocr.outputs": {"trocr.cache"},
    "trocr.nn": {"trocr.cache"},
    "trocr.encoder": {"trocr.nn", "trocr.outputs"},
    "trocr.token_merging": {"trocr.encoder"},
    "trocr.timm_backbone": {"trocr.nearest"},
    "trocr.timm_encoder": {"trocr.encoder", "trocr.nn", "trocr.outputs", "trocr.timm_backbone"},
    "trocr.decoder": {"trocr.cache", "trocr.nn", "trocr.outputs"},
    "trocr.model": {"trocr.cache", "trocr.decoder", "trocr.encoder", "trocr.outputs"},
    "trocr.build": {
        "trocr.config",
        "trocr.config_read",
        "trocr.config_shapes",
        "trocr.config_timm",
        "trocr.decoder",
        "trocr.encoder",
        "trocr.nn",
        "trocr.timm_backbone",
    },
    "trocr.checkpoint": {"trocr.nn", "trocr.timm_encoder", "weights_conversion"},
    "trocr.generation": {
        "trocr.atomic_write",
        "trocr.cache",
        "trocr.config",
        "trocr.config_read",
        "trocr.hub",
        "trocr.outputs",
    },
    "trocr.pretrained_model": {
        "trocr.checkpoint",
        "trocr.config_base",
        "trocr.config_read",
        "trocr.decoder",
        "trocr.encoder",
        "trocr.hub",
        "trocr.nn",
        "weights_conversion",
    },
    "trocr.timm_model": {
        "trocr.build",
        "trocr.config_read",
        "trocr.config_timm",
        "trocr.nn",
        "trocr.pretrained_model",
        "trocr.timm_encoder",
        "weights_conversion",
    },
    "trocr.models": {
        "trocr.build",
        "trocr.config",
        "trocr.config_base",
        "trocr.config_read",
        "trocr.config_timm",
        "trocr.decoder",
        "trocr.encoder",
        "trocr.generation",
        "trocr.hub",
        "trocr.model",
        "trocr.pretrained_model",
        "trocr.timm_model",
        "weights_conversion",
    },
    "trocr.fast": {
        "trocr.atomic_write",
        "trocr.cache",
        "trocr.config",
        "trocr.config_read",
        "trocr.config_shapes",
        "trocr.decoder",
        "trocr.encoder",
        "trocr.generation",
        "trocr.model",
        "trocr.models",
        "trocr.nn",
        "trocr.outputs",
    },
    "trocr.export": {
        "trocr",
        "trocr.cache",
        "trocr.config",
        "trocr.config_read",
        "trocr.decoder",
        "trocr.encoder",
        "trocr.generation",
        "trocr.models",
        "trocr.nn",
        "trocr.outputs",
        "trocr.processor",
    },
    "trocr.processor": {"trocr.hub", "trocr.image", "trocr.image_settings", "trocr.tokenizers"},
    "trocr.line": {"trocr.tokenizers"},
    "trocr.reading": {
        "trocr.config",
        "trocr.export",
        "trocr.fast",
        "trocr.generation",
        "trocr.hub",
        "trocr.image",
        "trocr.line",
        "trocr.models",
    },
    "trocr.reader": {
        "trocr.generation",
        "trocr.line",
        "trocr.models",
        "trocr.native_aspect",
        "trocr.pretrained_model",
        "trocr.processor",
        "trocr.reading",
        "trocr.tokenizers",
    },
    "trocr.surgery": {
        "trocr.atomic_write",
        "trocr.checkpoint",
        "trocr.config",
        "trocr.config_read",
        "trocr.config_shapes",
        "trocr.config_timm",
        "trocr.decoder",
        "trocr.encoder",
        "trocr.generation",
        "trocr.hub",
        "trocr.image",
        "trocr.models",
        "trocr.nearest",
        "trocr.nn",
        "trocr.processor",
        "trocr.timm_backbone",
        "trocr.timm_encoder",
        "trocr.timm_model",
        "trocr.tokenizers",
        "weights_conversion",
    },
    "trocr.inspect": {
        "trocr.decoder",
        "trocr.encoder",
        "trocr.generation",
        "trocr.image",
        "trocr.line",
        "trocr.model",
        "trocr.models",
        "trocr.nn",
        "trocr.outputs",
        "trocr.processor",
        "trocr.reading",
        "trocr.surgery",
        "trocr.tokenizers",
    },
    "trocr.data": set(),
    "trocr.data.records": set(),
    "trocr.data.mixture": {"trocr.data.records"},
    "trocr.data.sources": {
        "trocr.data.lmdb_source",  # these two inside functions
        "trocr.data.records",
        "trocr.data.shards",
        "trocr.image_array",
        "trocr.image_input",
    },
    "trocr.data.shards": {"trocr.data.records", "trocr.data.sources"},
    "trocr.data.packing": {"trocr.data.records", "trocr.data.sources", "trocr.image_array"},
    "trocr.data.lmdb_source": {
        "trocr.data.packing",
        "trocr.data.records",
        "trocr.data.sources",
        "trocr.image_array",
    },
    "trocr.data.split": {
        "trocr.data.packing",
        "trocr.data.records",
        "trocr.data.sources",
        "trocr.image_array",
    },
    "trocr.data.inspection": {"trocr.data.records", "trocr.data.split", "trocr.image_array"},
    "trocr.data.degradations": set(),
    "trocr.data.synthetic": {
        "trocr.atomic_write",
        "trocr.data.degradations",
        "trocr.data.records",
        "trocr.nearest",
    },
    "trocr.data.augmentation": {"trocr.data.degradations", "trocr.data.records", "trocr.nearest"},
    "trocr.evaluation": {
        "trocr.data.records",
        "trocr.fast",
        "trocr.image",
        "trocr.line",
        "trocr.reader",
        "trocr.tokenizers",
    },
    "trocr.training": {
        "trocr.atomic_write",
        "trocr.config",
        "trocr.data.augmentation",
        "trocr.data.mixture",
        "trocr.data.records",
        "trocr.data.sources",
        "trocr.data.synthetic",
        "trocr.decoder",
        "trocr.encoder",
        "trocr.evaluation",
        "trocr.hub",
        "trocr.image",
        "trocr.model",
        "trocr.models",
        "trocr.nn",
        "trocr.outputs",
        "trocr.processor",
        "trocr.reader",
        "trocr.surgery",
    },
    "trocr.surgery.importance": {
        "trocr.data.records",
        "trocr.image",
        "trocr.nn",
        "trocr.processor",
        "trocr.surgery",
        "trocr.training",
    },
    "trocr.surgery.pruning": {
        "trocr.config_shapes",
        "trocr.data.sources",
        "trocr.nn",
        "trocr.surgery",
        "trocr.surgery.importance",
    },
    "trocr.parts": {
        "trocr.checkpoint",
        "trocr.config",
        "trocr.config_read",
        "trocr.hub",
        "trocr.image",
        "trocr.models",
        "trocr.processor",
        "trocr.surgery",
        "trocr.tokenizers",
        "weights_conversion",
    },
    "trocr.benchmark": {
        "trocr.config",
        "trocr.data.records",
        "trocr.data.sources",
        "trocr.evaluation",
        "trocr.export",
        "trocr.fast",
        "trocr.generation",
        "trocr.hub",
        "trocr.image",
        "trocr.inspect",
        "trocr.models",
        "trocr.nearest",
        "trocr.nn",
        "trocr.official",
        "trocr.outputs",
        "trocr.processor",
        "trocr.reader",
        "trocr.reading",
        "trocr.tokenizers",
    },
    "trocr.doctor": {
        "trocr.data.records",
        "trocr.image",
        "trocr.models",
        "trocr.processor",
        "trocr.reader",
        "trocr.tokenizers",
        "trocr.training",
    },
    "trocr.commands": {
        "trocr.atomic_write",
        "trocr.config",
        "trocr.data.inspection",
        "trocr.data.lmdb_source",
        "trocr.data.packing",
        "trocr.data.sources",
        "trocr.data.split",
        "trocr.data.synthetic",
        "trocr.doctor",
        "trocr.evaluation",
        "trocr.export",
        "trocr.fast",
        "trocr.hub",
        "trocr.image",
        "trocr.inspect",
        "trocr.models",
        "trocr.parts",
        "trocr.processor",
        "trocr.reader",
        "trocr.surgery",
        "trocr.surgery.pruning",
        "trocr.tokenizers",
    },
    "trocr.cli": {"trocr", "trocr.commands"},  # and the commands, by name, when they are called
    "weights_conversion": set(),
}
# Command lines sit on top of everything.
TOP = ("weights_conversion.__main__", "weights_conversion.commands")
WITHOUT_TORCH = (
    "trocr.config",
    "trocr.official",
    "trocr.tokenizers",
    "trocr.hub",
    "trocr.cli",
    "trocr.commands",
)


def modules() -> dict[str, Path]:
    found = {}
    for package in ("trocr", "weights_conversion"):
        for path in sorted((REPO / package).rglob("*.py")):
            parts = path.relative_to(REPO).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def layer_of(name: str) -> str | None:
    """The most specific row of the table that a module belongs to; `trocr` is `trocr/__init__.py` alone."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        row = ".".join(parts[:length])
        if row in LAYERS and (row != "trocr" or name == "trocr"):
            return row
    return None


def imports(path: Path, *, top_level: bool) -> list[tuple[int, str]]:
    """(line, module) of imports; `if TYPE_CHECKING` blocks are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []

    def walk(node: ast.AST, depth: int) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            inside = depth + isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if not (top_level and inside):
                if isinstance(child, ast.Import):
                    found.extend((child.lineno, alias.name) for alias in child.names)
                elif isinstance(child, ast.ImportFrom):
                    assert child.level == 0, f"{path}:{child.lineno}: relative import"
                    base = child.module or ""
                    found.extend(
                        (child.lineno, f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base)
                        for a in child.names
                    )
            walk(child, inside)

    walk(tree, 0)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    if name.startswith(TOP):
        return
    row = layer_of(name)
    assert row is not None, f"{name} has no row in LAYERS: add it with what it may import"
    for line, target in imports(MODULES[name], top_level=False):
        if target.split(".")[0] not in ("trocr", "weights_conversion"):
            continue
        wanted = layer_of(target)
        assert wanted == row or wanted in LAYERS[row], (
            f"{MODULES[name]}:{line}: {name} must not import {target}"
        )


def test_table_is_no_wider_than_the_code() -> None:
    used: dict[str | None, set[str | None]] = {}
    for name, path in MODULES.items():
        targets = {layer_of(target) for _, target in imports(path, top_level=False)}
        used.setdefault(layer_of(name), set()).update(targets)
    assert set(LAYERS) <= set(used), f"rows without a module: {set(LAYERS) - set(used)}"
    wider = {row: unused for row, allowed in LAYERS.items() if (unused := allowed - used[row])}
    assert not wider, f"allowed and never imported: {wider}"


@pytest.mark.parametrize("name", MODULES)
def test_torch_stays_out_of_light_modules(name: str) -> None:
    if not name.startswith(WITHOUT_TORCH) and name != "trocr":
        return
    heavy = {"torch", "timm", "transformers", "tokenizers", "torchvision", "huggingface_hub"}
    for line, target in imports(MODULES[name], top_level=True):
        assert target.split(".")[0] not in heavy, (
            f"{MODULES[name]}:{line}: {name} imports {target} at start-up"
        )


@pytest.mark.parametrize("name", MODULES)
def test_sizes_and_habits(name: str) -> None:
    path = MODULES[name]
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = text.count("\n")
    assert lines <= MAX_FILE_LINES, f"{path}: {lines} lines; split it where its idea splits"
    assert path.name != "utils.py"
    assert ast.get_docstring(tree), f"{path}: no module docstring"
    for node in ast.walk(tree):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= MAX_FUNCTION_LINES, f"{where}: {node.name} has {length} lines"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", f"{where}: print"
            for word in node.keywords:
                silent = called.endswith("load_state_dict") and word.arg == "strict"
                assert not silent, f"{where}: load_state_dict(strict=...)"
