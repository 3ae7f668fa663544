"""Which keys of a config.json the classes of `transformers` read, found in their source.

    python -m tests.parity.keys [SOURCE ...]

writes tests/fixtures/config_keys.json: for every family that `transformers` has, the keys that its language model or
its configuration reads in any of the releases (SOURCE is the unpacked folder of a release; the installed one is always
read), and the keys that the code of all models reads. Neither torch nor transformers is imported.
"""

import ast
import functools
import importlib.util
import json
import pathlib
import sys

from model.families import FAMILIES
from model.families.multimodal import MULTIMODAL
from tests.benchmarks.command import answer_help
from tests.parity.shapes import CLASSES

FIXTURE = pathlib.Path(__file__).parent.parent / "fixtures" / "config_keys.json"
# The code that all models share. Loading, generation, losses and quantisation change no logits.
SHARED = (
    "cache_utils.py",
    "configuration_utils.py",
    "integrations/flash_attention.py",
    "integrations/moe.py",
    "integrations/sdpa_attention.py",
    "masking_utils.py",
    "modeling_attn_mask_utils.py",
    "modeling_layers.py",
    "modeling_rope_utils.py",
    "modeling_utils.py",
)
# Attributes of configurations that `transformers` sets itself.
INTERNAL = frozenset(
    "_attn_implementation _attn_implementation_internal _attn_was_changed _auto_class _commit_hash _is_quantized "
    "_experts_implementation _experts_implementation_internal _from_model_config _output_attentions _post_init_done "
    "_pre_quantization_dtype base_model_ep_plan base_model_pp_plan base_model_tp_plan default_theta is_heterogeneous is_quantized "
    "has_no_defaults_at_init sub_configs sub_configs_defaults use_return_dict validate".split()
)
ROPE_DICTS = ("rope_parameters", "rope_scaling", "rope_params")


class Module:
    """A source file: its classes, functions and constants by name, and what it imports from other models."""

    def __init__(self, path):
        self.path, tree = path, ast.parse(path.read_text())
        self.definitions, self.imports = {}, {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level and "models" in path.parts:
                # One dot is the folder of the model, two are the folder of all models.
                folder = path.parents[node.level - 1]
                target = folder.joinpath(*(node.module or "").split(".")).with_suffix(".py")
                if target.is_file() and "models" in target.parts and "auto" not in target.parts:
                    self.imports |= {alias.asname or alias.name: (target, alias.name) for alias in node.names}
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign):
                self.definitions |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}


@functools.cache
def module(path):
    """Returns the parsed file."""
    return Module(path)


def reachable(path, name):
    """Returns all definitions that the definition `name` of a file uses, within the files of models."""
    found, waiting = {}, [(path, name)]
    while waiting:
        path, name = waiting.pop()
        here = module(path)
        if name in here.imports:
            waiting.append(here.imports[name])
        elif name in here.definitions and (path, name) not in found:
            found[path, name] = here.definitions[name]
            names = {node.id for node in _walk([here.definitions[name]]) if isinstance(node, ast.Name)}
            waiting += [(path, other) for other in names]
    return list(found.values())


def is_config(node):
    """Returns whether an expression is a configuration, by its name."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr == "get_text_config"
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in ("config", "cfg") or name.endswith("_config")


def is_rope(node):
    """Returns whether an expression is a dict of rotary parameters, or a dict in it."""
    if isinstance(node, ast.Subscript):
        return is_rope(node.value)
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.startswith(ROPE_DICTS)


def _text(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _walk(nodes):
    """Yields the nodes of code, without the code that initialises weights and without the names of called methods."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef) and node.name == "_init_weights":
            continue
        yield node
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            children = [node.func.value if child is node.func else child for child in children]
        waiting += children


def keys_in(nodes, is_source=is_config):
    """Returns the keys that code reads from a configuration, and the keys of rotary parameters with "rope." in front."""
    keys = set()
    for node in _walk(nodes):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and is_source(node.value):
            keys.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            if node.func.id in ("getattr", "hasattr") and is_source(node.args[0]):
                keys.add(_text(node.args[1]))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in ("get", "pop", "setdefault") and is_rope(node.func.value):
                keys.add("rope." + (_text(node.args[0]) or ""))
        elif isinstance(node, ast.Subscript) and is_rope(node.value):
            keys.add("rope." + (_text(node.slice) or ""))
    return {key for key in keys if key and key != "rope." and not key.startswith("__")}


# The methods of a configuration that take the values of a config.json.
INITIALISERS = ("__init__", "__post_init__", "convert_rope_params_to_dict", "standardize_rope_params")


def configuration_keys(nodes):
    """Returns the keys that a configuration reads: attributes, keyword arguments, parameters that it computes with."""
    nodes = [inner for outer in nodes for inner in (outer.body if isinstance(outer, ast.Module) else [outer])]
    keys = keys_in(nodes, lambda node: (isinstance(node, ast.Name) and node.id == "self") or is_config(node))
    functions = [node for node in _walk(nodes) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        if function.name in INITIALISERS:
            arguments = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)} - {"self"}
            stored = {
                id(node.value)
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)
            }
            for node in ast.walk(function):
                if isinstance(node, ast.Name) and node.id in arguments and id(node) not in stored:
                    keys.add(node.id)
                keys |= _taken_arguments(node)
    return keys - class_names(nodes)


def _taken_arguments(node):
    """Returns the key of `kwargs.get(key)` and `kwargs.pop(key)`; no key for other code."""
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
    if is_call and node.func.attr in ("get", "pop") and getattr(node.func.value, "id", "") == "kwargs":
        return {_text(node.args[0])} - {None}
    return set()


def class_names(nodes):
    """Returns the names of methods, properties and class attributes, which are no keys."""
    functions = {node.name for node in _walk(nodes) if isinstance(node, ast.FunctionDef)}
    bodies = [inner for node in nodes if isinstance(node, ast.ClassDef) for inner in node.body]
    return functions | {target.id for node in bodies if isinstance(node, ast.Assign) for target in node.targets}


def attribute_map(nodes):
    """Returns the other names under which a configuration takes values: {other name: key}."""
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "attribute_map":
            return ast.literal_eval(node.value)
    return {}


def defaults(nodes):
    """Returns the values that a configuration has where a config.json gives none."""
    found = {}
    for node in nodes:
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name) and inner.value is not None:
                try:
                    found[inner.target.id] = ast.literal_eval(inner.value)
                except ValueError:
                    continue
    return found


def _file_with(source, pattern, text):
    """Returns the first of the files of models that match a pattern and hold a text; None where none does."""
    return next((path for path in sorted(source.glob(pattern)) if text in path.read_text()), None)


def configuration_of(source, model_type):
    """Returns the definitions that the configuration of a `model_type` uses; none where the release has no such type."""
    path = _file_with(source, "models/*/configuration_*.py", f'    model_type = "{model_type}"\n')
    if path is None:
        return []
    return next(
        reachable(path, name)
        for name, node in module(path).definitions.items()
        if isinstance(node, ast.ClassDef) and f"model_type = {model_type!r}" in map(ast.unparse, node.body)
    )


def family_keys(source, family):
    """Returns the keys that the language model of a family reads in a release, and their other names."""
    path = _file_with(source, "models/*/modeling_*.py", f"\nclass {family.architecture}(")
    if path is None:
        return set(), {}
    model_type = family.model_types[0]
    configuration = configuration_of(source, CLASSES.get(model_type, model_type))
    aliases = attribute_map(configuration)
    keys = keys_in(reachable(path, family.architecture)) | configuration_keys(configuration)
    return {aliases.get(key, key) for key in keys - class_names(configuration) - INTERNAL}, aliases


def shared_keys(source):
    """Returns the keys that the code of all models reads in a release."""
    keys = set()
    for name in SHARED:
        if (source / name).is_file():
            tree = [ast.parse((source / name).read_text())]
            keys |= configuration_keys(tree) if name == "configuration_utils.py" else keys_in(tree)
    return keys - INTERNAL


def version(source):
    """Returns the version of a release."""
    tree = ast.parse((source / "__init__.py").read_text())
    return next(
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__"
    )


def installed():
    """Returns the folder of the installed release, which is not imported; None where there is none."""
    found = importlib.util.find_spec("transformers")
    return None if found is None else pathlib.Path(found.submodule_search_locations[0])


def read(sources):
    """Returns what the fixture holds, for these releases."""
    families = {}
    for family in FAMILIES:
        found = [family_keys(source, family) for source in sources] if family.in_transformers else []
        if any(keys for keys, _ in found):
            families[family.name] = {
                "keys": sorted(set().union(*(keys for keys, _ in found))),
                "aliases": dict(sorted({k: v for _, aliases in found for k, v in aliases.items()}.items())),
            }
    return {
        "releases": [version(source) for source in sources],
        "shared": sorted(set().union(*map(shared_keys, sources))),
        "families": families,
        "defaults": {
            text_type: {key: values[key] for key in sorted(given & values.keys())}
            for text_type, given in _given_defaults().items()
            for values in [defaults(configuration_of(sources[0], text_type))]
        },
    }


def _given_defaults():
    return {text_type: set(values) for multimodal in MULTIMODAL for text_type, values in multimodal.defaults.items()}


def unrecorded():
    """Returns, by family, the keys that the installed release reads and that the fixture does not have."""
    recorded, now = json.loads(FIXTURE.read_text()), read([installed()])
    found = {"all models": set(now["shared"]) - set(recorded["shared"])}
    for name, family in now["families"].items():
        known = recorded["families"].get(name, {"keys": [], "aliases": {}})
        found[name] = {*family["keys"], *family["aliases"]} - {*known["keys"], *known["aliases"]}
    return {name: sorted(keys) for name, keys in found.items() if keys}


def main(sources):
    """Writes the fixture."""
    there = installed()
    assert there is not None, "transformers is not installed: make parity installs it"
    recorded = read([there, *map(pathlib.Path, sources)])
    FIXTURE.write_text(json.dumps(recorded, indent=1) + "\n")
    print(f"{FIXTURE}: {len(recorded['families'])} families of transformers {', '.join(recorded['releases'])}")


if __name__ == "__main__":
    answer_help(__name__, __doc__)
    main(sys.argv[1:])
