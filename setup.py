"""Packaging, read from settings.ini (the file nbdev reads too)."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

extras = {
    name: cfg[f"{name}_requirements"].split()
    for name in ("cli", "data", "editing", "explore", "survey", "export", "sweep")
}
extras["notebooks"] = cfg["notebook_requirements"].split()
extras["all"] = sum(extras.values(), [])
extras["dev"] = extras["all"] + cfg["dev_requirements"].split()

readme = Path("README.md")

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=cfg["git_url"],
    packages=find_packages(include=["hsr_nb", "hsr_nb.*"]),
    package_data={
        "hsr_nb": ["py.typed"],
        "hsr_nb.commands": ["help/*.txt"],
        "hsr_nb.survey": ["words.txt", "page.css", "page.js"],
        "hsr_nb.weights": ["*", "editors/*", "encoders/*"],
    },
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": [s.strip() for s in cfg["console_scripts"].splitlines() if s.strip()],
        "nbdev": ["hsr_nb=hsr_nb._modidx:d"],
    },
    zip_safe=False,
)
