"""``python -m everlearn.cli``: the command line, for torchrun and the like."""

from everlearn.cli.main import run

if __name__ == "__main__":
    run()
