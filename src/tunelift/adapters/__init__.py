"""PEFT methods: build, save, load, switch off."""

from tunelift.adapters import rows  # noqa: F401  which fills the table of methods
