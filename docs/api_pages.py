"""Pages of the API reference, one per folder of the package, written while mkdocs builds the site."""

from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "weightgen"


def page(folder: Path) -> str:
    """Headings and docstrings of every public module of a folder; mkdocstrings fills them in."""
    package = ".".join(folder.relative_to(ROOT).parts)
    modules = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    summary = f"# {package}\n\n::: {package}\n    options: {{members: false, show_root_heading: false}}\n\n"
    options = "    options: {show_root_full_path: true}\n"
    return summary + "\n".join(f"::: {package}.{module}\n{options}" for module in modules)


nav = mkdocs_gen_files.Nav()
for path in sorted(PACKAGE.rglob("__init__.py")):
    name = ".".join(path.parent.relative_to(ROOT).parts)
    nav[name] = f"{name}.md"
    with mkdocs_gen_files.open(f"api/{name}.md", "w") as file:
        file.write(page(path.parent))
with mkdocs_gen_files.open("api/SUMMARY.md", "w") as file:
    file.writelines(nav.build_literate_nav())
with mkdocs_gen_files.open("changelog.md", "w") as file:
    file.write((ROOT / "CHANGELOG.md").read_text())
