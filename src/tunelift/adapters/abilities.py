"""What each PEFT method can do: the record of it, and what the table of methods says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunelift.adapters.methods import METHODS, REFUSED
from tunelift.config.schema import TrainSection


@dataclass(frozen=True, slots=True)
class Ability:
    """What a method does; None where nobody looked.

    `verdict` is "right", "refused" or "wrong", each but the first with its `reason`; without a model it is "trained" or
    "refused". `needs` says of keys that must be set what they are. `trainable` of `total` numbers are trained on the
    model's own shapes, None where peft makes them of the weights.
    """

    method: str
    title: str
    verdict: str
    reason: str = ""
    needs: tuple[str, ...] = ()
    learning_rate: float | None = None
    learning_rate_for_head: float | None = None
    begins_as_base: bool | None = None
    switches_off: bool | None = None
    trains: bool | None = None
    loads_with_peft: bool | None = None
    merges: bool | None = None
    stands_beside: bool | None = None
    trainable: int | None = None
    total: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def recorded(names: Sequence[str] = ()) -> list[Ability]:
    """Return what the records say of every method, or of those named; raise InputError for a name that is none."""
    found = []
    for name in names or METHODS:
        if (why := refused_by_name(name)) is not None:
            found.append(why)
            continue
        method = METHODS.get(name)
        says: dict[str, Any] = (
            {}
            if method.whole
            else {  # nothing is put on that could be switched off or merged
                **{"begins_as_base": method.begins_as_noop, "switches_off": method.switches_off},
                **{"merges": method.merges, "stands_beside": method.stands_beside},
            }
        )
        found.append(of_row(name, "trained", **says))
    return found + ([] if names else refused_everywhere())


def of_row(name: str, verdict: str, reason: str = "", **says: Any) -> Ability:
    """Return what is said of a method that has a row."""
    method = METHODS.get(name)
    needs = tuple(f"{key}: {what}" for key, what in method.needs.items())
    rate = method.learning_rate or TrainSection.model_fields["learning_rate"].default
    rates = rate, method.learning_rate_for_head
    return Ability(name, method.title or name, verdict, reason, needs, *rates, **says)


def refused_by_name(name: str) -> Ability | None:
    """Return why a method of peft is refused whatever the model, None for any other name."""
    return next((one for one in refused_everywhere() if one.method == name), None)


def refused_everywhere() -> list[Ability]:
    """Return the methods of peft that are refused whatever the model."""
    named = sorted(REFUSED.items())
    return [Ability(peft_type.lower().replace("_", "-"), title, "refused", why) for peft_type, (title, why) in named]
