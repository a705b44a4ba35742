"""The documentation site, as far as it can be checked without Quarto: sidebar, links, pictures, and nbdev's part."""

import ast
import base64
import importlib
import importlib.util
import io
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
from repository import LESSONS, NBS, NOTEBOOKS, ROOT, at, report, source, tracked, visible

from hsr_nb.base.shell import options

QMD = visible(NBS, "*.qmd")
PAGES = [*NOTEBOOKS, *QMD]


def site_pages():
    "site_pages.py of the repository's root."
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = site_pages()


def markdown_outputs(cell):
    "What a cell's code said as Markdown."
    outputs = [o.get("data", {}) for o in cell.get("outputs", [])]
    return ["".join(data["text/markdown"]) for data in outputs if "text/markdown" in data]


def whole(page):
    "All Markdown of a page: its prose, and what its code said as Markdown."
    if page not in NOTEBOOKS:
        return page.read_text(encoding="utf-8")
    parts = []
    for cell in NOTEBOOKS[page]["cells"]:
        parts += [source(cell)] if cell["cell_type"] == "markdown" else markdown_outputs(cell)
    return "\n\n".join(parts)


@cache
def text(page):
    "The Markdown of a page, without blocks of code."
    return re.sub(r"(?ms)^[ \t]*```.*?^[ \t]*```[ \t]*$", "", whole(page))


def pages_and_texts():
    "Every page of the site, and the .md files of the repository."
    return [*PAGES, *(p for p in tracked() if p.suffix == ".md")]


def prose():
    "(file, Markdown without any code) of every page and .md file."
    return [(p, re.sub(r"`[^`\n]*`", "", text(p))) for p in pages_and_texts()]


def settings_of_site():
    return yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))


# ---- links, anchors, pictures

INLINE = r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)"  # [text](target "title")
HTML = r"(?:href|src)=\"([^\"]+)\""
REFERENCE = r"(?m:^\s*\[[^\]]+\]:\s*(\S+))"  # [name]: target
LINK = re.compile(f"{INLINE}|{HTML}|{REFERENCE}")


def local(page, target):
    "The file that a link leads to; None for addresses elsewhere."
    if re.match(r"[a-z][a-z0-9+.-]*:", target, re.I):
        return None
    path = unquote(re.split(r"[#?]", target)[0])
    if not path:
        return page
    place = NBS / path[1:] if path.startswith("/") else page.parent / path
    is_made_of_a_notebook = place.suffix == ".html" and not place.exists()
    return place.with_suffix(".ipynb") if is_made_of_a_notebook else place


def slug(heading):
    "The id that Quarto gives a heading: text alone, small letters, hyphens, from the first letter on."
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower()
    words = re.sub(r"[^\w\s.-]", "", plain).strip()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", words))


@cache
def anchors(page):
    "The ids on a page. A notebook's title is no heading of its page."
    said = text(page)
    ids = set(re.findall(r"\{[^}\n]*#([\w-]+)", said)) | set(re.findall(r"\bid=\"([^\"]+)\"", said))
    headings = re.findall(r"(?m)^(#{1,6})\s+(.+?)\s*$", said)
    if page.suffix != ".md" and headings and headings[0][0] == "#":
        del headings[0]
    seen = Counter()
    for _, heading in headings:
        name = slug(heading)
        ids.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return ids


def test_ids_of_headings():
    assert slug("What `ws` is, and 2 × 2") == "what-ws-is-and-2-2"
    assert slug("3.1 [A link](x.html) *here*") == "a-link-here"


def fault_of(page, target):
    "What is wrong with a link of a page, in a clause; None where nothing is."
    place = local(page, target)
    anchor = target.partition("#")[2]
    if place is None:
        return None
    if not place.exists():
        return "which does not exist"
    if page in PAGES and not place.resolve().is_relative_to(NBS):
        return "which is not on the site"
    if anchor and place.suffix in (".ipynb", ".qmd", ".md") and anchor not in anchors(place.resolve()):
        return "and there is no such heading"
    return None


def test_links_lead_somewhere():
    faults = []
    for page, said in prose():
        for m in LINK.finditer(said):
            target = m[1] or m[2] or m[3]
            if fault := fault_of(page, target):
                faults.append(f"{at(page)} links to {target}, {fault}")
    report(faults)


def has_a_picture(cell):
    return any(kind.startswith("image/") for o in cell.get("outputs", []) for kind in o.get("data", {}))


def test_pictures_have_alt_text():
    faults = []
    for page, said in prose():
        mute = re.findall(r"!\[\s*\]\([^)]*\)", said)
        mute += [tag for tag in re.findall(r"<img\b[^>]*>", said) if not re.search(r"alt=[\"'][^\"']", tag)]
        faults += [f"{at(page)}: a picture without alt text, {picture}" for picture in mute]
    for page, nb in NOTEBOOKS.items():  # plots of the guides, too
        if page.parent.name != "guides":
            continue
        for i, cell in enumerate(nb["cells"]):
            if has_a_picture(cell) and not re.search(r"(?m)^#\| fig-alt: \S", source(cell)):
                faults.append(f"{at(page)}, cell {i}: a plot without #| fig-alt:")
    report(faults)


def test_widget_state_is_not_stored():
    """Half a megabyte of pixels that no page can show again; the contact sheet is what stays.

    A notebook that was executed with nbclient or Lab has it until it is taken out."""
    stored = [p for p, nb in NOTEBOOKS.items() if "widgets" in nb["metadata"]]
    report([f"{at(p)}: stores the state of widgets; delete widgets from its metadata" for p in stored])


def test_pictures_of_pages_are_small():
    faults = []
    for p in visible(NBS / "images", "*"):
        most = 2000 if p.suffix == ".gif" else 200  # a film may be larger than a picture
        size = p.stat().st_size // 1000
        if size > most:
            faults.append(f"{at(p)}: {size} kB, at most {most}")
    report(faults)


# ---- commands


def commands():
    "(page, words) of every command of ours in a block of shell code; comments and continued lines are resolved."
    for page in pages_and_texts():
        for block in re.findall(r"(?ms)^[ \t]*```sh\n(.*?)^[ \t]*```", whole(page)):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                names = [word.startswith("hsr_") and word != "hsr_nb" or word == "papermill" for word in words]
                ours = [i for i, is_ours in enumerate(names) if is_ours]
                if ours:
                    yield page, words[ours[0] :]


def understood(words):
    "Raise unless a command's program, settings and notebook exist."
    name, args = words[0], words[1:]
    if name == "hsr_train":
        from hsr_nb.training.cli import parse

        parse(args)
    elif name == "hsr_survey":
        from hsr_nb.survey.command import Command

        options(Command, name)(args)
    elif name == "papermill":
        require_parameters(args)
    elif name.startswith("hsr_nb."):  # python -m
        from hsr_nb.studies.companions import ShipConfig
        from hsr_nb.studies.demo_runs import DemoConfig
        from hsr_nb.studies.editor_fits import FitsConfig
        from hsr_nb.studies.evidence import EvidenceConfig
        from hsr_nb.studies.few_images import FewImagesConfig
        from hsr_nb.studies.pair import PairConfig
        from hsr_nb.studies.recipe import RecipeConfig

        own = {"few_images": FewImagesConfig, "recipe": RecipeConfig, "evidence": EvidenceConfig, "pair": PairConfig}
        own |= {"companions": ShipConfig, "demo_runs": DemoConfig, "editor_fits": FitsConfig}
        options(own[name.removeprefix("hsr_nb.studies.")], name)(args)
    else:
        require_settings(name, args)


def require_parameters(args):
    "Raise unless the notebook that papermill is to run has the parameters given."
    given = {args[i + 1].split(":")[0] for i, word in enumerate(args) if word in ("-p", "-r", "-y")}
    notebook = next(word for word in args if word.startswith("nbs/"))
    unknown = given - set(re.findall(r"(?m)^(\w+) *(?::[^=\n]+)?=", parameters_of(ROOT / notebook)))
    assert not unknown, f"the notebook has no parameters {sorted(unknown)}"


def parameters_of(notebook):
    "The source of a notebook's one cell of parameters."
    (cell,) = [c for c in NOTEBOOKS[notebook]["cells"] if "parameters" in c["metadata"].get("tags", [])]
    return source(cell)


def require_settings(name, args):
    "Raise unless a command that takes a dataclass knows the settings given."
    import tyro

    from hsr_nb.data.convert import ConvertConfig
    from hsr_nb.explore.edit import EditConfig
    from hsr_nb.explore.generate import GenerateConfig
    from hsr_nb.interop.convert import ConvertConfig as NetworkConfig
    from hsr_nb.inversion.command import InvertConfig
    from hsr_nb.studies.evaluate import EvalConfig
    from hsr_nb.studies.sweep import SweepConfig

    configs = {
        "hsr_data": ConvertConfig,
        "hsr_generate": GenerateConfig,
        "hsr_eval": EvalConfig,
        "hsr_sweep": SweepConfig,
        "hsr_convert": NetworkConfig,
        "hsr_invert": InvertConfig,
        "hsr_edit": EditConfig,
    }
    positional = name in ("hsr_eval", "hsr_generate", "hsr_convert", "hsr_invert", "hsr_edit")
    how = (tyro.conf.PositionalRequiredArgs,) if positional else ()
    tyro.cli(configs[name], args=args, config=how)


def test_commands_on_pages_are_understood(capsys):
    "Nothing is run; names of programs, settings, notebooks and parameters are checked."
    pytest.importorskip("tyro")
    found = list(commands())
    faults = []
    for page, words in found:
        try:
            understood(words)
        except (SystemExit, ValueError, KeyError, AssertionError) as e:
            reason = capsys.readouterr().err.strip()[-200:] or e
            faults.append(f"{at(page)}: {shlex.join(words)}: {reason}")
    assert len(found) > 10
    report(faults)
    with pytest.raises(ValueError):
        understood(["hsr_train", "tiny31"])
    with pytest.raises(AssertionError):
        understood(["papermill", "nbs/experiments/train.ipynb", "out.ipynb", "-p", "kimgs", "1"])


# ---- sidebar and settings


FILE_KEYS = ("href", "file", "css", "logo", "favicon")


def named(value):
    "Every page or file that a Quarto configuration names."
    found = []
    if isinstance(value, dict):
        for key, v in value.items():
            found += [v] if key in FILE_KEYS and isinstance(v, str) else named(v)
    if isinstance(value, list):
        for v in value:
            is_page = isinstance(v, str) and v.endswith((".ipynb", ".qmd", ".md"))
            found += [v] if is_page else named(v)
    return found


def test_every_page_is_on_the_sidebar_once():
    listed = Counter(named(settings_of_site()["website"]["sidebar"]))
    there = {p.relative_to(NBS).as_posix() for p in PAGES} | set(SITE.MADE)
    faults = [f"{p} is missing in the sidebar of _quarto.yml" for p in sorted(there - listed.keys())]
    faults += [f"the sidebar of _quarto.yml names {p}, which does not exist" for p in sorted(listed.keys() - there)]
    faults += [f"the sidebar of _quarto.yml names {p} {n} times" for p, n in listed.items() if n > 1]
    report(faults)


def test_site_settings():
    site = settings_of_site()
    build = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))
    assert site["project"] == {"type": "website", "output-dir": "_docs", "resources": ["strips", "llms.txt"]}
    # sidebar.yml, which nbdev writes in the order of file names, would be added to the sidebar that is written by hand
    assert build == {"project": {"type": "website"}, "metadata-files": ["../_quarto.yml", "nbdev.yml"]}
    there = [t for t in named(site) if t in SITE.MADE or (NBS / t).exists()]
    report([f"_quarto.yml names {t}, which does not exist" for t in named(site) if t not in there])
    html = site["format"]["html"]
    assert set(html["theme"]) == {"light", "dark"} and html["lightbox"] and html["code-overflow"] == "wrap"


def test_pages_keep_their_addresses_apart():
    "nbdev leaves the number of a file out of the page's address."
    seen = Counter((p.parent, re.sub(r"^\d+[a-zA-Z0-9]*_", "", p.stem.lower())) for p in PAGES)
    report([f"{at(folder)}/{name}.html would be {n} pages" for (folder, name), n in seen.items() if n > 1])


def test_code_on_plain_pages_is_not_run():
    "A .qmd page has code to read; what is run lives in notebooks."
    faults = []
    for page in QMD:
        run = re.findall(r"(?m)^```\{(?!\.).*$", page.read_text(encoding="utf-8"))
        faults += [f"{at(page)}: Quarto would run {fence}" for fence in run]
    report(faults)


# ---- the page that sets published and measured numbers side by side


REPRODUCE = NBS / "guides/reproduce.ipynb"


def reproduce(results):
    "What the page says in Markdown, executed on a folder of results."
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    nb = nbformat.read(REPRODUCE, 4)
    (cell,) = [c for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    cell.source += f"\nresults = {str(results)!r}"
    place = {"metadata": {"path": str(NBS / "guides")}}
    nbclient.NotebookClient(nb, kernel_name="python3", resources=place).execute()
    return "\n\n".join(said for c in nb.cells for said in markdown_outputs(c))


def test_reproduce_page_shows_the_results_that_are_there():
    stored = "\n\n".join(said for c in NOTEBOOKS[REPRODUCE]["cells"] for said in markdown_outputs(c))
    advice = "data/results has changed: execute nbs/guides/reproduce.ipynb again and clean it (nbdev_clean)"
    assert stored == reproduce(ROOT / "data/results"), advice


def test_numbers_on_the_page_of_questions_are_the_measured_ones():
    page = (ROOT / "nbs/guides/questions.qmd").read_text(encoding="utf-8")
    counted = json.loads((ROOT / "data/results/hsr-overhead-flops.json").read_text())["rows"]
    official, pooled, lazy = (round(100 * row["of_the_step"]) for row in counted[:3])
    assert f"adds {official} % to the arithmetic of a step" in page
    assert f"average first {pooled} %, and lazily {lazy} %" in page
    measured = json.loads((ROOT / "data/results/benchmark-auto-ada-nvidia-h200.json").read_text())["rows"]
    step = next(row for row in measured if row["what"] == "step")
    assert f"took {step['ms']:.0f} ms there, so {step['ms'] / 16:.1f} s per 1000 pictures" in page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.search(r"beside ten times that weight \| \| \+(\d+) % \[\+(\d+), \+(\d+)\]", readme)
    assert said and "by {} % [+{}, +{}]".format(*said.groups()) in page


def result(folder, name, config, rows):
    "A result file like those that the notebooks write."
    folder.mkdir(exist_ok=True)
    origin = {"device": "a device", "git": "0123", "versions": {"torch": "2"}}
    content = {"name": name, **origin, "config": config, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(content))


def put_ablation(folder):
    "Four arms on three seeds, with and without path-length penalty and HSR."
    from hsr_nb.studies.sweep_jobs import SweepConfig
    from hsr_nb.studies.sweep_tables import result_name

    rows = []
    for seed in (0, 1, 2):
        for plr in (False, True):
            for hsr in (False, True):
                scores = {
                    "fid[judge]": 8.0 - 2 * plr - hsr + 0.1 * seed,
                    "ppl2_wend[maps-judge]": 20.0 - 5 * plr - 2 * hsr + seed,
                }
                rows.append({"plr": plr, "hsr": hsr, "seed": seed, "kimg": 24, "seconds": 60.0, **scores})
    asked = {"baseline_kimg": 2, "axis": "plr_hsr", "arms": {"plr_on-hsr_off": {"loss.pl_weight": 7}}}
    result(folder, result_name(SweepConfig(axis="plr_hsr")), asked, rows)


def put_linearity(folder):
    "Two pairs of networks, and the mean of their differences."
    rows = []
    for pair in (0, 1):
        for attribute in ("gender", "mean"):
            found = {"baseline": 2.0 + pair, "+ HSR": 1.0 + pair, "difference": [-1, -1, -1]}
            rows.append({"pair": pair, "sigma": "own, recomputed", "attribute": attribute, **found})
    for attribute in ("gender", "mean"):
        found = {"pairs": 2, "difference": -1, "low": -1.25, "high": -0.75, "reduction_percent": 40.0}
        rows.append({"pair": "all", "sigma": "own, recomputed", "attribute": attribute, **found})
    result(folder, "als", {"paths": 1000, "bank": "judge"}, rows)


def put_scores(folder):
    "One trained network with its scores."
    asked = {
        "data": {"name": "ffhq256"},
        "training_seconds": 7200.0,
        "kimg": 25000,
        "n": 35000,
        "hsr": "dino_vitb16",
        "scores": {"fid": 3.75, "precision": 0.5, "ppl2_wend": 150.25},
    }
    result(folder, "frechet-ffhq-hsr", asked, [{"what": "generated", "fid": 3.75}])


def test_reproduce_page_reads_every_kind_of_result(tmp_path):
    "Numbers chosen here come out in the right cells; without files every cell of ours says so."
    none = reproduce(tmp_path)
    assert none.count("not measured") > 20 and "nothing yet" in none

    put_ablation(tmp_path)
    put_linearity(tmp_path)
    put_scores(tmp_path)
    said = reproduce(tmp_path)

    def line(start):
        return next(row for row in said.splitlines() if row.startswith(start))

    assert "path-length weight of 7" in said
    assert "12 min of training" in line("| [Interplay")
    assert "120 min of training" in line("| [FFHQ-140k")
    assert "not recorded" in line("| [Attribute")
    assert "not measured" in line("| [LSUN")
    assert line("| neither |").split(" | ")[3:] == ["8.1", "21 |"]
    assert "6.1 (-24.7 %, -2 [-2, -2])" in line("| PLR |")
    assert "14 (-33.3 %, -7 [-7, -7])" in line("| PLR + HSR |")
    assert line("| baseline, ours").startswith("| baseline, ours | 2.50 |")
    assert line("| reduction, ours").startswith("| reduction, ours | 40.0 % |")
    assert "[-1.25, -0.75]" in line("| difference, 95 %")
    assert "3.75 (`fid`)" in line("| + HSR, ours, 25000 kimg")
    assert "150.2 (`ppl2_wend`)" in line("| + HSR, ours, 25000 kimg")


# ---- what the rendered site would show, without rendering it


def titles():
    "{title: the notebooks of that title}."
    found = {}
    for path, nb in NOTEBOOKS.items():
        found.setdefault(SITE.title_and_claim(nb)[0], []).append(path)
    return found


def test_titles_are_titles_and_each_is_one_page_s():
    "The sidebar, the tab and the search show them: no file names, no two alike."
    faults = []
    for title, pages in titles().items():
        if len(pages) > 1:
            faults.append(f"{title!r} is the title of {', '.join(map(at, pages))}")
        is_a_file_name = title == pages[0].stem and pages[0].name != "index.ipynb"
        if is_a_file_name or not re.match(r"[A-Z]", title) and pages[0].name != "index.ipynb":
            faults.append(f"{at(pages[0])}: {title!r} is no title")
    report(faults)


def is_shown(cell):
    "Whether the site shows anything of a code cell, apart from its outputs: its code, or a signature."
    first = source(cell).split("\n")[0]
    if re.match(r"#\|\s*(hide|exporti)\b", first):
        return False
    if not re.match(r"#\|\s*export\s*$", first):
        return True
    body = ast.parse(source(cell)).body
    return any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != "_" for n in body)


def test_sentences_that_point_down_point_at_something():
    "nbdev hides exported cells and shows the signatures of what is public: private helpers vanish."
    faults = []
    for path, nb in NOTEBOOKS.items():
        for above, below in zip(nb["cells"], nb["cells"][1:]):
            points = above["cell_type"] == "markdown" and source(above).rstrip().endswith(":")
            if points and below["cell_type"] == "code" and not is_shown(below):
                said = source(above).rstrip()[-60:]
                faults.append(f"{at(path)}: {said!r} stands above a cell that the site hides; say #| exports")
    report(faults)


def symbols():
    "(module, name, object) of every function and class that the site documents."
    has_triton = importlib.util.find_spec("triton")
    for path in LESSONS:
        module = ".".join(["hsr_nb", *path.relative_to(NBS).with_suffix("").parts])
        names = public(path)
        if names and (has_triton or "kernels" not in module):
            loaded = importlib.import_module(module)
            for name in names:
                yield module, name, getattr(loaded, name)


def test_signatures_are_readable():
    "No link as raw Markdown in code, no type that only a None says, no address in memory; each has its source."
    pytest.importorskip("nbdev", reason="nbdev is for development only")
    pytest.importorskip("IPython")
    raw = "```python\ndef f(\n    taps:NoneType=None, # as `HSR`\n)\n```\n*Like `HSR`.*"
    assert SITE.readable("```python\nf(a:__main__.A | None=None)\n```") == "```python\nf(a:A | None=None)\n```"
    assert SITE.readable(raw) == "```python\ndef f(\n    taps=None, # as HSR\n)\n```\n*Like `HSR`.*"
    faults = []
    count = 0
    for module, name, symbol in symbols():
        shown = SITE.signature(symbol, name=name).data
        count += 1
        code = "".join(re.findall(r"(?s)```python\n(.*?)\n```", shown))
        for what in ("NoneType", "`", "](", " at 0x"):
            if what in code:
                faults.append(f"{module}.{name}: its signature shows {what!r}")
    assert count > 1000
    report(faults)


WIDE = 860  # pixels of the column of text
OLD_PICTURES = ("explore",)  # folders
FROM_RUNS = ("yardstick",)
# of nbs/experiments and guides: pictures stored before this rule, of runs that the repository does not hold


def may_be_small(path):
    is_of_runs = path.parent.name in ("experiments", "guides") and path.stem in FROM_RUNS
    return path.parent.name in OLD_PICTURES or is_of_runs


def density(picture):
    "The dots per inch that a PNG or JPEG names; None where it names none."
    place = picture[:4000].find(b"pHYs")
    if place > 0:
        return round(int.from_bytes(picture[place + 4 : place + 8], "big") * 0.0254)
    place = picture[:40].find(b"JFIF\0")
    if place > 0 and picture[place + 7] == 1:  # in inches
        return int.from_bytes(picture[place + 8 : place + 10], "big")
    return None


def stored_plots(cell):
    "(width in pixels, dots per inch or None) of the stored pictures of a cell."
    from PIL import Image

    for output in cell.get("outputs", []):
        for kind in ("image/png", "image/jpeg"):
            if data := output.get("data", {}).get(kind):
                picture = base64.b64decode("".join(data))
                yield Image.open(io.BytesIO(picture)).width, density(picture)


def test_plots_are_sharp_and_fit_the_column():
    """matplotlib writes the dots per inch into a file; at 100 of them a type of 7 points is 10 pixels high.

    Sheets of faces name none: they have no type that must stay readable."""
    faults = []
    for path, nb in NOTEBOOKS.items():
        for i, cell in enumerate(nb["cells"]):
            for width, dpi in stored_plots(cell):
                if dpi and width > WIDE:
                    faults.append(f"{at(path)}, cell {i}: a picture {width} pixels wide, the column has {WIDE}")
                if dpi and dpi < 100 and not may_be_small(path):
                    faults.append(f"{at(path)}, cell {i}: a plot of {dpi} dots per inch, at least 100")
    report(faults)


def test_the_density_of_a_plot_is_read(tmp_path):
    from PIL import Image

    for suffix in ("png", "jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}", dpi=(70, 70))
        assert density((tmp_path / f"a.{suffix}").read_bytes()) == 70


SMALL_TYPE = re.compile(
    r"\b(?:fontsize|labelsize|title_fontsize)=([0-6](?:\.\d+)?)\b"
    r"|\bdpi(?:=|\"\] = |\": )([1-9]\d)\b(?!\d)"
)


def test_type_in_plots_is_readable():
    for small in ("fontsize=6", "dpi=80", 'plt.rcParams["figure.dpi"] = 70', '{"figure.dpi": 60}'):
        assert SMALL_TYPE.search(small)
    faults = []
    for path, nb in NOTEBOOKS.items():
        for i, cell in enumerate(nb["cells"]):
            if cell["cell_type"] == "code" and not may_be_small(path):
                found = SMALL_TYPE.finditer(source(cell))
                faults += [f"{at(path)}, cell {i}: {m[0]}, at least 7 and dpi=100" for m in found]
    report(faults)


def test_at_most_three_plots_stand_in_a_row():
    "On a phone four are unreadable. Rows of pictures have no axes to read."
    wide = re.compile(r"subplots\([^,()]+, ([4-9]|1\d)\b")
    assert wide.search("plt.subplots(2, 4, figsize=(8, 3))") and not wide.search("plt.subplots(4, 3, figsize=(8, 3))")
    faults = []
    for path, nb in NOTEBOOKS.items():
        for i, cell in enumerate(nb["cells"]):
            of_pictures = any(word in source(cell) for word in ("imshow", "picture_strip", "xticks=[], yticks=[]"))
            if cell["cell_type"] == "code" and wide.search(source(cell)) and not of_pictures and not may_be_small(path):
                faults.append(f"{at(path)}, cell {i}: more than three plots in a row")
    report(faults)


def test_every_picture_gets_a_description():
    "Where a cell does not say one, the site takes the sentence above."
    faults = []
    for path, nb in NOTEBOOKS.items():
        copy = json.loads(json.dumps(nb))
        SITE.describe_pictures(copy)
        for i, cell in enumerate(copy["cells"]):
            if has_a_picture(cell) and not re.search(r"(?m)^#\| fig-alt: \S.{8,}", source(cell)):
                faults.append(f"{at(path)}, cell {i}: a picture without a description")
    report(faults)


def test_experiments_fold_what_shows_nothing():
    "Code with outputs and the parameters stay open; what was folded is the same code."
    nb = json.loads(json.dumps(NOTEBOOKS[NBS / "experiments/train.ipynb"]))
    SITE.fold(nb)
    folded = {}
    for old, new in zip(NOTEBOOKS[NBS / "experiments/train.ipynb"]["cells"], nb["cells"]):
        if source(old) != source(new):
            folded[new["id"]] = source(new)
            assert not old["outputs"] and source(new).endswith(source(old))
    assert any('code-summary: "Imports"' in text for text in folded.values()) and len(folded) >= 3
    assert not any("run_dir: str" in text for text in folded.values())


def test_code_in_a_link_is_not_linked_again():
    said = "See [`fid` and `kid`](fidelity.ipynb), `fid` alone and [a page](x.ipynb).\n```sh\n[`a`](b)\n```\n"
    html = said.replace("[`fid` and `kid`]", "[<code>fid</code> and <code>kid</code>]")
    assert SITE.linked_code(said) == html


def test_everyday_words_are_not_linked_to_functions_of_their_name():
    code = "from hsr_nb.base.pictures import gif\n\n\ndef draw():\n    pass"
    stays = "; `load_generator`, `G.mapping` and `Editor` stay.\n"
    said = f"`run` says `count` of `gif`, and `draw()` or `parameters()`{stays}"
    html = f"<code>run</code> says <code>count</code> of `gif`, and `draw()` or <code>parameters()</code>{stays}"
    assert SITE.plain_words(said, code) == html
    block = "```sh\n`run`\n```\n"
    assert SITE.plain_words(block, code) == block


def test_made_pages_name_every_page():
    "Gallery, index of the API and llms.txt come from the notebooks alone."
    listed = [page for _, pages in SITE.sections() for page in pages]
    there = {p.relative_to(NBS).as_posix() for p in NOTEBOOKS} - {"index.ipynb"}
    assert set(listed) == there and len(set(listed)) == len(listed)
    said = SITE.llms(NBS)
    pages = [*listed, *(p.relative_to(NBS).as_posix() for p in NBS.glob("guides/*.qmd"))]
    report([f"llms.txt lacks {page}" for page in pages if page.rsplit(".", 1)[0] + ".html" not in said])
    index = SITE.api(NBS)
    report([f"the index lacks {name}" for p in LESSONS for name in public(p) if f"[`{name}`]" not in index])


def test_no_progress_bar_is_stored():
    "A bar that stood still when its notebook was stored says nothing to a reader."
    faults = []
    for path, nb in NOTEBOOKS.items():
        for i, cell in enumerate(nb["cells"]):
            if any(SITE.is_bar(output) for output in cell.get("outputs", [])):
                faults.append(f"{at(path)}: cell {i} stores a progress bar: python3 run.py export")
    report(faults)
    bar = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": ["latents:  75%|####   | 12/16 [00:03<00:01]"]}
    slider = bar | {"text/plain": ["FloatSlider(value=0.0)"]}
    assert SITE.is_bar({"data": bar}) and not SITE.is_bar({"data": slider})


def test_installing_cells_follow_git_url():
    faults = []
    for path, nb in NOTEBOOKS.items():
        page = path.relative_to(NBS).as_posix()
        wanted = [SITE.install_cell()] if SITE.takes_install_cell(page) else []
        if [source(c) for c in nb["cells"] if 'find_spec("hsr_nb")' in source(c)] != wanted:
            faults.append(f"{at(path)}: not the installing cell of settings.ini's git_url: python3 run.py export")
    report(faults)
    assert SITE.colab_address("nets/mapping.ipynb").endswith("/blob/main/nbs/nets/mapping.ipynb")


STRIPS = NBS / "strips"


def strips():
    "What the sliders of the site know."
    text = (STRIPS / "strips.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("window.HSR_STRIPS = ").rstrip(";\n"))


def test_strips_are_those_of_the_shipped_networks():
    from hsr_nb.interop import load_generator
    from hsr_nb.nets.seeds import generator_hash

    parameters = parameters_of(NBS / "experiments/strips.ipynb")
    for name, made in strips()["made"]["networks"].items():
        network = re.search(rf"(?m)^{name}: str = \"([^\"]+)\"", parameters)[1]
        advice = "papermill -k python3 nbs/experiments/strips.ipynb runs/strips.ipynb"
        assert generator_hash(load_generator(network)) == made, f"{network} has changed: {advice}"


def test_sliders_are_small_and_ask_nobody():
    files = list(STRIPS.iterdir())
    assert sum(f.stat().st_size for f in files) < 1_500_000
    for file in files:
        if file.suffix in (".html", ".js"):
            assert not re.search(r"https?://|fetch\(|import\(|XMLHttp", file.read_text(encoding="utf-8")), at(file)
    about = strips()
    for readings in about["readings"].values():
        assert set(readings) == set(about["attributes"]) == set(about["strengths"])
        assert all(len(row) == about["positions"] for rows in readings.values() for row in rows)
    assert len(about["answers"]) == 6 and sum(about["answers"]) == 3


FIGURES = NBS / "figures"


def default_of(parameters, name):
    "The text that a parameter of a notebook has as its default."
    return re.search(rf"(?m)^{name}: str = \"([^\"]+)\"", parameters)[1]


def sources_now():
    "The hash of everything that a figure can be made from, as it is now, by the names of figures.json."
    from hsr_nb.base.whole import sha256
    from hsr_nb.data import SynthFaces
    from hsr_nb.editing.methods import METHODS
    from hsr_nb.editing.shelf import shipped_editor
    from hsr_nb.judges.attributes import load_bank
    from hsr_nb.judges.cards import embedded, read_card
    from hsr_nb.nets.seeds import generator_hash
    from hsr_nb.studies.evidence_scores import RENDERINGS_SEED
    from hsr_nb.studies.figure_pair import editor_hash, open_pair
    from hsr_nb.studies.teacher_view import own_heads

    parameters = parameters_of(NBS / "experiments/figures.ipynb")
    names = [default_of(parameters, name) for name in ("baseline", "hsr")]
    pair = open_pair(*names)
    G = pair.networks["HSR"]
    now = {file.name: sha256(file) for file in (ROOT / "data").rglob("*.json")} | pair.sources
    now["heads HSR"] = generator_hash(own_heads(names[1], G))
    for name in embedded():
        now[f"judge {name}"] = now[f"teacher {name}"] = read_card(name)["sha256"]
    finder = load_bank(default_of(parameters, "finder")).reliable(side=pair.side)
    for method in METHODS:
        now[f"editor {method}"] = editor_hash(shipped_editor(method, 10_000, G, finder))
    count = int(re.search(r"(?m)^renderings: int = (\d+)", parameters)[1])
    drawn = SynthFaces(pair.side, count, seed=RENDERINGS_SEED)
    return now | {f"pictures {drawn.name}": drawn.identity["sha256"]}


def stale_figures(about, now):
    "A sentence for each source of a figure that is not what it was made from."
    advice = "papermill -k python3 nbs/experiments/figures.ipynb runs/figures.ipynb"
    faults = []
    for name, figure in about.items():
        changed = [what for what, digest in figure["sources"].items() if now.get(what) != digest]
        faults += [f"the figure {name}: {what} has changed: {advice}" for what in changed]
    return faults


def test_figures_are_those_of_their_sources():
    "A result, network, judge, teacher, editor or data set that has changed without its figures is found by its hash."
    from hsr_nb.base.whole import sha256

    about = json.loads((FIGURES / "figures.json").read_text(encoding="utf-8"))
    now = sources_now()
    faults = stale_figures(about, now)
    for figure in about.values():
        if sha256(FIGURES / figure["file"]) != figure["sha256"]:
            faults.append(f"nbs/figures/{figure['file']} is not what figures.json says")
        if not figure["sources"]:
            faults.append(f"nbs/figures/{figure['file']} has no source")
    files = {f.name for f in FIGURES.iterdir()} - {"figures.json"}
    assert files == {figure["file"] for figure in about.values()}
    report(faults)
    used = {what for figure in about.values() for what in figure["sources"]}
    for kind in ("network", "heads", "judge", "teacher", "editor", "pictures", "ablation"):  # each is looked at
        what = min(name for name in used if name.startswith(kind))
        assert stale_figures(about, now | {what: "another"}), what


def test_figures_name_all_that_they_were_made_from():
    "By the kind of figure: who drew, who judged, who edited."
    about = json.loads((FIGURES / "figures.json").read_text(encoding="utf-8"))
    judge, finder = "judge synthfaces-attributes-b", "judge synthfaces-attributes"
    methods = [f"editor {method}" for method in ("interfacegan", "ganspace", "styleflow", "l2l")]
    wanted = {
        "idea": ["network baseline", "network HSR", "heads HSR", "teacher synthfaces-tiny"],
        "same-latents": ["network baseline", "network HSR", judge, "pictures synthfaces"],
        "attribute-curve": ["network baseline", "network HSR", judge],
        "z-and-w": ["network baseline", "network HSR", judge],
        "many-steps": ["network baseline", "network HSR", finder],
        "watched-age": ["network baseline", "network HSR", finder, judge],
        "by-methods": ["network HSR", finder, *methods],
        "density-walks": ["network HSR", finder, "editor dplase"],
    }
    report([f"{name} lacks {s}" for name, names in wanted.items() for s in names if s not in about[name]["sources"]])


def test_figures_are_small_and_each_is_shown():
    sizes = {f.name: f.stat().st_size for f in FIGURES.iterdir()}
    assert max(sizes.values()) <= 500_000 and sum(sizes.values()) <= 12_000_000
    shown = whole(NBS / "experiments/figures.ipynb")
    report(
        [
            f"experiments/figures does not show {name}"
            for name in sizes
            if f"../figures/{name}" not in shown and name != "figures.json"
        ]
    )


# ---- building


def docs(root, path):
    command = [sys.executable, "run.py", "docs", "--here"]
    return subprocess.run(command, cwd=root, env=os.environ | {"PATH": path}, capture_output=True, text=True)


def test_docs_without_quarto_says_how_to_get_it(tmp_path):
    r = docs(ROOT, str(tmp_path))
    assert r.returncode and len(r.stderr.strip().splitlines()) == 1 and "quarto.org" in r.stderr and not r.stdout


def public(path):
    "Names of the public functions and classes that a notebook exports."
    names = []
    for cell in NOTEBOOKS[path]["cells"]:
        first = source(cell).split("\n")[0]
        if cell["cell_type"] == "code" and re.match(r"#\|\s*exports?\s*$", first):
            body = ast.parse(source(cell)).body
            names += [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return [name for name in names if name[0] != "_"]


def shown_on(page):
    "All that the outputs of a page show."
    if not page.is_file():
        return ""
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return json.dumps([o for cell in cells for o in cell.get("outputs", [])]).replace("\\\\_", "_")


QUARTO = """#!/bin/sh
test "$1" = render && mkdir ../pages && cp -r . ../pages && mv ../pages _docs
"""


@pytest.mark.slow
def test_docs_hands_every_page_to_quarto(tmp_path):
    "With a stand-in for Quarto: nbdev gets through every notebook, and every module page has its API."
    pytest.importorskip("nbdev", reason="nbdev is for development only")
    root = tmp_path / "copy"
    skip = shutil.ignore_patterns(".*", "_proc", "_docs", "runs", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, root, ignore=skip)
    quarto = tmp_path / "bin" / "quarto"
    quarto.parent.mkdir()
    quarto.write_text(QUARTO)
    quarto.chmod(0o755)
    r = docs(root, f"{quarto.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert r.returncode == 0, (r.stdout + r.stderr)[-3000:]
    assert not (root / "_proc").exists()
    readme, same = (root / "README.md"), (ROOT / "README.md")
    assert readme.read_text(encoding="utf-8") == same.read_text(encoding="utf-8")
    faults = [f"{at(p)} did not reach Quarto" for p in PAGES if not (root / "_docs" / p.relative_to(NBS)).is_file()]
    for page in LESSONS:
        shown = shown_on(root / "_docs" / page.relative_to(NBS))
        missing = [name for name in public(page) if not re.search(rf"### {name}\b", shown)]
        faults += [f"{at(page)}: {name} is not documented" for name in missing]
    report(faults)


def test_every_promise_has_its_test():
    "The page of refusals names tests that there are."
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (NBS / "guides/refuses.qmd").read_text(encoding="utf-8"))
    assert len(named) > 15
    missing = []
    for file, function in named:
        body = (ROOT / "tests" / file).read_text(encoding="utf-8")
        if f"def {function}(" not in body:
            missing.append(f"{file} has no {function}")
    report(missing)


def test_every_weight_has_a_whole_card_and_stands_on_its_page():
    "What it is, what it cannot do, the licence; the page shows each file's hash."
    weights = ROOT / "hsr_nb/weights"
    shown = whole(NBS / "guides/weights.ipynb")
    faults = []
    cards = [path for path in sorted(weights.rglob("*.json")) if path.with_suffix(".safetensors").is_file()]
    for path in cards:
        card = json.loads(path.read_text(encoding="utf-8"))
        limits = card.get("limits") or card.get("holds") or card["role"] in ("generator", "heads")  # theirs are counted
        if not limits or not card.get("licence") or not card.get("what"):
            faults.append(f"{at(path)} lacks what, limits or licence")
        if card["sha256"] not in shown:
            faults.append(f"guides/weights.ipynb does not show {card['name']}: execute it again")
    assert len(cards) == len(list(weights.rglob("*.safetensors"))) > 20
    report(faults)


def test_where_controls_cannot_live_the_page_shows_their_twin_and_says_so():
    "As in Colab: a contact sheet in place of the explorer, and a sentence."
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    page = nbformat.read(NBS / "experiments/explore.ipynb", 4)
    (shown,) = [
        i for i, c in enumerate(page.cells) if c.cell_type == "code" and "explorer = LatentExplorer(" in c.source
    ]
    cells = page.cells[: shown + 1]
    colab = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')"
    page.cells = [nbformat.v4.new_code_cell(colab), *(c for c in cells if c.get("id") != "install")]
    place = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(page, kernel_name="python3", resources=place, timeout=300).execute()
    outputs = page.cells[-1].outputs
    assert any("contact sheet shows the same state" in o.get("text", "") for o in outputs)
    assert any("image/png" in o.get("data", {}) for o in outputs)
