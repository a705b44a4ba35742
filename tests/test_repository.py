"""The house rules: who may import whom, notebooks and package in step, code that reads well, nothing private."""

import ast
import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml
from repository import FACES, LESSONS, LIB, MODULES, NBS, NOTEBOOKS, ROOT, at, report, settings, source, tracked, tree

MB = 1 << 20

MAY_IMPORT = {
    "base": "",
    "commands": "",
    "ops": "",
    "weights": "",
    "untrusted": "base",
    "judges": "base untrusted ops weights",
    "nets": "ops base",
    "data": "base untrusted",
    "hsr": "judges nets ops base",
    "interop": "untrusted judges nets ops base weights",
    "metrics": "judges nets ops data base",
    "training": "hsr metrics interop judges nets ops data base",
    "editing": "metrics interop judges nets ops data base",
    "inversion": "metrics interop judges nets ops data base",
    "explore": "inversion editing metrics interop judges nets ops data base",
    "survey": "interop judges nets data base",
    "studies": "explore inversion editing training hsr metrics interop judges nets data untrusted ops base",
}
# may be imported by a module; other packages only inside functions
CORE = {"torch", "numpy", "PIL", "safetensors", "tqdm"}
CORE_OF = {"ops": {"torch", "numpy"}, "nets": {"torch", "numpy"}}  # packages that stay lighter still
KERNELS = LIB / "ops/kernels"  # imported only where Triton is, when a kernel is about to run
# import name -> name in settings.ini, where they differ
REQUIREMENT = {"facenet_pytorch": "facenet-pytorch", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def package_of(path):
    "The package that a module belongs to; None for hsr_nb/__init__.py."
    first = path.relative_to(LIB).parts[0]
    return None if first == "__init__.py" else first


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def in_a_process(*args, **kw):
    "The result of a Python process in the repository's root, in which its package is the one imported."
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True, **kw)


# ---- who may import whom


def imports(path, whole=True):
    "Absolute names of what a module imports; whole=False: only at import time."
    here = path.relative_to(ROOT).with_suffix("").parts
    found = []

    def walk(node):
        if not whole and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.Import):
            found.extend(a.name for a in node.names)
        if isinstance(node, ast.ImportFrom):
            found.extend(imported_from(node, here))
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree(path))
    return found


def imported_from(node, here):
    "What `from … import …` names: the module, or each of a folder's modules. `here`: parts of the importing module."
    folder = here[: len(here) - node.level] if node.level else ()
    place = ".".join([*folder, *([node.module] if node.module else [])])
    each = [f"{place}.{a.name}" for a in node.names]
    if not node.module:
        return each
    return [place, *each] if place == "hsr_nb" else [place]


def test_imports_follow_the_table():
    faults = []
    for path in MODULES:
        package = package_of(path)
        if package is not None and package not in MAY_IMPORT:
            faults.append(f"{at(path)}: the package {package} is not in the table")
            continue
        allowed = {package, *MAY_IMPORT[package].split()} if package else set()
        used = {name.split(".")[1] for name in imports(path) if name.startswith("hsr_nb.")} - {"__version__"}
        for name in sorted(used - allowed):
            faults.append(f"{at(path)} imports {name}, which {package or 'hsr_nb/__init__.py'} may not")
    report(faults)


def test_the_table_has_no_circles():
    order = list(MAY_IMPORT)
    for high, lows in MAY_IMPORT.items():
        assert all(order.index(low) < order.index(high) for low in lows.split()), high


def test_the_table_is_the_one_that_people_read():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(\w+)` \| (nothing of ours|`[^|]+`) \| (.+) \|$", page)
    told = {package: set(re.findall(r"`(\w+)`", allowed)) for package, allowed, _ in rows}
    assert told == {package: set(allowed.split()) for package, allowed in MAY_IMPORT.items()}


def neighbours():
    "{module: the modules of ours that it imports, inside functions too}."
    names = {module_name(p): p for p in MODULES}
    graph = {}
    for name, path in names.items():
        found = set()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                found |= {a.name for a in node.names}
            if isinstance(node, ast.ImportFrom):
                (place, *_) = imported_from(node, path.relative_to(ROOT).with_suffix("").parts)
                place = place if node.module else place.rpartition(".")[0]
                each = {f"{place}.{a.name}" for a in node.names}
                found |= (each & names.keys()) or {place}
        graph[name] = found & names.keys() - {name}
    return graph


def test_modules_import_each_other_in_no_circle():
    "Imports inside functions count: they hide a circle and do not open it."
    left = neighbours()
    while True:
        free = [name for name, wanted in left.items() if not wanted & left.keys()]
        if not free:
            break
        for name in free:
            del left[name]
    # what is left is in a circle or stands above one
    while above := left.keys() - set().union(*left.values()):
        for name in above:
            del left[name]
    report([f"{name} imports {', '.join(sorted(wanted & left.keys()))}" for name, wanted in left.items()])


def test_what_modules_import_at_import_time():
    faults = []
    for path in MODULES:
        allowed = CORE_OF.get(package_of(path), CORE) | set(sys.stdlib_module_names) | {"hsr_nb"}
        if path.parent == KERNELS:
            allowed |= {"triton"}
        for name in imports(path, whole=False):
            if name.split(".")[0] not in allowed:
                faults.append(f"{at(path)} imports {name} when it is imported; import it inside a function")
    report(faults)


def required(*left_out):
    "Names of the packages that settings.ini asks for, in small letters; some lists left out."
    cfg = settings()
    keys = [key for key in cfg if key.endswith("requirements") and key not in left_out]
    return {re.split(r"[<>=!~\[;]", r)[0].lower() for key in keys for r in cfg[key].split()}


def test_every_import_has_its_requirement():
    wanted = required("dev_requirements")
    wanted |= {name.partition("==")[0] for name in settings()["without_dependencies"].split()}
    known = {*sys.stdlib_module_names, "hsr_nb", "triton"}  # triton comes with torch
    known |= {"facenet_pytorch"}  # asks for an old torch, so nobody's requirement: installed by hand, --no-deps
    faults = []
    for path in MODULES:
        for name in {name.split(".")[0] for name in imports(path)} - known:
            if REQUIREMENT.get(name, name).lower() not in wanted:
                faults.append(f"{at(path)} imports {name}, which settings.ini does not name")
    report(faults)


IMPORT_ALL = """
import importlib, json, os, sys, torch

def state():
    switches = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    return os.environ.copy(), torch.get_rng_state().tolist(), switches

def packages(modules):
    return sorted({m.split(".")[0] for m in modules})

before = state()
torch_alone = set(sys.modules)
import hsr_nb.nets
nets = sorted(set(packages(set(sys.modules) - torch_alone)) - set(sys.stdlib_module_names))
kernels = [m for m in sys.modules if m.startswith("hsr_nb.ops.kernels")]
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps(dict(nets=nets, kernels=kernels, all=packages(sys.modules), same=before == state())))
"""
HEAVY = {
    *("IPython", "fastcore", "ipywidgets", "lmdb", "matplotlib", "nbdev", "pandas", "papermill", "sklearn", "timm"),
    *("torchmetrics", "torchvision", "tyro"),
}


def test_importing_loads_little_and_changes_nothing():
    "In a fresh process: nets first, then every module."
    has_triton = importlib.util.find_spec("triton")
    names = [module_name(p) for p in MODULES if has_triton or p.parent != KERNELS or p in FACES]
    r = in_a_process("-c", IMPORT_ALL, *names)
    assert r.returncode == 0, r.stderr
    found = json.loads(r.stdout)
    assert found["nets"] == ["hsr_nb"], f"import hsr_nb.nets loads more than torch, numpy and itself: {found['nets']}"
    assert not found["kernels"], f"import hsr_nb.nets loads {found['kernels']}, which need Triton"
    heavy = HEAVY & set(found["all"])
    assert not heavy, f"importing the package loads {sorted(heavy)}"
    assert found["same"], "importing the package changes the environment, or torch's random state, threads or modes"


def test_nothing_executes_a_file():
    "No pickle, eval or exec anywhere; torch.load only with weights_only=True."
    executing = ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    faults = []
    for path in MODULES:
        faults += [f"{at(path)} imports {n}" for n in imports(path) if n.split(".")[0] in executing]
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            where = f"{at(path)}:{node.lineno}"
            name = ast.unparse(node.func)
            keys = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in ("eval", "exec", "os.system") or keys.get("shell") == "True":
                faults.append(f"{where} calls {name}")
            if name.endswith("torch.load") and keys.get("weights_only") != "True":
                faults.append(f"{where} calls torch.load without weights_only=True")
            if name.endswith("np.load") and keys.get("allow_pickle") == "True":
                faults.append(f"{where} calls np.load with allow_pickle=True")
    report(faults)


def test_console_scripts_exist():
    for line in settings()["console_scripts"].split():
        module, function = line.split("=")[1].split(":")
        body = tree((ROOT / module.replace(".", "/")).with_suffix(".py")).body
        assert any(isinstance(n, ast.FunctionDef) and n.name == function for n in body), line


def test_run_py_needs_nothing_but_python():
    assert {n.split(".")[0] for n in imports(ROOT / "run.py")} <= set(sys.stdlib_module_names)


# ---- faces: the __init__.py files


def names_of(face):
    "The names that a face hands out."
    for node in tree(face).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def test_no_module_has_the_name_of_something_its_package_exports():
    faults = []
    for face in LIB.glob("*/__init__.py"):
        imported = [n for n in ast.walk(tree(face)) if isinstance(n, ast.ImportFrom)]
        names = {a.asname or a.name for node in imported for a in node.names}
        for module in face.parent.glob("*.py"):
            if module.stem in names:
                faults.append(f"{at(face)} re-exports {module.stem}, and there is a module of that name")
    report(faults)


def test_faces_are_short_and_in_the_present_tense():
    not_now = re.compile(r"\b(later|soon|now|no longer|formerly|used to|will|yet|so far|to come|planned|TODO)\b", re.I)
    faults = []
    for face in FACES:
        said = ast.get_docstring(tree(face)) or ""
        if not said.endswith("."):
            faults.append(f"{at(face)} has no docstring that ends in a full stop")
        if found := not_now.search(said):
            faults.append(f"{at(face)} speaks of another time: {found[0]!r}")
        if len(names_of(face)) > 12:
            faults.append(f"{at(face)} hands out {len(names_of(face))} names, at most a dozen")
    report(faults)


# ---- one way to do each thing


def calls(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def renames_a_file(call):
    "os.replace, os.rename, os.link, shutil.move, or the same by a Path (str.replace has two arguments or more)."
    if not isinstance(call.func, ast.Attribute):
        return False
    owner = ast.unparse(call.func.value)
    method = call.func.attr
    if owner in ("os", "shutil"):
        return method in ("replace", "rename", "renames", "link", "move")
    one_argument = len(call.args) == 1 and not call.keywords
    return one_argument and method in ("replace", "rename", "hardlink_to") and owner != "dataclasses"


def test_files_get_their_names_in_one_place():
    faults = []
    for path in MODULES:
        if path != LIB / "base/whole.py":
            lines = [call.lineno for call in calls(path) if renames_a_file(call)]
            faults += [f"{at(path)}:{n} renames a file: base.whole does" for n in lines]
    report(faults)


def hashes_a_file(call):
    "hashlib.file_digest, or a hash of everything that a file holds."
    name = ast.unparse(call.func)
    if name.endswith("file_digest"):
        return True
    if not name.startswith("hashlib.") and not name.endswith(".update"):
        return False
    inner = [node for arg in call.args for node in ast.walk(arg) if isinstance(node, ast.Call)]
    readers = [c for c in inner if isinstance(c.func, ast.Attribute) and c.func.attr in ("read_bytes", "read")]
    return any(not c.args for c in readers)


def test_files_are_hashed_in_one_place():
    faults = []
    for path in MODULES:
        if path != LIB / "base/whole.py":
            lines = [call.lineno for call in calls(path) if hashes_a_file(call)]
            faults += [f"{at(path)}:{n} hashes a file: base.whole.sha256 does" for n in lines]
    report(faults)


def definitions(path):
    "Functions and classes at the top of a module."
    return [n for n in tree(path).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]


def test_what_the_ground_defines_is_defined_once():
    "sha256, pick_device, load_strict, whole files, moments, …: a name of base has no second meaning above it."
    ground = {n.name: p for p in MODULES if package_of(p) == "base" for n in definitions(p) if n.name[0] != "_"}
    del ground["run"]  # a plain word: a command, a machine and a training each have one
    faults = []
    for path in MODULES:
        for node in definitions(path):
            if node.name in ground and ground[node.name] != path:
                faults.append(f"{at(path)}:{node.lineno} defines {node.name}, as {at(ground[node.name])} does")
    report(faults)


def skeleton(function):
    "What a function does, whatever it and its variables are called: two of one skeleton do the same work."
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]  # the docstring
    order = {}

    def plain(node):
        if isinstance(node, ast.Name):
            return order.setdefault(node.id, len(order)) if node.id in own else node.id
        if isinstance(node, list):
            return [plain(n) for n in node]
        if isinstance(node, ast.AST):
            return type(node).__name__, [plain(value) for _, value in ast.iter_fields(node)]
        return repr(node)

    arguments = [a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)]
    stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    own = {*arguments, *stored}
    for name in arguments:
        order.setdefault(name, len(order))
    return repr(plain(body))


def test_no_two_functions_do_the_same_work():
    "Bodies that are equal but for the names of their variables; a line or two may repeat."
    found = defaultdict(list)
    for path in MODULES:
        if not at(path).startswith(ARITHMETIC):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.FunctionDef) and sum(1 for _ in ast.walk(node)) >= 60:
                    found[skeleton(node)].append(f"{at(path)}:{node.lineno} {node.name}")
    report([" = ".join(places) for places in found.values() if len(places) > 1])


# ---- how code is written

# Size is measured in thought, not in newlines: after formatting, how much stands in a module, a function, a line.
ARITHMETIC = ("hsr_nb/data/synthfaces/", "hsr_nb/ops/kernels/")  # face painter and kernels: formulas are their subject
MODULE_LINES = 400
FUNCTION_LINES = 60
CELL_LINES = 60
NODES_A_LINE = 12
# A test may hold a table of cases, and one assertion compares whole structures: a little longer, a little denser.
# A file of tests is read test by test, so its length has no limit.
TEST_LINES = 80
TEST_NODES_A_LINE = 14

BY_HAND = ["run.py", "setup.py", "site_pages.py"]
FORMATTED = ["nbs", "hsr_nb", "tests", *BY_HAND]
TYPED = (  # packages that mypy passes over
    *("base", "untrusted", "judges", "ops", "nets", "hsr", "metrics"),
    *("studies", "training", "data", "interop", "editing", "inversion", "explore", "survey"),
)


def tool(name):
    "The command that starts a development tool; skip, with the reason, where it is missing."
    pytest.importorskip(name, reason=f"{name} is for development only")
    return ["-m", name]


def test_code_is_formatted():
    r = in_a_process(*tool("ruff"), "format", "--check", *FORMATTED)
    assert r.returncode == 0, r.stdout + r.stderr


def test_code_is_linted():
    r = in_a_process(*tool("ruff"), "check", "--output-format", "concise", *FORMATTED)
    assert r.returncode == 0, r.stdout + r.stderr


def test_types_are_right():
    packages = [word for name in TYPED for word in ("-p", f"hsr_nb.{name}")]
    r = in_a_process(*tool("mypy"), "--ignore-missing-imports", *packages)
    assert r.returncode == 0, r.stdout + r.stderr


def nodes_a_line(path):
    "Syntax nodes per line of code."
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    code = [line for line in lines if line and not line.startswith("#")]
    return sum(1 for _ in ast.walk(tree(path))) / max(1, len(code))


def too_dense(path, most):
    found = nodes_a_line(path)
    return [f"{at(path)}: {found:.1f} syntax nodes a line, at most {most}"] if found > most else []


def too_long(path, most):
    "Functions of a file with more lines than they may have."
    faults = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > most:
                faults.append(f"{at(path)}: {node.name} has {lines} lines, at most {most}")
    return faults


def test_modules_functions_and_lines_are_small():
    faults = []
    for path in MODULES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MODULE_LINES:
            faults.append(f"{at(path)}: {lines} lines, at most {MODULE_LINES}")
        if path not in FACES and not at(path).startswith(ARITHMETIC):
            faults += too_dense(path, NODES_A_LINE) + too_long(path, FUNCTION_LINES)
    for name in BY_HAND:
        faults += too_dense(ROOT / name, NODES_A_LINE) + too_long(ROOT / name, FUNCTION_LINES)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        faults += too_dense(path, TEST_NODES_A_LINE) + too_long(path, TEST_LINES)
    report(faults)


def test_exported_cells_are_small():
    faults = []
    for path, nb in LESSONS.items():
        if at(path).replace("nbs/", "hsr_nb/", 1).startswith(ARITHMETIC):
            continue
        for i, cell in enumerate(nb["cells"]):
            exported = cell["cell_type"] == "code" and re.match(r"#\| export[is]?\b", source(cell))
            lines = len(source(cell).splitlines()) - 1
            if exported and lines > CELL_LINES:
                faults.append(f"{at(path)}, cell {i}: {lines} exported lines, at most {CELL_LINES}")
    report(faults)


# ---- references: docstrings cite papers by keys of one page

REFERENCES = NBS / "guides/references.qmd"
# A name in brackets, as in [StyleGAN2] or [HSR]; [N, C, H, W] and [2, 3] are shapes, [tap] is a placeholder.
KEY = re.compile(r"\[([A-Z][A-Za-z0-9]*(?:-[A-Z0-9][A-Za-z0-9]*)*)\](?![(\[])")
SHAPES = re.compile(r"[A-Z]{1,2}[0-9]?|RGBA?")  # [F], [PL]: dimensions


def keys_on_the_page():
    return set(re.findall(r"(?m)^\[([^\]]+)\]\{#[\w-]+\}", REFERENCES.read_text(encoding="utf-8")))


def test_keys_in_docstrings_are_on_the_page_of_references():
    known = keys_on_the_page()
    assert len(known) > 20
    faults = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                continue
            for key in KEY.findall(ast.get_docstring(node) or ""):
                if key not in known and not SHAPES.fullmatch(key):
                    where = "" if isinstance(node, ast.Module) else f" {node.name}"
                    faults.append(f"{at(path)}{where} cites [{key}], which {at(REFERENCES)} does not list")
    report(faults)


# ---- notebooks and package


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    "A copy of the notebooks, exported and cleaned as `run.py export` does."
    pytest.importorskip("nbdev", reason="nbdev is for development only")
    out = tmp_path_factory.mktemp("rebuilt")
    for path in (ROOT / "settings.ini", ROOT / "ruff.toml", *NOTEBOOKS):
        copy = out / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    script = (
        "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()"
    )
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # nbdev_export does nothing inside nbdev_test
    for command in (
        ["-c", script],
        ["-m", "ruff", "check", "--quiet", "--select", "I", "--fix", "hsr_nb"],
        ["-m", "ruff", "format", "--quiet", "hsr_nb"],
    ):
        r = subprocess.run([sys.executable, *command], cwd=out, env=env, capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
    return out


def exported(package, files):
    "{path within the package: text}, without what is written by hand."
    return {p.relative_to(package): p.read_text(encoding="utf-8") for p in files if p.name != "__init__.py"}


def first_change(old, new):
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    changed = [x for x in lines if x[0] in "+-" and x[1:].strip() and x[:3] not in ("+++", "---")]
    return changed[0] if changed else "blank lines"


def test_package_is_what_the_notebooks_export(rebuilt):
    "Except __init__.py files, which are written by hand, and _modidx.py while it is not in the repository."
    index = {LIB / "_modidx.py"} & set(tracked())
    old = exported(LIB, [*MODULES, *index])
    new = exported(rebuilt / "hsr_nb", (rebuilt / "hsr_nb").rglob("*.py"))
    if not index:
        new.pop(Path("_modidx.py"), None)
    faults = [f"hsr_nb/{p} comes from no notebook" for p in sorted(old.keys() - new.keys())]
    faults += [f"hsr_nb/{p} is missing" for p in sorted(new.keys() - old.keys())]
    for p in sorted(old.keys() & new.keys()):
        if old[p] != new[p]:
            change = first_change(old[p], new[p])
            faults.append(f"hsr_nb/{p} differs from its notebook (+), first in: {change}")
    report(faults and [*faults, "edit the notebook, then python3 run.py export"])


def test_notebooks_are_clean(rebuilt):
    def is_clean(path):
        return path.read_bytes() == (rebuilt / path.relative_to(ROOT)).read_bytes()

    report([f"{at(p)} is not clean: python3 run.py export" for p in NOTEBOOKS if not is_clean(p)])


def test_notebooks_parse():
    faults = []
    for path, nb in NOTEBOOKS.items():
        ids = [c.get("id") for c in nb["cells"]]
        kinds = {c["cell_type"] for c in nb["cells"]}
        if (nb["nbformat"], nb["nbformat_minor"]) < (4, 5) or None in ids or len(set(ids)) < len(ids):
            faults.append(f"{at(path)}: cells need ids of their own (notebook format 4.5)")
        if not kinds <= {"raw", "markdown", "code"}:
            faults.append(f"{at(path)}: unknown kinds of cells {kinds}")
        wrong = next(nbformat.validator.iter_validate(nb, version=nb["nbformat"]), None)
        if wrong is not None:
            faults.append(f"{at(path)}: no notebook by the schema of its format: {wrong.message[:100]}")
        if nb["metadata"].get("kernelspec", {}).get("name") != "python3":
            faults.append(f"{at(path)}: the kernel is not python3")
        for i, cell in enumerate(nb["cells"]):
            if cell["cell_type"] != "code":
                continue
            try:
                ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", source(cell)))
            except SyntaxError as e:
                faults.append(f"{at(path)}, cell {i}: {e}")
            errors = [o["ename"] for o in cell["outputs"] if o["output_type"] == "error"]
            faults += [f"{at(path)}, cell {i}: a stored error, {name}" for name in errors]
    report(faults)


def first_markdown(nb):
    return next(source(c) for c in nb["cells"] if c["cell_type"] == "markdown")


def test_pages_begin_with_a_title_and_a_claim_alone():
    "The site keeps of the first Markdown cell the title and the line of the claim; more would be lost there."
    faults = []
    for path, nb in NOTEBOOKS.items():
        if not re.fullmatch(r"# \S.*\n\n> \S.*[.?!…]\s*", first_markdown(nb)):
            faults.append(f"{at(path)}: the first Markdown cell is not '# title', an empty line and '> A claim.' alone")
    report(faults)


def test_lessons_claim_a_full_sentence():
    "It stands on the site, in the README's table and as the module's docstring, which is one line."
    faults = []
    for path, nb in LESSONS.items():
        claim = first_markdown(nb).split("> ", 1)[-1].split("\n")[0]
        if not re.fullmatch(r"[\W_]*[A-Z0-9`].*\.", claim) or len(claim) > 115:
            faults.append(f"{at(path)}: not a sentence of at most 115 characters that ends in a full stop: {claim}")
    report(faults)


def test_lessons_begin_with_title_claim_and_module():
    faults = []
    for path, nb in LESSONS.items():
        first = source(nb["cells"][0])
        code = next(source(c) for c in nb["cells"] if c["cell_type"] == "code")
        module = re.match(r"#\| default_exp (\S+)\s*$", code)
        if not re.match(r"# \S.*\n\n> \S", first):
            faults.append(f"{at(path)}: the first cell is not a title and a claim")
        if not module:
            faults.append(f"{at(path)}: the first code cell names no module")
        elif module[1] != ".".join([*path.parent.relative_to(NBS).parts, path.stem]):
            faults.append(f"{at(path)} exports to {module[1]}: folder and file name say otherwise")
    report(faults)


def test_experiments_are_for_papermill():
    faults = []
    for path, nb in NOTEBOOKS.items():
        if path.parent.name != "experiments":
            continue
        sources = [source(c) for c in nb["cells"]]
        tagged = [c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", [])]
        if nb["cells"][0]["cell_type"] != "raw" or "skip_exec: true" not in sources[0]:
            faults.append(f"{at(path)}: no front matter with skip_exec: true")
        if len(tagged) != 1:
            faults.append(f"{at(path)}: not exactly one cell tagged parameters")
        if any(re.search(r"(?m)^#\|\s*eval:\s*false", s) for s in sources):
            faults.append(f"{at(path)}: papermill ignores eval: false")
        if any(re.search(r"(?m)^#\|\s*export", s) for s in sources):
            faults.append(f"{at(path)}: an experiment exports nothing")
    report(faults)


def test_guides_are_pages():
    faults = []
    for path, nb in NOTEBOOKS.items():
        if path.parent.name != "guides":
            continue
        first = next(source(c) for c in nb["cells"] if c["cell_type"] != "raw")
        if not re.match(r"# \S.*\n\n> \S", first):
            faults.append(f"{at(path)}: the first cell is not a title and a claim")
        if any(re.search(r"(?m)^#\|\s*(?:export|default_exp)", source(c)) for c in nb["cells"]):
            faults.append(f"{at(path)}: a guide exports nothing")
    report(faults)


def test_stored_outputs_are_small():
    faults = []
    for path, nb in NOTEBOOKS.items():
        size = sum(len(json.dumps(c.get("outputs", []))) for c in nb["cells"])
        if size >= 200_000:
            faults.append(f"{at(path)}: {size // 1000} kB of stored outputs, at most 200")
    report(faults)


@cache
def run_py():
    "run.py as a module."
    spec = importlib.util.spec_from_file_location("run_py", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_is_made_from_the_index():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == run_py().readme_text(), "README.md differs from nbs/index.ipynb: python3 run.py readme"


def test_every_test_runs_once(monkeypatch):
    "`run.py test` calls pytest three times; what one call leaves out, another one takes."
    for flags in ([], ["--all"]):
        monkeypatch.setattr(sys, "argv", ["run.py", "test", *flags])
        kept = [run_py().others(marked)[-1] for marked in ("alone", "not alone")]
        rest = [] if flags else [" and not slow"]
        assert kept == ["".join(["alone", *rest]), "".join(["not alone", *rest])]


# ---- files


def test_workflow_and_other_yaml_parse():
    for path in tracked():
        if path.suffix in (".yml", ".yaml", ".cff"):
            assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), at(path)


def test_citation_says_what_settings_say():
    "https://citation-file-format.github.io, version 1.2.0: the keys that it asks for."
    cite = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cite.keys() and cite["cff-version"] == "1.2.0"
    cfg = settings()
    assert (cite["title"], cite["version"], cite["license"]) == (cfg["title"], cfg["version"], "Apache-2.0")
    assert cite["authors"] == [{"name": cfg["author"]}]
    for reference in cite["references"]:
        assert {"type", "title", "authors", "year"} <= reference.keys(), reference


def test_constraints_are_the_versions_behind_the_results():
    "Names and versions alone, no addresses; every package that settings.ini names is among them."
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    faults = [f"constraints.txt: {line}" for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.+!]+", line)]
    pinned = dict(line.split("==") for line in lines)
    assert list(pinned) == sorted(pinned) and len(pinned) == len(lines)
    faults += [f"constraints.txt lacks {name}" for name in sorted(required() - pinned.keys())]
    for path in sorted((ROOT / "data/results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if not result["device"].startswith("cpu"):
            continue  # a GPU's machine brings its own PyTorch
        for name, version in result["versions"].items():
            if name != "python" and version.partition("+")[0] != pinned[name].partition("+")[0]:
                faults.append(f"{at(path)} was measured with {name} {version}, constraints.txt says {pinned[name]}")
    report(faults)


def test_no_large_generated_or_lock_files():
    files = tracked()
    large = [p for p in files if p.stat().st_size > 8 * MB]
    report([f"{at(p)}: {p.stat().st_size / MB:.1f} MB, at most 8" for p in large])
    names = r"uv\.lock|\.ipynb_checkpoints|__pycache__|_proc|_docs|runs|\.venv"
    unwanted = re.compile(rf"(^|/)({names})(/|$)|^nbs/(nbdev|sidebar)\.yml$|\.(pkl|pt|pth|pickle)$")
    report([f"{at(p)} does not belong into the repository" for p in files if unwanted.search(at(p))])


def test_weights_have_cards():
    files = sorted((LIB / "weights").rglob("*.safetensors"))
    cards = {p.stem for p in (LIB / "weights").rglob("*.json")}
    assert sum(p.stat().st_size for p in files) < 16 * MB
    assert {p.stem for p in files} == cards, "a network without a card, or a card without a network"
    written_before = ROOT / "tests/files/before_floors"  # by an earlier commit, to see that it still loads
    elsewhere = [p for p in tracked() if p.suffix == ".safetensors" and not p.is_relative_to(LIB / "weights")]
    others = [p for p in elsewhere if not p.is_relative_to(written_before)]
    assert sum(p.stat().st_size for p in written_before.rglob("*") if p.is_file()) < 1.5 * MB
    report([f"{at(p)}: weights belong into hsr_nb/weights, with a card" for p in others])
    for path in files:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert card["name"] == path.stem, at(path)
        assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), at(path)


# Class brackets keep the patterns from finding themselves.
MACHINE = r"(?<![\w.$}~/-])/(?:[h]ome|[U]sers|[r]oot|[w]ork|[m]nt|[s]cratch)/\w[\w.-]*|[C]:\\+[U]sers"
ADDRESS = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|io|dev|gov|ai|ac|de|uk|fr|ch|in|cn|jp|example)\b"
REGISTRIES = (
    *(r"[p]ypi\.", r"[p]ythonhosted\.", r"[p]ypi/", r"/[s]imple\b", "[a]rtifactory", "[n]exus"),
    *(r"[r]egistry\.[n]pmjs", r"[c]onda\.", r"download\.[p]ytorch"),
)
REGISTRY = rf"https?://[^\s\"')]*(?:{'|'.join(REGISTRIES)})|--(?:extra-)?[i]ndex-url"
PRIVATE = {"a path of a machine": MACHINE, "an e-mail address": ADDRESS, "a package registry": REGISTRY}
BINARY = (".png", ".jpg", ".webp", ".safetensors", ".npz", ".gif", ".zip")


def outputs_without_pictures(cell):
    outputs = [o.get("data", o) for o in cell.get("outputs", [])]
    return [{kind: v for kind, v in o.items() if not kind.startswith("image/")} for o in outputs]


def readable_text(path):
    "A file as text; of a notebook what is written and said in it."
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    said = [[c["source"], outputs_without_pictures(c)] for c in json.loads(text)["cells"]]
    return json.dumps(said, ensure_ascii=False)


def test_nothing_private_in_tracked_files():
    "No paths of a machine, addresses of people, or addresses of package registries."
    faults = []
    for path in tracked():
        if path.suffix in BINARY or path.name == "LICENSE":
            continue
        text = readable_text(path)
        for what, pattern in PRIVATE.items():
            faults += [f"{at(path)}: {what}, {m[0]!r}" for m in re.finditer(pattern, text)]
    for path, nb in NOTEBOOKS.items():
        said = json.dumps([outputs_without_pictures(c) for c in nb["cells"]])
        for m in re.finditer(r"/(?:tmp|var/folders|private)/\w[\w.-]*|ipykernel_\d+", said):
            faults.append(f"{at(path)}: a temporary path in an output, {m[0]!r}")
    report(faults)


# ---- data


def test_published_numbers():
    published = json.loads((ROOT / "data/paper/targets.json").read_text(encoding="utf-8"))
    tables = {t["id"]: t for t in published["tables"]}
    assert set(tables) == {
        "hsr_ffhq140k",
        "hsr_lsun_church",
        "hsr_plr_interplay",
        "hsr_als",
        "hsr_abstract",
        "l2l_identity",
        "l2l_quality",
        "l2l_speed",
        "survey_scores",
    }
    for name, table in tables.items():
        keys = [c["key"] for c in table["columns"]]
        assert table["source"] and table["rows"] and len(set(keys)) == len(keys), name
        assert all(set(r["values"]) <= set(keys) for r in table["rows"]), name
    ffhq = tables["hsr_ffhq140k"]["rows"][1]["values"]
    assert ffhq == {"fid": 3.74, "precision": 0.68, "recall": 0.48, "ppl": 144.59}


def test_measured_numbers_say_where_they_come_from():
    for path in sorted((ROOT / "data/results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert {"name", "device", "git", "versions", "config", "rows"} <= set(result), at(path)
        assert result["rows"] and path.stem.startswith(f"{result['name']}-"), at(path)
