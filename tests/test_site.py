"""The documentation site, as far as it can be checked without Quarto: sidebar, links, anchors, pictures, and what nbdev makes of every notebook."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from test_repository import LESSONS, NBS, NOTEBOOKS, ROOT, at, report, source, tracked, visible

QMD = visible(NBS, "*.qmd")
PAGES = [*NOTEBOOKS, *QMD]


def whole(page):
    "All Markdown of a page: its prose, and what its code said as Markdown."
    if page not in NOTEBOOKS:
        return page.read_text(encoding="utf-8")

    def outputs(c):
        return [
            "".join(o["data"]["text/markdown"]) for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})
        ]

    return "\n\n".join(
        t for c in NOTEBOOKS[page]["cells"] for t in ([source(c)] if c["cell_type"] == "markdown" else outputs(c))
    )


@cache
def text(page):
    "The Markdown of a page, without blocks of code."
    return re.sub(r"(?ms)^[ \t]*```.*?^[ \t]*```[ \t]*$", "", whole(page))


def prose():
    "(file, Markdown without any code) of every page and .md file."
    return [(p, re.sub(r"`[^`\n]*`", "", text(p))) for p in [*PAGES, *(p for p in tracked() if p.suffix == ".md")]]


def settings_of_site():
    return yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))


# ---- links, anchors, pictures

LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|(?:href|src)=\"([^\"]+)\"|(?m:^\s*\[[^\]]+\]:\s*(\S+))"
)


def local(page, target):
    "The file that a link leads to; None for addresses elsewhere."
    if re.match(r"[a-z][a-z0-9+.-]*:", target, re.I):
        return None
    path = unquote(re.split(r"[#?]", target)[0])
    if not path:
        return page
    place = NBS / path[1:] if path.startswith("/") else page.parent / path
    return place.with_suffix(".ipynb") if place.suffix == ".html" and not place.exists() else place


def slug(heading):
    "The id that Quarto gives a heading: text alone, small letters, hyphens, from the first letter on."
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", plain).strip()))


@cache
def anchors(page):
    "The ids on a page. A notebook's title is no heading of its page."
    heads = re.findall(r"(?m)^(#{1,6})\s+(.+?)\s*$", text(page))
    heads = [h for i, (level, h) in enumerate(heads) if page.suffix == ".md" or len(level) > 1 or i]
    seen, ids = (
        Counter(),
        set(re.findall(r"\{[^}\n]*#([\w-]+)", text(page))) | set(re.findall(r"\bid=\"([^\"]+)\"", text(page))),
    )
    for s in map(slug, heads):
        ids.add(f"{s}-{seen[s]}" if seen[s] else s)
        seen[s] += 1
    return ids


def test_ids_of_headings():
    assert (
        slug("What `ws` is, and 2 × 2") == "what-ws-is-and-2-2" and slug("3.1 [A link](x.html) *here*") == "a-link-here"
    )


def test_links_lead_somewhere():
    faults = []
    for p, said in prose():
        for m in LINK.finditer(said):
            target = m[1] or m[2] or m[3]
            place, _, anchor = local(p, target), *target.partition("#")[1:]
            if place is None:
                continue
            if not place.exists():
                faults.append(f"{at(p)} links to {target}, which does not exist")
            elif p in PAGES and not place.resolve().is_relative_to(NBS):
                faults.append(f"{at(p)} links to {target}, which is not on the site")
            elif anchor and place.suffix in (".ipynb", ".qmd", ".md") and anchor not in anchors(place.resolve()):
                faults.append(f"{at(p)} links to {target}, and there is no such heading")
    report(faults)


def test_pictures_have_alt_text():
    faults = [
        f"{at(p)}: a picture without alt text, {m[0]}"
        for p, said in prose()
        for m in re.finditer(r"!\[\s*\]\([^)]*\)", said)
    ]
    faults += [
        f"{at(p)}: a picture without alt text, {m[0]}"
        for p, said in prose()
        for m in re.finditer(r"<img\b[^>]*>", said)
        if not re.search(r"alt=[\"'][^\"']", m[0])
    ]
    for p, nb in NOTEBOOKS.items():  # plots of the guides, too
        if p.parent.name != "guides":
            continue
        faults += [
            f"{at(p)}, cell {i}: a plot without #| fig-alt:"
            for i, c in enumerate(nb["cells"])
            if any(k.startswith("image/") for o in c.get("outputs", []) for k in o.get("data", {}))
            and not re.search(r"(?m)^#\| fig-alt: \S", source(c))
        ]
    report(faults)


def test_widget_state_is_not_stored():
    "Half a megabyte of pixels that no page can show again; the contact sheet is what stays. A notebook that was executed with nbclient or Lab has it until it is taken out."
    report(
        [
            f"{at(p)}: stores the state of widgets; delete widgets from its metadata"
            for p, nb in NOTEBOOKS.items()
            if "widgets" in nb["metadata"]
        ]
    )


def test_pictures_of_pages_are_small():
    report(
        [
            f"{at(p)}: {p.stat().st_size // 1000} kB, at most 200"
            for p in visible(NBS / "images", "*")
            if p.stat().st_size > 200_000
        ]
    )


# ---- commands


def commands():
    "(page, words) of every command of ours in a block of shell code; comments and continued lines are resolved."
    for p in [*PAGES, *(p for p in tracked() if p.suffix == ".md")]:
        for block in re.findall(r"(?ms)^[ \t]*```sh\n(.*?)^[ \t]*```", whole(p)):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                at_ = next((i for i, w in enumerate(words) if w.startswith("hsr_") or w == "papermill"), None)
                if at_ is not None:
                    yield p, words[at_:]


def understood(words):
    "Raise unless a command's program, settings and notebook exist."
    import tyro

    from hsr_nb.base.shell import options
    from hsr_nb.data.convert import ConvertConfig
    from hsr_nb.explore.generate import GenerateConfig
    from hsr_nb.interop.convert import ConvertConfig as NetworkConfig
    from hsr_nb.studies.evaluate import EvalConfig
    from hsr_nb.studies.sweep import SweepConfig
    from hsr_nb.survey.command import Command
    from hsr_nb.training.cli import parse

    name, args = words[0], words[1:]
    if name == "hsr_train":
        return parse(args)
    if name == "hsr_survey":
        return options(Command, name)(args)
    if name == "papermill":
        given = {args[i + 1].split(":")[0] for i, a in enumerate(args) if a in ("-p", "-r", "-y")}
        (cell,) = [
            source(c)
            for c in NOTEBOOKS[ROOT / next(a for a in args if a.startswith("nbs/"))]["cells"]
            if "parameters" in c["metadata"].get("tags", [])
        ]
        unknown = given - set(re.findall(r"(?m)^(\w+) *=", cell))
        assert not unknown, f"the notebook has no parameters {sorted(unknown)}"
        return
    configs = {
        "hsr_data": ConvertConfig,
        "hsr_generate": GenerateConfig,
        "hsr_eval": EvalConfig,
        "hsr_sweep": SweepConfig,
        "hsr_convert": NetworkConfig,
    }
    tyro.cli(
        configs[name],
        args=args,
        config=(tyro.conf.PositionalRequiredArgs,) if name in ("hsr_eval", "hsr_generate", "hsr_convert") else (),
    )


def test_commands_on_pages_are_understood(capsys):
    "Nothing is run; names of programs, settings, notebooks and parameters are checked."
    pytest.importorskip("tyro")
    found, faults = list(commands()), []
    for p, words in found:
        try:
            understood(words)
        except (SystemExit, ValueError, KeyError, AssertionError) as e:
            faults.append(f"{at(p)}: {shlex.join(words)}: {capsys.readouterr().err.strip()[-200:] or e}")
    assert len(found) > 10
    report(faults)
    with pytest.raises(ValueError):
        understood(["hsr_train", "tiny31"])
    with pytest.raises(AssertionError):
        understood(["papermill", "nbs/experiments/train.ipynb", "out.ipynb", "-p", "kimgs", "1"])


# ---- sidebar and settings


def named(value):
    "Every page or file that a Quarto configuration names."
    if isinstance(value, dict):
        return [
            x
            for k, v in value.items()
            for x in ([v] if k in ("href", "file", "css", "logo", "favicon") and isinstance(v, str) else named(v))
        ]
    if isinstance(value, list):
        return [
            x
            for v in value
            for x in ([v] if isinstance(v, str) and v.endswith((".ipynb", ".qmd", ".md")) else named(v))
        ]
    return []


def test_every_page_is_on_the_sidebar_once():
    listed = Counter(named(settings_of_site()["website"]["sidebar"]))
    there = {p.relative_to(NBS).as_posix() for p in PAGES}
    report(
        [f"{p} is missing in the sidebar of _quarto.yml" for p in sorted(there - listed.keys())]
        + [f"the sidebar of _quarto.yml names {p}, which does not exist" for p in sorted(listed.keys() - there)]
        + [f"the sidebar of _quarto.yml names {p} {n} times" for p, n in listed.items() if n > 1]
    )


def test_site_settings():
    site, build = settings_of_site(), yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))
    assert site["project"] == {"type": "website", "output-dir": "_docs"}
    # sidebar.yml, which nbdev writes in the order of file names, would be added to the sidebar that is written by hand
    assert build == {"project": {"type": "website"}, "metadata-files": ["../_quarto.yml", "nbdev.yml"]}
    report([f"_quarto.yml names {t}, which does not exist" for t in named(site) if not (NBS / t).exists()])


def test_pages_keep_their_addresses_apart():
    "nbdev leaves the number of a file out of the page's address."
    seen = Counter((p.parent, re.sub(r"^\d+[a-zA-Z0-9]*_", "", p.stem.lower())) for p in PAGES)
    report([f"{at(folder)}/{name}.html would be {n} pages" for (folder, name), n in seen.items() if n > 1])


def test_code_on_plain_pages_is_not_run():
    "A .qmd page has code to read; what is run lives in notebooks."
    report(
        [
            f"{at(p)}: Quarto would run {m[0]}"
            for p in QMD
            for m in re.finditer(r"(?m)^```\{(?!\.).*$", p.read_text(encoding="utf-8"))
        ]
    )


# ---- the page that sets published and measured numbers side by side


def reproduce(results):
    "What the page says in Markdown, executed on a folder of results."
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    nb = nbformat.read(NBS / "guides/reproduce.ipynb", 4)
    (cell,) = [c for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    cell.source += f"\nresults = {str(results)!r}"
    nbclient.NotebookClient(nb, kernel_name="python3", resources={"metadata": {"path": str(NBS / "guides")}}).execute()
    return "\n\n".join(
        "".join(o["data"]["text/markdown"])
        for c in nb.cells
        for o in c.get("outputs", [])
        if "text/markdown" in o.get("data", {})
    )


def test_reproduce_page_shows_the_results_that_are_there():
    said = "\n\n".join(
        "".join(o["data"]["text/markdown"])
        for c in NOTEBOOKS[NBS / "guides/reproduce.ipynb"]["cells"]
        for o in c.get("outputs", [])
        if "text/markdown" in o.get("data", {})
    )
    assert said == reproduce(ROOT / "data/results"), (
        "data/results has changed: execute nbs/guides/reproduce.ipynb again and clean it (nbdev_clean)"
    )


def result(folder, name, config, rows):
    "A result file like those that the notebooks write."
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(
        json.dumps(
            {
                "name": name,
                "device": "a device",
                "git": "0123",
                "versions": {"torch": "2"},
                "config": config,
                "rows": rows,
            }
        )
    )


def test_reproduce_page_reads_every_kind_of_result(tmp_path):
    "Numbers chosen here come out in the right cells; without files every cell of ours says so."
    from hsr_nb.studies.sweep import SweepConfig, result_name

    none = reproduce(tmp_path)
    assert none.count("not measured") > 20 and "nothing yet" in none

    def score(plr, hsr, seed):
        return {
            "fid[judge]": 8.0 - 2 * plr - hsr + 0.1 * seed,
            "ppl2_wend[maps-judge]": 20.0 - 5 * plr - 2 * hsr + seed,
        }

    result(
        tmp_path,
        result_name(SweepConfig(axis="plr_hsr")),
        {"baseline_kimg": 2, "axis": "plr_hsr", "arms": {"plr_on-hsr_off": {"loss.pl_weight": 7}}},
        [
            {"plr": p, "hsr": h, "seed": s, "kimg": 24, "seconds": 60.0} | score(p, h, s)
            for s in (0, 1, 2)
            for p in (False, True)
            for h in (False, True)
        ],
    )
    als = [
        {
            "pair": i,
            "sigma": "own, recomputed",
            "attribute": a,
            "baseline": 2.0 + i,
            "+ HSR": 1.0 + i,
            "difference": [-1, -1, -1],
        }
        for i in (0, 1)
        for a in ("gender", "mean")
    ]
    over = [
        {
            "pair": "all",
            "sigma": "own, recomputed",
            "attribute": a,
            "pairs": 2,
            "difference": -1,
            "low": -1.25,
            "high": -0.75,
            "reduction_percent": 40.0,
        }
        for a in ("gender", "mean")
    ]
    result(tmp_path, "als", {"paths": 1000, "bank": "judge"}, als + over)
    result(
        tmp_path,
        "frechet-ffhq-hsr",
        {
            "data": {"name": "ffhq256"},
            "training_seconds": 7200.0,
            "kimg": 25000,
            "n": 35000,
            "hsr": "dino_vitb16",
            "scores": {"fid": 3.75, "precision": 0.5, "ppl2_wend": 150.25},
        },
        [{"what": "generated", "fid": 3.75}],
    )
    said = reproduce(tmp_path)
    assert "path-length weight of 7" in said

    def line(start):
        return next(l for l in said.splitlines() if l.startswith(start))

    assert (
        "12 min of training" in line("| [Interplay")
        and "120 min of training" in line("| [FFHQ-140k")
        and "not recorded" in line("| [Attribute")
        and "not measured" in line("| [LSUN")
    )
    assert (
        line("| neither |").split(" | ")[3:] == ["8.1", "21 |"]
        and "6.1 (-24.7 %, -2 [-2, -2])" in line("| PLR |")
        and "14 (-33.3 %, -7 [-7, -7])" in line("| PLR + HSR |")
    )
    assert (
        line("| baseline, ours").startswith("| baseline, ours | 2.50 |")
        and line("| reduction, ours").startswith("| reduction, ours | 40.0 % |")
        and "[-1.25, -0.75]" in line("| difference, 95 %")
    )
    assert "3.75 (`fid`)" in line("| + HSR, ours, 25000 kimg") and "150.2 (`ppl2_wend`)" in line(
        "| + HSR, ours, 25000 kimg"
    )


# ---- building


def docs(root, path):
    return subprocess.run(
        [sys.executable, "run.py", "docs", "--here"],
        cwd=root,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )


def test_docs_without_quarto_says_how_to_get_it(tmp_path):
    r = docs(ROOT, str(tmp_path))
    assert r.returncode and len(r.stderr.strip().splitlines()) == 1 and "quarto.org" in r.stderr and not r.stdout


def public(path):
    "Names of the public functions and classes that a notebook exports."
    cells = [
        source(c)
        for c in NOTEBOOKS[path]["cells"]
        if c["cell_type"] == "code" and re.match(r"#\|\s*exports?\s*$", source(c).split("\n")[0])
    ]
    return [
        n.name
        for s in cells
        for n in ast.parse(s).body
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != "_"
    ]


@pytest.mark.slow
def test_docs_hands_every_page_to_quarto(tmp_path):
    "With a stand-in for Quarto: nbdev gets through every notebook, and every module page has its API."
    pytest.importorskip("nbdev", reason="nbdev is for development only")
    root, stub = tmp_path / "copy", tmp_path / "bin" / "quarto"
    skip = shutil.ignore_patterns(".*", "_proc", "_docs", "runs", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, root, ignore=skip)
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\ntest "$1" = render && mkdir ../pages && cp -r . ../pages && mv ../pages _docs\n')
    stub.chmod(0o755)
    r = docs(root, f"{stub.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert r.returncode == 0, (r.stdout + r.stderr)[-3000:]
    assert not (root / "_proc").exists() and (root / "README.md").read_text(encoding="utf-8") == (
        ROOT / "README.md"
    ).read_text(encoding="utf-8")
    faults = [f"{at(p)} did not reach Quarto" for p in PAGES if not (root / "_docs" / p.relative_to(NBS)).is_file()]
    for p in LESSONS:
        page = root / "_docs" / p.relative_to(NBS)
        shown = (
            ""
            if not page.is_file()
            else json.dumps(
                [o for c in json.loads(page.read_text(encoding="utf-8"))["cells"] for o in c.get("outputs", [])]
            )
        )
        faults += [
            f"{at(p)}: {n} is not documented"
            for n in public(p)
            if not re.search(rf"### {n}\b", shown.replace("\\\\_", "_"))
        ]
    report(faults)
