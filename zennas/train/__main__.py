"""The command `train`: python -m zennas.train --track T --winner W --data D --out O, the same as: zennas train ..."""

from zennas import commands

command = commands.command("zennas.train")


def main(arguments: list[str] | None = None, prog_name: str | None = None) -> None:
    """The command, whose process ends at once where it is one of several ranks."""
    try:
        command(arguments, prog_name)
    except SystemExit as ended:
        from zennas.ranks import leave

        leave(ended.code)


if __name__ == "__main__":
    main()
