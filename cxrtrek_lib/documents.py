"""Templates of the study's pages and cards: a name without a value is an error, HTML is escaped."""

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from cxrtrek_lib import paths


def template(name: str) -> Template:
    """A template of cxrtrek_lib/templates/; Markdown is left as it is. Raises jinja2.TemplateNotFound."""
    environment = Environment(
        loader=FileSystemLoader(paths.TEMPLATES),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
