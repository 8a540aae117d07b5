"""A field of a request: one description, for the check, the documents and the schemas."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from request.errors import Problem
from request.values import problem_of, shown


def field(
    default: Any,
    meaning: str,
    allowed: str,
    *,
    unset: str = "",
    openai: str = "",
    jobs_only: bool = False,
    **bounds: Any,
) -> Any:
    """A field. `meaning` is its text in docs/api.md, `unset` the default shown there if `default`
    is not it. `allowed` is for error messages. `openai` is OpenAI's name of the field. A field that
    is `jobs_only` is unknown over HTTP and to the bridge."""
    notes: dict[str, Any] = {
        "meaning": meaning,
        "unset": unset,
        "openai": openai,
        "jobs_only": jobs_only,
        "bounds": bounds,
    }
    return Field(default, description=allowed, json_schema_extra=notes, **bounds)


def numeric(
    default: Any, meaning: str, kind: str, least: float, most: float, end: str = "", **more: Any
) -> Any:
    allowed = f"{kind} from {least} to {most}{end}"
    return field(default, meaning, allowed, ge=least, le=most, **more)


def flag(meaning: str, **more: Any) -> Any:
    return field(False, meaning, "true or false", **more)


def notes_in(model: type[BaseModel], name: str) -> Mapping[str, Any]:
    """The arguments that `field` got for a field: meaning, unset, openai, jobs_only, bounds."""
    notes = model.model_fields[name].json_schema_extra
    assert isinstance(notes, dict)  # noqa: S101 - for the type checker
    return notes


def known_fields(
    raw: Mapping[Any, Any],
    model: type[BaseModel],
    aliases: Mapping[str, str],
    null_counts: frozenset[str] = frozenset(),
) -> tuple[dict[str, Any], list[str]]:
    """The known fields by our names, and warnings on unknown and doubled ones."""
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    warnings: list[str] = []
    for given, value in raw.items():
        name = aliases.get(given, given)
        if name not in model.model_fields:
            warnings.append(f"{shown(given)}: unknown field, ignored")
        elif value is None and name not in null_counts:
            continue
        elif name in fields:
            first, second = (names[name], given) if names[name] == name else (given, names[name])
            if fields[name] != value:
                warnings.append(f"{second}: ignored, since {first} is given too")
            if given == name:
                fields[name], names[name] = value, given
        else:
            fields[name], names[name] = value, given
    if len(warnings) > 20:
        warnings[20:] = [f"and {len(warnings) - 20} more unknown fields, ignored"]
    return fields, warnings


def problems_of(
    error: ValidationError, fields: Mapping[str, Any], allowed_in: Callable[[str], str]
) -> list[Problem]:
    """Pydantic's errors as problems, one for each field, in the order of the fields."""
    found = {str(item["loc"][0]): item for item in reversed(error.errors(include_url=False))}
    return [
        Problem(name, *problem_of(item, fields.get(name)), allowed_in(name))
        for name, item in reversed(found.items())
    ]
