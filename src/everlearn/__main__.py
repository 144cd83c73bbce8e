"""``python -m everlearn``: the command ``everlearn``, as torchrun starts it."""

from everlearn.cli.main import run

if __name__ == "__main__":
    run()
