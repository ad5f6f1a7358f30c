"""Run the command line; kept bare, because whatever a worker's parent imports here it would import again."""

from __future__ import annotations


def main() -> None:
    """Run `packbench`."""
    from packbench.cli import main as run

    run()


if __name__ == "__main__":
    main()
