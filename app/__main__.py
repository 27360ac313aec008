"""``python -m app``: the same as ``psma-node``."""

from app.cli import main

if __name__ == "__main__":
    main()
