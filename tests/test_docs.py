"""The pages under docs/ say what is so: links lead somewhere, functions and settings exist, the list of settings is the program's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from chatwright.recipe import Recipe, settings_table
from chatwright.setting_list import list_settings

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def links(page):
    """(text, target) of each link, as written."""
    return [(found["text"].replace("\n", " "), found["target"]) for found in LINK.finditer(page.read_text())]


def defined(file):
    """The names a Python file defines: functions, classes, methods, constants and fields."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_to_a_file_leads_to_one(page):
    for text, target in links(page):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: [{text}]({target})"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_function_that_a_link_names_is_in_that_file(page):
    for text, target in links(page):
        if target.endswith(".py") and text.startswith("`"):
            file = page.parent / target
            module, _, name = text.strip("`()").rpartition(".")
            assert name in defined(file), f"{page.name}: {text} is not in {target}"
            assert module in ("", file.stem), f"{page.name}: {text} is not in a module of that name"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_setting_that_a_page_names_exists(page):
    keys = {setting.key for setting in list_settings(Recipe)}
    sections = "|".join(key for key in keys if "." not in key)
    for named in re.findall(rf"`((?:{sections})\.[a-z_.]+)(?:[:=][^`]*)?`", page.read_text()):
        assert named in keys or named.endswith((".py", ".run", ".json", ".jsonl", ".html", ".yaml")), f"{page.name}: {named}"


def test_the_page_of_settings_is_up_to_date():
    assert (DOCS / "settings.md").read_text() == settings_table(), "write it anew: chatwright schema --markdown > docs/settings.md"


def test_the_details_are_numbered_in_order_and_each_says_where_it_comes_from():
    text = (DOCS / "method.md").read_text()
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \*\*", text, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(int(number) in numbers for number in re.findall(r"detail (\d+)", text))


def test_no_line_of_a_page_is_too_long():
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), start=1):
            assert len(line) <= 140 or line.startswith("|"), f"{page.name} line {number}"
