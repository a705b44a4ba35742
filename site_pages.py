"""What the site shows beyond the notebooks as they stand; `run.py docs` calls this on its copy of the repository.

Standard library only, but for `signature`, which nbdev calls (`renderer` in settings.ini).
"""

import ast
import base64
import configparser
import json
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PICTURES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif"}
MADE = ("gallery.qmd", "api.qmd")  # pages that no file of the repository holds
MOVES = ("index.ipynb", "experiments/explore.ipynb")  # pages on which a reader moves sliders


@cache
def settings():
    cfg = configparser.ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def cell_of(kind, text, name):
    "A cell that is written by nobody."
    made = {"cell_type": kind, "id": name, "metadata": {}, "source": text}
    return made if kind == "markdown" else made | {"execution_count": None, "outputs": []}


# ---- signatures


def signature(symbol, name=None, title_level=3):
    "What nbdev shows of a function or class, readable."
    from IPython.display import Markdown
    from nbdev.showdoc import BasicMarkdownRenderer

    shown = BasicMarkdownRenderer(symbol, name=name, title_level=title_level)
    return Markdown(readable(shown._repr_markdown_()))


def readable(shown):
    "No backticks in the code of a signature, where they become raw links, and no type that only a None says."

    def plain(code):
        shorter = re.sub(r"\b(__main__|collections\.abc|typing)\.", "", code[0])
        return re.sub(r":\s*NoneType\b", "", shorter).replace("`", "")

    return re.sub(r"(?s)(?<=```python\n).*?(?=\n```)", plain, shown)


# ---- the notebooks


def title_and_claim(nb):
    first = next(source(c) for c in nb["cells"] if c["cell_type"] == "markdown")
    title, _, claim = first.partition("\n\n> ")
    return title.removeprefix("# ").strip(), claim.strip()


def colab_address(page):
    "Where Colab opens a page of a repository on GitHub; None for a repository elsewhere."
    git_url = settings()["git_url"]
    place = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)/?", git_url)
    if not place:
        return None
    return f"https://colab.research.google.com/github/{place[1]}/blob/{settings()['branch']}/nbs/{page}"


def install_cell():
    "The source of the cell that makes a notebook run where the package is not installed."
    return "\n".join(
        [
            "#| hide",
            "import importlib.util",
            "",
            'if importlib.util.find_spec("hsr_nb") is None:  # in Colab, say',
            f'    get_ipython().system("git clone -q --depth 1 {settings()["git_url"]} hsr_nb")',
            '    get_ipython().run_line_magic("cd", "hsr_nb")',
            '    get_ipython().run_line_magic("pip", "install -q \'.[all]\'")',
        ]
    )


def takes_install_cell(page):
    "Lessons and experiments; the guides speak of the repository in which they stand."
    return page != "index.ipynb" and not page.startswith("guides/")


def with_install_cell(nb):
    "The notebook with its installing cell in place: in a lesson after the cell that names the module."
    cells = [c for c in nb["cells"] if c["id"] != "install"]
    named = next((i for i, c in enumerate(cells) if source(c).startswith("#| default_exp")), None)
    if named is None:
        named = next(i for i, c in enumerate(cells) if c["cell_type"] == "markdown")
    made = cell_of("code", install_cell().splitlines(True), "install")
    return nb | {"cells": [*cells[: named + 1], made, *cells[named + 1 :]]}


def is_bar(output):
    "Whether an output is a progress bar, which is dead as soon as it is stored."
    data = output.get("data", {})
    shown = "".join(data.get("text/plain", ""))
    return "application/vnd.jupyter.widget-view+json" in data and re.search(r"\[\d+:\d\d", shown) is not None


def without_bars(nb):
    "The notebook without progress bars among its outputs."
    cells = [c | {"outputs": [o for o in c["outputs"] if not is_bar(o)]} if "outputs" in c else c for c in nb["cells"]]
    return nb | {"cells": cells}


def imports_for_the_lesson(text):
    "Whether a cell that exports nothing imports something."
    if re.search(r"(?m)^#\|\s*(default_exp|export|exporti|exports)\b", text):
        return False
    try:
        tree = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", text))
    except SyntaxError:
        return False
    return any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree))


def give_names(nb):
    "nbdev runs what imports something to show signatures: it gets all names at once, and skips the lesson's cells."
    sources = [source(c) for c in nb["cells"]]
    exports = [re.match(r"#\| default_exp (\S+)", s) for s in sources]
    first = next((i for i, m in enumerate(exports) if m), None)
    if first is None:
        return
    for cell, text in zip(nb["cells"], sources):
        if cell["cell_type"] == "code" and imports_for_the_lesson(text):
            cell["source"] = f"#| eval: false\n{text}"
    names = f"#| hide\nfrom hsr_nb.{exports[first][1]} import *"
    nb["cells"].insert(first + 1, cell_of("code", names, "names"))


def after_the_title(nb, text, name):
    place = next(i for i, c in enumerate(nb["cells"]) if c["cell_type"] == "markdown")
    nb["cells"].insert(place + 1, cell_of("markdown", text, name))


def sliders(page):
    "The HTML by which a page moves; its files lie in nbs/strips."
    up = "../" * page.count("/")
    html = (ROOT / "nbs/strips/sliders.html").read_text(encoding="utf-8").replace("STRIPS/", f"{up}strips/")
    return f"```{{=html}}\n{html}\n```"


def plain(markdown):
    "Markdown as a sentence for people who do not see the picture."
    text = re.sub(r"(?s)```.*?```|\$\$.*?\$\$|<[^>]+>|^[#>*|-]+ *", " ", markdown, flags=re.M)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = " ".join(re.sub(r"[`*$\\\"{}]", "", text).split())
    sentences = re.findall(r"[^.!?:]+[.!?:]?", text)
    return sentences[-1].strip(" .:") if sentences else ""


def describe_pictures(nb):
    "Give every picture a description: the cell's own, else the sentence above, else the claim of the page."
    claim = plain(title_and_claim(nb)[1])
    above = claim
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            last = plain(source(cell))
            above = last if len(last) > 12 else claim
        kinds = [kind for output in cell.get("outputs", []) for kind in output.get("data", {})]
        if any(kind.startswith("image/") for kind in kinds) and "#| fig-alt:" not in source(cell):
            cell["source"] = f'#| fig-alt: "{above}"\n{source(cell)}'


def shows_nothing_new(cell):
    "Why a cell of an experiment or a guide is folded, in a word or two; None where it stays open."
    text = source(cell)
    if (
        cell["cell_type"] != "code"
        or cell["outputs"]
        or "#|" in text
        or "parameters" in cell["metadata"].get("tags", [])
    ):
        return None
    if "Parameters(globals())" in text:
        return "Before the parameters"
    if "parameters.check(globals())" in text:
        return "After the parameters: their names and types are checked"
    lines = text.count("\n") + 1
    imports = sum(len(node.names) for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom)))
    if imports >= lines / 3:
        return "Imports"
    return f"Code, {lines} lines" if lines >= 12 else None


def fold(nb):
    "On pages of experiments and guides, close cells in which nothing is seen: pictures and tables come sooner."
    for cell in nb["cells"]:
        if why := shows_nothing_new(cell):
            cell["source"] = f'#| code-fold: true\n#| code-summary: "{why}"\n{source(cell)}'


def outside_blocks(markdown, change):
    "Markdown in which everything is changed but blocks of code."
    parts = re.split(r"(?ms)(^```.*?^```)", markdown)
    parts[::2] = [change(part) for part in parts[::2]]
    return "".join(parts)


def linked_code(markdown):
    "Code in the text of a link, in HTML: nbdev would put a second link into the first."

    def in_html(link):
        return "[" + re.sub(r"`([^`]+)`", r"<code>\1</code>", link[1]) + "]("

    return outside_blocks(markdown, lambda part: re.sub(r"\[([^\[\]]*`[^\[\]]*)\]\(", in_html, part))


def plain_words(markdown, code):
    "Everyday words in code type, in HTML, unless the page's code defines or imports them: nbdev would link every name."

    def in_html(word):
        name = word[1]
        own = re.search(rf"(?m)\b(?:def|class) {name}\b|import [^\n]*\b{name}\b|^\s+{name},$|^{name} =", code)
        return word[0] if own else f"<code>{name}{word[2] or ''}</code>"

    return outside_blocks(markdown, lambda part: re.sub(r"(?<!`)`([a-z]+)(\(\))?`(?!`)", in_html, part))


def prepare(file, page):
    "Change a notebook of the copy into what nbdev shall see."
    nb = read(file)
    give_names(nb)
    code = "\n".join(source(cell) for cell in nb["cells"] if cell["cell_type"] == "code")
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = plain_words(linked_code(source(cell)), code)
    describe_pictures(nb)
    if page.startswith(("experiments/", "guides/")):
        fold(nb)
    if page in MOVES:
        after_the_title(nb, sliders(page), "sliders")
    if takes_install_cell(page) and (address := colab_address(page)):
        after_the_title(nb, f"[Open in Colab]({address}){{.btn .btn-sm .btn-outline-primary .colab}}", "colab")
    file.write_text(json.dumps(nb, ensure_ascii=False, indent=1), encoding="utf-8")


# ---- pages that are made


def sections():
    "(section, [pages]) of the sidebar of _quarto.yml in its order, read without a YAML library."
    found = []
    for line in (ROOT / "_quarto.yml").read_text(encoding="utf-8").splitlines():
        if m := re.match(r"\s+- section: (.+)$", line):
            found.append((m[1], []))
        elif found and (m := re.match(r"\s+- (\S+\.ipynb)$", line)):
            found[-1][1].append(m[1])
    return found


def first_picture(nb):
    "(suffix, bytes) of the first stored picture of a notebook, or None."
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            for kind, suffix in PICTURES.items():
                if kind in output.get("data", {}):
                    return suffix, base64.b64decode("".join(output["data"][kind]))
    return None


def gallery(nbs):
    "One picture of every notebook that has one."
    parts = ["---\ntitle: Gallery\ntoc: true\n---\n\nOne picture of every page that has one; each leads to its page."]
    (nbs / "gallery").mkdir(exist_ok=True)
    for section, pages in sections():
        cards = []
        for page in pages:
            nb = read(nbs / page)
            if picture := first_picture(nb):
                title, claim = title_and_claim(nb)
                file = f"gallery/{page.removesuffix('.ipynb').replace('/', '-')}{picture[0]}"
                (nbs / file).write_bytes(picture[1])
                alt = claim.replace('"', "").replace("`", "")
                cards.append(
                    f'::: {{.card-of-page}}\n[![]({file}){{fig-alt="{alt}" .nolightbox}}\\\n{title}]({page})\n:::'
                )
        if cards:
            parts.append(f"## {section}\n\n::: {{.gallery}}\n" + "\n\n".join(cards) + "\n:::")
    return "\n\n".join(parts) + "\n"


def public(module):
    "(name, first line of its docstring) of what a module says is public, in the order of the file."
    tree = ast.parse(module.read_text(encoding="utf-8"))
    found = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
            said = (ast.get_docstring(node) or "").split("\n")[0]
            found.append((node.name, said))
    exported = next(
        (n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"), None
    )
    names = ast.literal_eval(exported.value) if exported else []
    return [(name, said) for name, said in found if name in names]


def api(nbs):
    "Every public name with the line that its docstring begins with."
    parts = ["---\ntitle: API index\n---\n\nEvery public function and class, by module, in the order of the story."]
    for section, pages in sections():
        rows = []
        for page in pages:
            module = ROOT / "hsr_nb" / Path(page).with_suffix(".py")
            for name, said in public(module) if module.is_file() else ():
                where = ".".join(Path(page).with_suffix("").parts)
                link = f"[`{name}`]({page}#{name.lower()})"
                rows.append(f"| {link} | `{where}` | {said.replace('|', chr(92) + '|')} |")
        if rows:
            head = "| name | module of `hsr_nb` | |\n|---|---|---|"
            parts.append("\n".join([f"## {section}", "", head, *rows]))
    return "\n\n".join(parts) + "\n"


def llms(nbs):
    "The site for readers that are programs: https://llmstxt.org."
    cfg = settings()
    site = cfg["doc_host"] + cfg["doc_baseurl"]
    parts = [f"# {cfg['title']}\n\n> {cfg['description']}"]
    for section, pages in sections():
        lines = [f"## {section}\n"]
        for page in pages:
            title, claim = title_and_claim(read(nbs / page))
            lines.append(f"- [{title}]({site}/{page.removesuffix('.ipynb')}.html): {claim}")
        parts.append("\n".join(lines))
    lines = ["## Pages without code\n"]
    for file in sorted(nbs.glob("guides/*.qmd")):
        text = file.read_text(encoding="utf-8")
        title, claim = (re.search(rf"(?m)^{key}: *(.+)$", text)[1] for key in ("title", "description"))
        lines.append(f"- [{title}]({site}/guides/{file.stem}.html): {claim}")
    parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def build(root):
    "All of it, in a copy of the repository."
    nbs = root / "nbs"
    for name, made in (("gallery.qmd", gallery), ("api.qmd", api), ("llms.txt", llms)):
        (nbs / name).write_text(made(nbs), encoding="utf-8")
    for file in sorted(nbs.rglob("*.ipynb")):
        prepare(file, file.relative_to(nbs).as_posix())


def tidy():
    "Put the installing cell into every notebook that takes it, and take dead progress bars out."
    for file in sorted((ROOT / "nbs").rglob("*.ipynb")):
        old = read(file)
        new = without_bars(old)
        if takes_install_cell(file.relative_to(ROOT / "nbs").as_posix()):
            new = with_install_cell(new)
        if new != old:
            file.write_text(json.dumps(new, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tidy() if sys.argv[1:] == ["tidy"] else build(Path(sys.argv[1]))
