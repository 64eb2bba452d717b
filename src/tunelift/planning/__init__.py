"""What a run will take, before it begins: bytes by part, seconds by stage, and settings that fit."""
