"""The command `search`: python -m zennas.search --track webface-sfr, the same as: zennas search --track webface-sfr."""

from zennas import commands

main = commands.command("zennas.search")

if __name__ == "__main__":
    main()
