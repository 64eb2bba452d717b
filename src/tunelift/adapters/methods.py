"""What is known of a PEFT method: what peft is asked to make, what training does beside, and what is true of it.

`rows.py` has a row for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.registry import Registry

Defaults = Mapping[str, Any] | Callable[[Any, int, int], Mapping[str, Any]]
"""Keys of peft's config, or a function that makes them of the base model, the training rows and the steps (numbers)."""


def trains_biases(config: Any) -> bool:
    """Tell whether an adapter of this config trains biases of the base (LoRA's `bias`, which others have too)."""
    return bool(getattr(config, "bias", "none") != "none")


@dataclass(frozen=True, slots=True)
class Method:
    """One PEFT method: the config's class is the one that peft has for `peft_type`.

    `title` is how its name is written. `defaults` are ours where they differ from peft's; the user's keys come first.
    `learning_rate` is taken where the user set none, and under a head `learning_rate_for_head` where there is one: a
    head begins at random, and small rates leave it there. None is the rate of the config's schema.

    Training calls two hooks, with peft's model around the base: `after_step(model, step)`, from step 1 on, when the
    parameters are moved and their gradients still there, and `further_loss(model)`, a scalar Tensor (nats) that is
    added to the mean loss of each step. Two more are for what it knows beside its parameters: `kept(model)`, tensors by
    name that a checkpoint holds too, and `put_back(model, tensors)` in a training that goes on from there.
    `after_training(model)` is called once the parameters are the last or the best ones. `needs` are keys that the user
    must set, each with what it is; `tried_with` are values of them for a tiny model.

    What is true of it: `trains_base(config)` tells whether parameters of the base are trained, which switching off does
    not bring back. `begins_as_noop`, `switches_off` (to the base, bit for bit), `merges` (into the base's weights) and
    `stands_beside` (another adapter of its kind on the same model) say what holds. `virtual_tokens` says that tokens
    are put before each row. `begins_at_random` are parts of tensors' names: such a tensor is never all zero; so are
    `never_trained`: peft trains them all the same where it casts them to fp32, and saves none of it.
    `known_failures` are checks of the battery that it fails, by name, each with the reason.

    A `whole` one trains the model's own weights, all that transformers leaves trainable; nothing of peft is put on, and
    it has no `peft_type`. `needs_head` says that it is for tasks whose models have a head of their own. `takes` are the
    keys that the user may set, where not all of the config's do something; None: all. `reads_weights` says that it
    computes with the numbers of the layers that it changes, which it cannot where a base is held in few bits.
    """

    peft_type: str
    title: str = ""
    defaults: Defaults = field(default_factory=dict)
    learning_rate: float | None = None
    learning_rate_for_head: float | None = None
    after_step: Callable[[Any, int], None] | None = None
    further_loss: Callable[[Any], Any] | None = None
    kept: Callable[[Any], Mapping[str, Any]] | None = None
    put_back: Callable[[Any, Mapping[str, Any]], None] | None = None
    after_training: Callable[[Any], None] | None = None
    needs: Mapping[str, str] = field(default_factory=dict)
    tried_with: Mapping[str, Any] = field(default_factory=dict)
    trains_base: Callable[[Any], bool] = trains_biases
    begins_as_noop: bool = True
    switches_off: bool = True
    merges: bool = True
    stands_beside: bool = True
    virtual_tokens: bool = False
    whole: bool = False
    needs_head: bool = False
    takes: tuple[str, ...] | None = None
    begins_at_random: tuple[str, ...] = ()
    never_trained: tuple[str, ...] = ()
    reads_weights: bool = True
    known_failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_class(self) -> Any:
        """Return peft's own config class, found by its type; raise InputError where the installed peft has none."""
        import peft  # which fills the table
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        by_type: Mapping[str, Any] = PEFT_TYPE_TO_CONFIG_MAPPING  # whose keys are texts too
        if self.peft_type not in by_type:
            raise InputError(
                f"peft {peft.__version__} has no {self.title or self.peft_type}.", fix="Install a later one."
            )
        return by_type[self.peft_type]

    def rate_for(self, *, has_head: bool) -> float | None:
        """Return the peak learning rate for models with a head of their own, or without; None: the schema's."""
        return (self.learning_rate_for_head if has_head else None) or self.learning_rate

    def keys_for(self, model: Any, rows: int, steps: int) -> Mapping[str, Any]:
        """Return the keys of peft's config where ours differ, for a base model that is trained so long."""
        return self.defaults(model, rows, steps) if callable(self.defaults) else self.defaults


METHODS: Registry[Method] = Registry("PEFT method")
REFUSED: dict[str, tuple[str, str]] = {}
"""Methods of peft that cannot be right here, by peft's own names: how each is written, and why it cannot be."""


def method_of(config: Any) -> Method:
    """Return the row for a ready config of peft, or None; where no row has its type, what peft itself says of it.

    Of several rows of one type the first is taken.
    """
    peft_type = getattr(config, "peft_type", "")
    if name := name_of(peft_type):
        return METHODS.get(name)
    return Method(str(peft_type), virtual_tokens=bool(getattr(config, "is_prompt_learning", False)))


def name_of(peft_type: str) -> str | None:
    """Return the name of the first row of peft's type, None where there is none."""
    return next((name for name in METHODS if METHODS.get(name).peft_type == peft_type), None)


def refused(name: str) -> str | None:
    """Return why a method of peft, by the name that a row would have, is not trained here; None where it may be."""
    if name in METHODS:
        return None
    found = REFUSED.get(name.upper().replace("-", "_"))
    return f"{found[0]} is refused, as it is in peft 0.21.2: {found[1]}." if found else None


def trains_whole(name: str) -> bool:
    """Tell whether a method of this name trains all of the model's own weights; one that no row has does not."""
    return name in METHODS and METHODS.get(name).whole


def trains_head_alone(name: str) -> bool:
    """Tell whether a method of this name trains a task's head and nothing else; one that no row has does not."""
    return name in METHODS and METHODS.get(name).needs_head


def title_of(name: str) -> str:
    """Return how a method's name is written; the name itself where no row has it, as in files made elsewhere."""
    return (METHODS.get(name).title or name) if name in METHODS else name
