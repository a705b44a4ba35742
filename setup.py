"""Packaging, read from settings.ini (the file nbdev reads too)."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=["="])
cfg.read("settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]
extras = {
    name: cfg[f"{key}_requirements"].split()
    for name, key in (
        ("notebooks", "notebook"),
        ("cli", "cli"),
        ("data", "data"),
        ("explore", "explore"),
        ("survey", "survey"),
        ("export", "export"),
        ("sweep", "sweep"),
    )
}
extras["all"] = sum(extras.values(), [])
extras["dev"] = extras["all"] + cfg["dev_requirements"].split()

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=cfg["git_url"],
    packages=find_packages(include=["hsr_nb", "hsr_nb.*"]),
    package_data={"hsr_nb.weights": ["*"], "hsr_nb.survey": ["words.txt", "page.css", "page.js"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": [s.strip() for s in cfg["console_scripts"].splitlines() if s.strip()],
        "nbdev": ["hsr_nb=hsr_nb._modidx:d"],
    },
    zip_safe=False,
)
