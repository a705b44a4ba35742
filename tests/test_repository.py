"""The house rules: who may import whom, notebooks and package in step, nothing private or huge in the repository."""

import ast
import difflib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS, LIB = ROOT / "nbs", ROOT / "hsr_nb"
MB = 1 << 20

MAY_IMPORT = {
    "base": "",
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
    "explore": "editing metrics interop judges nets ops data base",
    "survey": "interop judges nets data base",
    "studies": "explore editing training hsr metrics interop judges nets data untrusted ops base",
}
CORE = {
    "torch",
    "numpy",
    "PIL",
    "safetensors",
    "tqdm",
}  # may be imported by a module; other packages only inside functions
CORE_OF = {"ops": {"torch", "numpy"}, "nets": {"torch", "numpy"}}  # packages that stay lighter still
KERNELS = LIB / "ops/kernels"  # imported only where Triton is, when a kernel is about to run
REQUIREMENT = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}  # import name -> name in settings.ini, where they differ


def visible(folder, pattern):
    "Files under a folder, without hidden, generated and cache folders."
    return sorted(
        p
        for p in folder.rglob(pattern)
        if p.is_file()
        and not any(
            part[0] in "._" and part[:2] != "__" or part == "__pycache__" for part in p.relative_to(folder).parts
        )
    )


def tracked():
    "The files git knows, or where there is no git everything that is neither hidden nor generated."
    try:
        names = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [
            str(p.relative_to(ROOT))
            for p in visible(ROOT, "*")
            if p.relative_to(ROOT).parts[0] not in ("runs", "build", "dist")
        ]
    return [ROOT / n for n in names if n and (ROOT / n).is_file()]


def settings():
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def at(path):
    return path.relative_to(ROOT).as_posix()


def source(cell):
    return "".join(cell["source"])


def report(faults):
    assert not faults, "\n" + "\n".join(faults)


MODULES = [p for p in sorted(LIB.rglob("*.py")) if p.name != "_modidx.py"]
NOTEBOOKS = {p: json.loads(p.read_text(encoding="utf-8")) for p in visible(NBS, "*.ipynb")}
LESSONS = {
    p: nb for p, nb in NOTEBOOKS.items() if p.parent.name not in ("experiments", "guides") and p.name != "index.ipynb"
}


# ---- who may import whom


def imports(path, whole=True):
    "Absolute names of what a module imports; whole=False: only at import time."
    here, found = list(path.relative_to(ROOT).with_suffix("").parts), []

    def walk(node):
        if not whole and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.Import):
            found.extend(a.name for a in node.names)
        if isinstance(node, ast.ImportFrom):
            base = (
                ".".join(here[: len(here) - node.level]) + "." * bool(node.level and node.module) if node.level else ""
            )
            found.extend([f"{base}{node.module}"] if node.module else [f"{base}.{a.name}" for a in node.names])
            if (base + (node.module or "")) == "hsr_nb":
                found.extend(f"hsr_nb.{a.name}" for a in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree(path))
    return found


def test_imports_follow_the_table():
    faults = []
    for path in MODULES:
        package = path.relative_to(LIB).parts[0]
        if package == "__init__.py":
            allowed, package = set(), None
        elif package not in MAY_IMPORT:
            faults.append(f"{at(path)}: the package {package} is not in the table")
            continue
        else:
            allowed = {package, *MAY_IMPORT[package].split()}
        used = {name.split(".")[1] for name in imports(path) if name.startswith("hsr_nb.")} - {"__version__"}
        faults += [
            f"{at(path)} imports {name}, which {package or 'hsr_nb/__init__.py'} may not"
            for name in sorted(used - allowed)
        ]
    report(faults)


def test_the_table_has_no_circles():
    order = list(MAY_IMPORT)
    assert all(order.index(low) < order.index(high) for high, lows in MAY_IMPORT.items() for low in lows.split())


def test_what_modules_import_at_import_time():
    faults = []
    for path in MODULES:
        allowed = (
            CORE_OF.get(path.relative_to(LIB).parts[0], CORE)
            | set(sys.stdlib_module_names)
            | {"hsr_nb"}
            | ({"triton"} if path.parent == KERNELS else set())
        )
        faults += [
            f"{at(path)} imports {n} when it is imported; import it inside a function"
            for n in imports(path, whole=False)
            if n.split(".")[0] not in allowed
        ]
    report(faults)


def test_every_import_has_its_requirement():
    cfg = settings()
    wanted = {
        re.split(r"[<>=!~\[]", r)[0].lower()
        for key in cfg
        if key.endswith("requirements") and key != "dev_requirements"
        for r in cfg[key].split()
    }
    used = {n.split(".")[0]: path for path in MODULES for n in imports(path)}
    known = {*sys.stdlib_module_names, "hsr_nb", "triton"}  # triton comes with torch
    report(
        [
            f"{at(p)} imports {n}, which settings.ini does not name"
            for n, p in used.items()
            if n not in known and REQUIREMENT.get(n, n).lower() not in wanted
        ]
    )


def test_importing_loads_little_and_changes_nothing():
    "In a fresh process: nets first, then every module."
    script = """
import importlib, json, os, sys, torch
before = os.environ.copy(), torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
torch_alone = set(sys.modules)
import hsr_nb.nets
nets = sorted({m.split('.')[0] for m in set(sys.modules) - torch_alone} - set(sys.stdlib_module_names))
kernels = [m for m in sys.modules if m.startswith('hsr_nb.ops.kernels')]
for m in sys.argv[1:]: importlib.import_module(m)
after = os.environ.copy(), torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
print(json.dumps(dict(nets=nets, kernels=kernels, all=sorted({m.split('.')[0] for m in sys.modules}), same=before == after)))
"""
    modules = [
        p for p in MODULES if p.parent != KERNELS or p.name == "__init__.py" or importlib.util.find_spec("triton")
    ]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in modules]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(ROOT)}
    r = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, env=env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    found = json.loads(r.stdout)
    assert found["nets"] == ["hsr_nb"], f"import hsr_nb.nets loads more than torch, numpy and itself: {found['nets']}"
    assert not found["kernels"], f"import hsr_nb.nets loads {found['kernels']}, which need Triton"
    heavy = {
        "timm",
        "matplotlib",
        "IPython",
        "sklearn",
        "tyro",
        "torchvision",
        "pandas",
        "lmdb",
        "nbdev",
        "fastcore",
        "ipywidgets",
        "papermill",
        "torchmetrics",
    }
    assert not heavy & set(found["all"]), f"importing the package loads {sorted(heavy & set(found['all']))}"
    assert found["same"], (
        "importing the package changes the environment, torch's random state, threads, dtype or grad mode"
    )


def test_no_module_has_the_name_of_something_its_package_exports():
    faults = []
    for init in LIB.glob("*/__init__.py"):
        names = {
            a.asname or a.name for node in ast.walk(tree(init)) if isinstance(node, ast.ImportFrom) for a in node.names
        }
        faults += [
            f"{at(init)} re-exports {p.stem}, and there is a module of that name"
            for p in init.parent.glob("*.py")
            if p.stem in names
        ]
    report(faults)


def test_nothing_executes_a_file():
    "No pickle, eval or exec anywhere; torch.load only with weights_only=True."
    faults = []
    for path in MODULES:
        faults += [
            f"{at(path)} imports {n}"
            for n in imports(path)
            if n.split(".")[0] in ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
        ]
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            name, keys = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in ("eval", "exec", "os.system") or keys.get("shell") == "True":
                faults.append(f"{at(path)}:{node.lineno} calls {name}")
            if name.endswith("torch.load") and keys.get("weights_only") != "True":
                faults.append(f"{at(path)}:{node.lineno} calls torch.load without weights_only=True")
            if name.endswith("np.load") and keys.get("allow_pickle") == "True":
                faults.append(f"{at(path)}:{node.lineno} calls np.load with allow_pickle=True")
    report(faults)


def test_console_scripts_exist():
    for line in settings()["console_scripts"].split():
        module, function = line.split("=")[1].split(":")
        body = tree((ROOT / module.replace(".", "/")).with_suffix(".py")).body
        assert any(isinstance(n, ast.FunctionDef) and n.name == function for n in body), line


def test_run_py_needs_nothing_but_python():
    assert {n.split(".")[0] for n in imports(ROOT / "run.py")} <= set(sys.stdlib_module_names)


# ---- notebooks and package


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    "A copy of the notebooks, exported and cleaned by nbdev."
    pytest.importorskip("nbdev", reason="nbdev is for development only")
    out = tmp_path_factory.mktemp("rebuilt")
    shutil.copy(ROOT / "settings.ini", out)
    for p in NOTEBOOKS:
        (out / p.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(p, out / p.relative_to(ROOT))
    script = (
        "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()"
    )
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # nbdev_export does nothing inside nbdev_test
    shutil.copy(ROOT / "ruff.toml", out)
    ruff = [sys.executable, "-m", "ruff"]
    for command in (
        [sys.executable, "-c", script],
        [*ruff, "check", "--quiet", "--select", "I", "--fix", "hsr_nb"],
        [*ruff, "format", "--quiet", "hsr_nb"],
    ):
        r = subprocess.run(command, cwd=out, env=env, capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
    return out


def test_package_is_what_the_notebooks_export(rebuilt):
    "Except __init__.py files, which are written by hand, and _modidx.py while it is not in the repository."
    index = {LIB / "_modidx.py"} & set(tracked())
    old = {p.relative_to(LIB): p.read_text(encoding="utf-8") for p in [*MODULES, *index] if p.name != "__init__.py"}
    new = {
        p.relative_to(rebuilt / "hsr_nb"): p.read_text(encoding="utf-8")
        for p in (rebuilt / "hsr_nb").rglob("*.py")
        if p.name != "__init__.py"
    }
    if not index:
        new.pop(Path("_modidx.py"), None)
    faults = [f"hsr_nb/{p} comes from no notebook" for p in sorted(old.keys() - new.keys())] + [
        f"hsr_nb/{p} is missing" for p in sorted(new.keys() - old.keys())
    ]
    for p in sorted(p for p in old.keys() & new.keys() if old[p] != new[p]):
        change = [
            line
            for line in difflib.unified_diff(old[p].splitlines(), new[p].splitlines(), lineterm="", n=0)
            if line[0] in "+-" and line[1:].strip() and line[:3] not in ("+++", "---")
        ]
        faults.append(f"hsr_nb/{p} differs from its notebook (+), first in: {[*change, 'blank lines'][0]}")
    report(faults and [*faults, "edit the notebook, then python3 run.py export"])


def test_notebooks_are_clean(rebuilt):
    report(
        [
            f"{at(p)} is not clean: python3 run.py export"
            for p in NOTEBOOKS
            if p.read_bytes() != (rebuilt / p.relative_to(ROOT)).read_bytes()
        ]
    )


def test_notebooks_parse():
    faults = []
    for p, nb in NOTEBOOKS.items():
        ids, kinds = [c.get("id") for c in nb["cells"]], {c["cell_type"] for c in nb["cells"]}
        if (nb["nbformat"], nb["nbformat_minor"]) < (4, 5) or None in ids or len(set(ids)) < len(ids):
            faults.append(f"{at(p)}: cells need ids of their own (notebook format 4.5)")
        if not kinds <= {"raw", "markdown", "code"}:
            faults.append(f"{at(p)}: unknown kinds of cells {kinds}")
        if nb["metadata"].get("kernelspec", {}).get("name") != "python3":
            faults.append(f"{at(p)}: the kernel is not python3")
        for i, c in enumerate(nb["cells"]):
            if c["cell_type"] != "code":
                continue
            try:
                ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", source(c)))
            except SyntaxError as e:
                faults.append(f"{at(p)}, cell {i}: {e}")
            faults += [
                f"{at(p)}, cell {i}: a stored error, {o['ename']}" for o in c["outputs"] if o["output_type"] == "error"
            ]
    report(faults)


def test_lessons_begin_with_title_claim_and_module():
    faults = []
    for p, nb in LESSONS.items():
        first, code = source(nb["cells"][0]), next(source(c) for c in nb["cells"] if c["cell_type"] == "code")
        if not re.match(r"# \S.*\n\n> \S", first):
            faults.append(f"{at(p)}: the first cell is not a title and a claim")
        if not (m := re.match(r"#\| default_exp (\S+)\s*$", code)):
            faults.append(f"{at(p)}: the first code cell names no module")
        elif m[1] != ".".join([*p.parent.relative_to(NBS).parts, p.stem]):
            faults.append(f"{at(p)} exports to {m[1]}: folder and file name say otherwise")
    report(faults)


def test_experiments_are_for_papermill():
    faults = []
    for p, nb in NOTEBOOKS.items():
        if p.parent.name != "experiments":
            continue
        if nb["cells"][0]["cell_type"] != "raw" or "skip_exec: true" not in source(nb["cells"][0]):
            faults.append(f"{at(p)}: no front matter with skip_exec: true")
        if sum("parameters" in c["metadata"].get("tags", []) for c in nb["cells"]) != 1:
            faults.append(f"{at(p)}: not exactly one cell tagged parameters")
        if any(re.search(r"(?m)^#\|\s*eval:\s*false", source(c)) for c in nb["cells"]):
            faults.append(f"{at(p)}: papermill ignores eval: false")
        if any(re.search(r"(?m)^#\|\s*export", source(c)) for c in nb["cells"]):
            faults.append(f"{at(p)}: an experiment exports nothing")
    report(faults)


def test_guides_are_pages():
    faults = []
    for p, nb in NOTEBOOKS.items():
        if p.parent.name != "guides":
            continue
        first = next(source(c) for c in nb["cells"] if c["cell_type"] != "raw")
        if not re.match(r"# \S.*\n\n> \S", first):
            faults.append(f"{at(p)}: the first cell is not a title and a claim")
        if any(re.search(r"(?m)^#\|\s*(?:export|default_exp)", source(c)) for c in nb["cells"]):
            faults.append(f"{at(p)}: a guide exports nothing")
    report(faults)


def test_stored_outputs_are_small():
    size = {p: sum(len(json.dumps(c.get("outputs", []))) for c in nb["cells"]) for p, nb in NOTEBOOKS.items()}
    report([f"{at(p)}: {n // 1000} kB of stored outputs, at most 200" for p, n in size.items() if n >= 200_000])


# Size is measured in thought, not in newlines: after formatting, how much stands in a module, a function, a line.
ARITHMETIC = ("data/synthfaces/", "ops/kernels/")  # the face painter and the kernels: formulas are their subject
MODULE_LINES, FUNCTION_LINES, CELL_LINES, NODES_A_LINE = 400, 60, 60, 12


def nodes_a_line(path):
    "Syntax nodes per line of code."
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    code = [line for line in lines if not line.lstrip().startswith("#")]
    return sum(1 for _ in ast.walk(tree(path))) / len(code)


def test_modules_functions_and_lines_are_small():
    faults = []
    for p in MODULES:
        name = p.relative_to(LIB).as_posix()
        if p.name == "__init__.py":
            continue
        lines = len(p.read_text(encoding="utf-8").splitlines())
        if lines > MODULE_LINES:
            faults.append(f"{at(p)}: {lines} lines, at most {MODULE_LINES}")
        if name.startswith(ARITHMETIC):
            continue
        density = nodes_a_line(p)
        if density > NODES_A_LINE:
            faults.append(f"{at(p)}: {density:.1f} syntax nodes a line, at most {NODES_A_LINE}")
        for node in ast.walk(tree(p)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > FUNCTION_LINES:
                faults.append(f"{at(p)}: {node.name} has {node.end_lineno - node.lineno + 1} lines, at most 60")
    for p, nb in LESSONS.items():
        if p.relative_to(NBS).as_posix().startswith(ARITHMETIC):
            continue
        for i, c in enumerate(nb["cells"]):
            lines = len(source(c).splitlines()) - 1
            if c["cell_type"] == "code" and re.match(r"#\| exporti?\b", source(c)) and lines > CELL_LINES:
                faults.append(f"{at(p)}, cell {i}: {lines} exported lines, at most {CELL_LINES}")
    report(faults)


def test_readme_is_made_from_the_index():
    spec = importlib.util.spec_from_file_location("run_py", ROOT / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    assert (ROOT / "README.md").read_text(encoding="utf-8") == run.readme_text(), (
        "README.md differs from nbs/index.ipynb: python3 run.py readme"
    )


# ---- files


def test_workflow_and_other_yaml_parse():
    for p in tracked():
        if p.suffix in (".yml", ".yaml"):
            assert isinstance(yaml.safe_load(p.read_text(encoding="utf-8")), dict), at(p)


def test_no_large_generated_or_lock_files():
    files = tracked()
    report([f"{at(p)}: {p.stat().st_size / MB:.1f} MB, at most 8" for p in files if p.stat().st_size > 8 * MB])
    unwanted = re.compile(
        r"(^|/)(uv\.lock|\.ipynb_checkpoints|__pycache__|_proc|_docs|runs|\.venv)(/|$)|^nbs/(nbdev|sidebar)\.yml$|\.(pkl|pt|pth|pickle)$"
    )
    report([f"{at(p)} does not belong into the repository" for p in files if unwanted.search(at(p))])


def test_weights_have_cards():
    files = sorted((LIB / "weights").glob("*.safetensors"))
    assert sum(p.stat().st_size for p in files) < 8 * MB
    assert {p.stem for p in files} == {p.stem for p in (LIB / "weights").glob("*.json")}, (
        "a network without a card, or a card without a network"
    )
    others = [p for p in tracked() if p.suffix == ".safetensors" and p.parent != LIB / "weights"]
    report([f"{at(p)}: weights belong into hsr_nb/weights, with a card" for p in others])
    for p in files:
        card = json.loads(p.with_suffix(".json").read_text(encoding="utf-8"))
        assert card["name"] == p.stem and card["sha256"] == hashlib.sha256(p.read_bytes()).hexdigest(), at(p)


def test_nothing_private_in_tracked_files():
    "No paths of a machine, addresses of people, or addresses of package registries. Class brackets keep the patterns from finding themselves."
    private = {
        "a path of a machine": r"(?<![\w.$}~/-])/(?:[h]ome|[U]sers|[r]oot|[w]ork|[m]nt|[s]cratch)/\w[\w.-]*|[C]:\\+[U]sers",
        "an e-mail address": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|io|dev|gov|ai|ac|de|uk|fr|ch|in|cn|jp|example)\b",
        "a package registry": r"https?://[^\s\"')]*(?:[p]ypi\.|[p]ythonhosted\.|[p]ypi/|/[s]imple\b|[a]rtifactory|[n]exus|[r]egistry\.[n]pmjs|[c]onda\.|download\.[p]ytorch)|--(?:extra-)?[i]ndex-url",
    }
    faults = []
    for p in tracked():
        if p.suffix in (".png", ".jpg", ".safetensors", ".gif", ".zip") or p.name == "LICENSE":
            continue
        text = p.read_text(encoding="utf-8")
        if p.suffix == ".ipynb":
            text = json.dumps(
                [
                    [
                        c["source"],
                        [
                            {k: v for k, v in o.get("data", o).items() if not k.startswith("image/")}
                            for o in c.get("outputs", [])
                        ],
                    ]
                    for c in json.loads(text)["cells"]
                ],
                ensure_ascii=False,
            )
        faults += [
            f"{at(p)}: {what}, {m[0]!r}" for what, pattern in private.items() for m in re.finditer(pattern, text)
        ]
    for p, nb in NOTEBOOKS.items():
        said = json.dumps(
            [
                {k: v for k, v in o.get("data", o).items() if not k.startswith("image/")}
                for c in nb["cells"]
                for o in c.get("outputs", [])
            ]
        )
        faults += [
            f"{at(p)}: a temporary path in an output, {m[0]!r}"
            for m in re.finditer(r"/(?:tmp|var/folders|private)/\w[\w.-]*|ipykernel_\d+", said)
        ]
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
    for t in tables.values():
        keys = [c["key"] for c in t["columns"]]
        assert (
            t["source"]
            and t["rows"]
            and len(set(keys)) == len(keys)
            and all(set(r["values"]) <= set(keys) for r in t["rows"])
        ), t["id"]
    assert tables["hsr_ffhq140k"]["rows"][1]["values"] == {
        "fid": 3.74,
        "precision": 0.68,
        "recall": 0.48,
        "ppl": 144.59,
    }


def test_measured_numbers_say_where_they_come_from():
    for p in sorted((ROOT / "data/results").glob("*.json")):
        result = json.loads(p.read_text(encoding="utf-8"))
        assert {"name", "device", "git", "versions", "config", "rows"} <= set(result), at(p)
        assert result["rows"] and p.stem.startswith(f"{result['name']}-"), at(p)
