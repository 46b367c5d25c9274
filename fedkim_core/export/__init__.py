"""Export: a task of a finished run as a plain PEFT adapter or model folder, without fedkim.

For a fixed task and set of modalities the gate is a constant (FedKIM, section 3.3: it reads the
two descriptions and nothing else), so it is multiplied into the adapter. ``load.py`` travels with
every export and is the only code of this package that runs there.
"""
