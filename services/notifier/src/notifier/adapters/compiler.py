"""Templates on disk become functions, once, at start: MJML to HTML, sentences to one language.

One environment per language and format. `{% trans %}` blocks are resolved while a template is
parsed, so a compiled template holds its language's sentences as constants and a render does nothing
but fill in values.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import InternationalizationExtension
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What `escape` does in C, without wrapping every result in a `Markup`: a sixth of the cost.
from markupsafe import _escape_inner, escape  # type: ignore[attr-defined]  # no public name
from mjml import mjml2html

from notifier.languages import load
from shared.errors import GiveUp
from shared.languages import CODES, Language

FOLDER = Path(__file__).parent.parent / "templates"
Fill = Callable[[dict[str, Any]], str]

_INCLUDE = re.compile(r"\{% include \"([\w/]+\.\w+)\" %\}(\n?)")
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_NOWRAP_MAX = 28  # longer would push a 360 px screen sideways; such a value may break anywhere
# An attribute value that begins with a placeholder instead of a quote can be broken out of.
_UNQUOTED = re.compile(r"<[^>]*\s[\w:-]+\s*=\s*(?:\{\{|\{%|[^\s\"'>{])")
_BREAKABLE = re.compile(r"(?=<(?:tr|td|table|h[12]|p|style|body)\b|<!--\[if mso \|)")
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)


class _Fold(InternationalizationExtension):
    """`{% trans %}` resolved at parse time; every sentence met is noted in `seen`."""

    identifier = "fold"

    def _make_node(  # type: ignore[override]
        self,
        singular: str,
        plural: str | None,
        context: str | None,
        variables: dict[str, nodes.Expr],
        plural_expr: nodes.Expr | None,
        vars_referenced: bool,  # noqa: ARG002, FBT001
        num_called_num: bool,  # noqa: ARG002, FBT001
    ) -> nodes.Node:
        language: Language = self.environment.globals["language"]  # type: ignore[assignment]
        seen: set[tuple[str, str | None]] = self.environment.globals["seen"]  # type: ignore[assignment]
        singular = singular.replace("%%", "%")
        if plural is None or plural_expr is None:
            seen.add((singular, None))
            return self._output(language.text(singular, context), variables)
        plural = plural.replace("%%", "%")
        seen.add((singular, plural))
        outputs = [self._output(form, variables) for form in language.plurals(singular, plural)]
        form = nodes.Filter(plural_expr, "plural_form", [], [], None, None)
        node: nodes.Node = outputs.pop()
        while outputs:
            test = nodes.Compare(form, [nodes.Operand("eq", nodes.Const(len(outputs) - 1))])
            node = nodes.If(test, [outputs.pop()], [], [node])
        return node

    def _output(self, sentence: str, variables: dict[str, nodes.Expr]) -> nodes.Output:
        pieces: list[nodes.Expr] = []
        for index, piece in enumerate(_PLACEHOLDER.split(sentence)):
            if index % 2:
                pieces.append(variables[piece])
            elif piece:
                html = self.environment.autoescape
                pieces.append(nodes.TemplateData(str(escape(piece)) if html else piece))
        return nodes.Output(pieces)


class Compiled:
    """One message kind in one language: three functions from values to text."""

    __slots__ = ("html", "language", "subject", "text")

    def __init__(self, kind: str, language: Language, seen: set[tuple[str, str | None]]) -> None:
        folder = FOLDER / kind
        plain = _environment(language, seen, html=False)
        self.language = language
        self.subject = _compile(plain, _read(folder / "subject.txt"))
        self.text = _compile(plain, _read(folder / "body.txt"))
        self.html = _compile(_environment(language, seen, html=True), mjml(folder / "body.mjml"))


def kinds() -> tuple[str, ...]:
    """Return every message kind that has a folder of templates."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/subject.txt")))


@cache  # a second of work, and nothing in it changes while a process lives
def compile_all() -> tuple[Mapping[tuple[str, str], Compiled], frozenset[tuple[str, str | None]]]:
    """Compile every kind in every language; also returns each (singular, plural) they use.

    Raises `GiveUp` naming the file when a template cannot be used.
    """
    seen: set[tuple[str, str | None]] = set()
    compiled = {
        (kind, code): Compiled(kind, load(code), seen) for kind in kinds() for code in CODES
    }
    return compiled, frozenset(seen)


def mjml(path: Path) -> str:
    """Return the Jinja source of one MJML file, its `mj-include`s resolved beside the kinds."""
    source = _read(path)
    try:
        # One blank is as good as many between words, and every byte is sent a million times.
        html = mjml2html(source, include_loader=lambda name: _read(FOLDER / name))
    except ValueError as error:
        raise GiveUp(f"{path.name}: {error}") from error
    # Between tags a line end shows nowhere, and SMTP wants lines under 1,000 octets.
    lines = re.sub(r"\s*\n\s*", "\n", _BREAKABLE.sub("\n", html))
    return lines.replace("\n.", " .")  # SMTP would have to double such a dot in every message


def lint(source: str) -> Iterator[str]:
    """Name what makes template source unsafe: an attribute value without quotes around it."""
    flat = _JINJA.sub(lambda found: "{{}}" if found[0].startswith("{{") else "", source)
    for found in _UNQUOTED.finditer(re.sub(r"\"[^\"]*\"|'[^']*'", '""', flat)):
        yield f"unquoted attribute: {found[0][-60:]}"


class _Safe(str):
    """HTML made here: the one kind of value that is not escaped. Cheaper to make than `Markup`."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def _escape(value: object) -> str:
    if type(value) is str:
        return _escape_inner(value)
    return value if type(value) is _Safe else _escape_inner(str(value))


def nowrap(value: str) -> str:
    """Keep an order number or a date on one line."""
    if len(value) > _NOWRAP_MAX:
        return value
    return _Safe(f'<span style="white-space:nowrap">{_escape_inner(value)}</span>')


def _read(path: Path) -> str:
    """Return a template's source; `{% include "name" %}` stands for the file of that name, whole.

    Within a line it stands for the file without its last line end.
    """

    def included(found: re.Match[str]) -> str:
        source = _read(FOLDER / found[1])
        return source if found[2] else source.rstrip("\n")

    source = _INCLUDE.sub(included, path.read_text(encoding="utf-8"))
    for fault in lint(source) if path.suffix == ".mjml" else ():
        raise GiveUp(f"{path.name}: {fault}")
    return source


def _environment(
    language: Language, seen: set[tuple[str, str | None]], *, html: bool
) -> Environment:
    # Values are plain strings, numbers and tuples, so the sandbox has nothing to look up at render.
    environment = ImmutableSandboxedEnvironment(
        autoescape=html,
        undefined=StrictUndefined,
        extensions=[_Fold],
        trim_blocks=not html,
        lstrip_blocks=not html,
        keep_trailing_newline=False,
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.globals.update(language=language, seen=seen)
    environment.filters["plural_form"] = language.plural_form
    environment.filters["nowrap"] = nowrap if html else str
    return environment


def _compile(environment: Environment, source: str) -> Fill:
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        raise GiveUp(f"template line {error.lineno}: {error.message}") from error
    _merge_outputs(tree)
    code = environment.compile(tree, "message")
    template = environment.template_class.from_code(environment, code, {})
    root, context_class = template.root_render_func, environment.context_class
    # Autoescaping as compiled in, by a function that does not wrap every value in Markup.
    root.__globals__["escape"] = _escape
    blocks, join = template.blocks, "".join

    def fill(values: dict[str, Any]) -> str:
        # Template.render() without its copying of the values and its traceback rewriting. Names
        # are looked up by the dictionary itself: one that is missing is a fault wherever it stands.
        context = context_class(environment, values, "message", blocks)
        context.resolve_or_missing = values.__getitem__  # type: ignore[assignment]  # per render
        return join(root(context))

    return fill


def _merge_outputs(node: nodes.Node) -> None:
    # A folded sentence between two pieces of markup becomes one constant with them.
    for child in node.iter_child_nodes():
        _merge_outputs(child)
    for name in ("body", "else_"):
        body = getattr(node, name, None)
        if not isinstance(body, list):
            continue
        merged: list[nodes.Node] = []
        for child in body:
            if merged and isinstance(child, nodes.Output) and isinstance(merged[-1], nodes.Output):
                merged[-1].nodes.extend(child.nodes)
            else:
                merged.append(child)
        setattr(node, name, merged)
