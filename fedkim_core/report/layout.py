"""What every page has: how it begins, its words, and that it is written whole or not at all."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from fedkim_core.errors import UserError
from fedkim_core.report import words
from fedkim_core.report.style import STYLE

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>{{ title }}{{ " (synthetic data)" if synthetic }}</title>
<style>{{ style }}</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
{% if synthetic %}
<div class="banner" role="note"><p><b>Synthetic data.</b> Every patient behind this page was
simulated. The numbers show that the method works end to end; they say nothing about real
patients.</p></div>
{% endif %}
"""

FOOT = "</main>\n</body>\n</html>\n"


def render(template: str, *, title: str, synthetic: bool, **values: Any) -> str:
    """A page as HTML. Every string that is no markup is escaped.

    Args:
        template: what stands between :data:`HEAD` and :data:`FOOT`.
        title: of the window.
        synthetic: whether the banner says so.
        values: what the template shows.
    """
    page = _compiled(template)
    return page.render(style=Markup(STYLE), title=title, synthetic=synthetic, **values)


@cache
def _compiled(template: str) -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        spaced=words.spaced,
        number=words.number,
        interval=words.interval,
        amount=words.amount,
        duration=words.duration,
        parameters=words.parameters,
        plural=words.plural,
        signed=words.signed,
        p_value=words.p_value,
        control_of=lambda name, task: task.control(name),
    )
    return environment.from_string(HEAD + template + FOOT)


def write(page: str, folder: Path) -> Path:
    """Write ``report.html``.

    Raises:
        UserError: it cannot be written.
    """
    path = folder / "report.html"
    partial = path.with_suffix(".html.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    return path
