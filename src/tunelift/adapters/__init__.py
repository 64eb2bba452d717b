"""PEFT methods: build, save, load, switch off."""
