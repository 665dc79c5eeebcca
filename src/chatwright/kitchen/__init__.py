"""The embedded world: dishes, requests, base text, demonstrations, a base model, and a gold preference that is a program."""
