"""The templates of pages, and how numbers are written in them and on the terminal."""

from functools import cache
from typing import Any


@cache
def template(name: str, package: str = "bertcnn.inference") -> Any:
    """Return a template of a package, which escapes what it is given."""
    import jinja2  # here: who only predicts draws nothing

    engine = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    engine.filters["signed"] = signed
    engine.filters["sure"] = sure
    engine.filters["percent"] = percent
    return engine.get_template(name)


def sure(probability: float) -> str:
    """Return a probability in percent; never as if nothing else were possible, which no model can say.

    >>> sure(0.8294), sure(0.99996), sure(0.0)
    ('82.9 %', 'over 99.9 %', 'under 0.1 %')
    """
    if probability >= 0.9995:
        return "over 99.9 %"
    return f"{100 * probability:.1f} %" if probability >= 0.0005 else "under 0.1 %"


def signed(value: float) -> str:
    """Return a number with its sign, a true minus; plain 0 where it rounds to that.

    >>> signed(-0.5), signed(0.001)
    ('\u22120.50', '0.00')
    """
    rounded = round(value, 2)
    if rounded == 0:
        return "0.00"
    return f"{'+' if rounded > 0 else chr(0x2212)}{abs(rounded):.2f}"


def percent(share: float) -> str:
    """Return a share in percent.

    >>> percent(0.829)
    '83 %'
    """
    return f"{100 * share:.0f} %"
