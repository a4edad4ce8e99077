"""Options: dataclass fields that know their limits, checked in one place; and flags of them."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable


def option(default, help, *, choices=None, at_least=None, above=None, below=None, same_run=False):
    """A field: `same_run` marks what may change when a run is resumed."""
    limits = {"choices": choices, "at_least": at_least, "above": above, "below": below}
    return dataclasses.field(
        default=default, metadata={"help": help, "same_run": same_run, **limits}
    )


def type_of(field: dataclasses.Field) -> type:
    """int for `int | None`, and so on."""
    if isinstance(field.type, types.UnionType):
        return next(t for t in typing.get_args(field.type) if t is not types.NoneType)
    assert isinstance(field.type, type)
    return field.type


def check_choices(name: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises ValueError, in a sentence, where some of what was given is not allowed."""
    if unknown := set(given) - set(allowed):
        raise ValueError(
            f"{name} had {', '.join(sorted(unknown))}; allowed are {', '.join(allowed)}"
        )


def check_option(field: dataclasses.Field, value) -> None:
    """Raises ValueError, in a sentence, for a value that is not allowed."""
    limits = field.metadata
    if value is None and field.default is None:
        return
    kind = type_of(field)
    of_kind = isinstance(value, (int, float) if kind is float else kind)
    if isinstance(value, bool) or not of_kind:
        raise ValueError(f"{field.name} was {value!r}; allowed is a value of type {kind.__name__}")
    if limits["choices"] is not None and value not in limits["choices"]:
        raise ValueError(f"{field.name} was {value!r}; allowed are {', '.join(limits['choices'])}")
    at_least, above, below = limits["at_least"], limits["above"], limits["below"]
    if at_least is not None and not value >= at_least:
        raise ValueError(f"{field.name} was {value}; allowed is {at_least} or more")
    if above is not None and not above < value < float("inf"):
        raise ValueError(f"{field.name} was {value}; allowed is a finite value above {above}")
    if below is not None and not value < below:
        raise ValueError(f"{field.name} was {value}; allowed is a value below {below}")


def define_flags(of: type, flag_values, **defaults) -> None:
    """Defines one absl flag for each field of a dataclass; `defaults` replace the fields' own."""
    from absl import flags

    flags.disclaim_key_flags()
    for field in dataclasses.fields(of):
        default = defaults.get(field.name, field.default)
        kind, text = type_of(field), field.metadata["help"]
        arguments = {"name": field.name, "default": default, "help": text}
        if field.metadata["choices"] is not None:
            flags.DEFINE_enum(
                **arguments, enum_values=list(field.metadata["choices"]), flag_values=flag_values
            )
        else:
            define: dict[type, Callable[..., object]] = {
                int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string
            }  # fmt: skip
            define[kind](**arguments, flag_values=flag_values)


def from_flags(of: type, flag_values):
    """The dataclass that the parsed flags describe; raises ValueError as it does."""
    return of(**{field.name: getattr(flag_values, field.name) for field in dataclasses.fields(of)})
