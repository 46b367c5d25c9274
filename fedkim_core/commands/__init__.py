"""The commands of ``fedkim``, a file per kind. Every import that costs time waits until it runs."""
