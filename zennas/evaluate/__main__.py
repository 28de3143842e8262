"""The command `evaluate`: python -m zennas.evaluate --model M --set S, the same as: zennas evaluate ..."""

from zennas import commands

main = commands.command("zennas.evaluate")

if __name__ == "__main__":
    main()
